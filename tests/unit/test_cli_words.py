"""The command line's words: help, examples, near misses, completion, and what it loads."""

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from relay import __version__
from relay.cli import main as cli
from relay.cli.events import commands as events
from relay.cli.say import unknown
from tests.unit.test_docs import OPERATIONS, commands

COMMANDS = commands()
SHELLS = ("bash", "zsh", "fish")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_option_and_argument_has_help(words: str) -> None:
    command = COMMANDS[words]
    assert command.help
    without = [one.name for one in command.params if not getattr(one, "help", "")]
    assert without == []
    assert command.help.partition("\n\n")[0].endswith(".")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_an_example_that_can_be_typed(words: str) -> None:
    """It is parsed, and shown by `--help` in one line."""
    (example,) = re.findall(r"^Example: relay (.+)$", COMMANDS[words].epilog)
    parts = shlex.split(example.partition(" > ")[0])
    names = words.split()
    assert parts[: len(names)] == names
    COMMANDS[words].make_context(names[-1], parts[len(names) :]).close()
    assert f"relay {example}"[:40] in run(*names, "--help").output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("chek", "'check'"),
        ("sever", "'serve'"),
        ("backfil --since 2026-11-20", "'backfill'"),
        ("events lst", "'list'"),
        ("events replya e-1", "'replay'"),
        ("config shw", "'show'"),
        ("check --wiat 5s", "--wait"),
        ("check --jsn", "--json"),
        ("serve --cofnig x", "--config"),
        ("schema regster", "register"),
        ("schema helpdesk.ticket.create_v1", "helpdesk.ticket.created_v1"),
    ],
)
def test_word_that_is_nearly_one_gets_the_right_one_proposed(typed: str, meant: str) -> None:
    refused = run(*typed.split())
    assert refused.exit_code == 2
    assert meant in refused.output


def test_thing_that_is_not_there_is_named_with_those_that_are() -> None:
    assert unknown("deflt", ["default", "hr"]) == (
        "there is no 'deflt'. Did you mean default? There are: default, hr"
    )
    assert unknown("x", ["default"]) == "there is no 'x'. There are: default"


def test_version_is_told_in_three_ways() -> None:
    assert run("--version").output == run("version").output == f"{__version__}\n"
    assert json.loads(run("version", "--json").output) == {"version": __version__}
    assert "`relay --version`" in OPERATIONS


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    script = run("completion", shell).output
    assert "relay" in script
    assert f"_RELAY_COMPLETE=complete_{shell}" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def completed(
    shell: str, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Do what the script of a shell does for the last word of a line."""
    words = {
        "_RELAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["relay"])
    with pytest.raises(SystemExit):
        cli.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("relay ev", ["events"]),
        ("relay events l", ["list"]),
        ("relay check --w", ["--wait"]),
        ("relay events list --outcome p", ["pending", "published"]),
        ("relay completion ", list(SHELLS)),
        ("relay schema print helpdesk.n", ["helpdesk.notification.approve_v1"]),
        ("relay subscribe --event helpdesk.ticket_", ["helpdesk.ticket_message.created_v1"]),
    ],
)
def test_words_are_completed(
    shell: str,
    typed: str,
    offered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = completed(shell, typed, monkeypatch, capsys)
    assert all(word in said for word in offered), said
    assert "drain" not in said


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["completion", "bash"]])
def test_what_is_not_used_is_not_loaded(arguments: list[str]) -> None:
    """A command starts as quickly as it can: the shell waits for it at each completion."""
    code = (
        f"import sys; sys.argv = {['relay', *arguments]!r}\n"
        "from relay.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'aiohttp', 'aiokafka', 'uvloop', 'relay.settings', 'prometheus_client'}\n"
        "print('loaded', sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded []\n")


def test_help_is_of_one_width() -> None:
    """No line of an option's help is cut, on a narrow terminal and on a wide one."""
    for width in ("80", "160"):
        for words in COMMANDS:
            shown = CliRunner(env={"COLUMNS": width, "TERMINAL_WIDTH": width}).invoke(
                cli.app, [*words.split(), "--help"]
            )
            assert "…" not in shown.output, words
            assert max(map(len, shown.output.splitlines())) <= int(width)


def test_group_without_a_command_is_its_help() -> None:
    for words, command in {"": cli.app, "events": events.app}.items():
        assert typer.main.get_command(command).no_args_is_help, words
