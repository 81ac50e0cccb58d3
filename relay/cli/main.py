"""The command line: reads arguments and settings, calls the part that does the work."""

import os
import signal

if os.getpid() == 1:
    # In a container: the kernel keeps from PID 1 a signal that it has no handler for. Any other
    # process SIGTERM ends by itself. Before the other imports, which take half a second.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

import asyncio
import math
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from relay import __version__
from relay.cli import claims as cli_claims
from relay.cli import config as cli_config
from relay.cli import feishu as cli_feishu
from relay.cli import schema as cli_schema
from relay.cli.events import commands as cli_events
from relay.cli.events.options import ConfigOption, JsonOption, searching
from relay.cli.remedies import of, run
from relay.cli.say import (
    FAILED,
    MISUSED,
    complain,
    console,
    document,
    replace_what_no_terminal_shows,
    say,
)
from relay.errors import JournalError, RelayError, SettingsError
from relay.events import DeadLetterReason
from relay.journal import view as journalview

if TYPE_CHECKING:
    from relay.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    epilog="Example: relay dev shows all of it at work; relay init begins a configuration.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(cli_events.app, name="events")
app.add_typer(cli_claims.app, name="claims")
app.add_typer(cli_schema.app, name="schema")
app.add_typer(cli_config.app, name="config")

#: What a shell sets to ask for words.
_COMPLETE = "_RELAY_COMPLETE"
#: Seconds between two looks at what is left to drain.
DRAIN_LOOK = 0.2


def main() -> None:
    """Run a command; an error that was foreseen is one message, never a traceback."""
    replace_what_no_terminal_shows()
    if _COMPLETE in os.environ:
        # Registers the shells.
        get_completion_inspect_parameters()
    try:
        app(prog_name="relay")
    except (RelayError, OSError) as error:
        remedy = of(error)
        complain(_message(error), advice=f"{remedy.advice} ({remedy.place})")
        sys.exit(_exit_code(error))


def _message(error: RelayError | OSError) -> str:
    if isinstance(error, SettingsError):
        return "the configuration is not usable:\n" + _indent(str(error))
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return str(error)


def _exit_code(error: RelayError | OSError) -> int:
    if isinstance(error, SettingsError):
        return MISUSED
    return error.exit_code if isinstance(error, RelayError) else FAILED


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as the option's callback is called
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def relay(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Feishu helpdesk events, once and in order, on Kafka."""


@app.command(epilog="Example: relay serve --config /etc/relay/relay.toml")
def serve(config: ConfigOption = None) -> None:
    """Take Feishu's events and publish them to Kafka, until SIGTERM."""
    from relay import settings
    from relay.observe import logs

    loaded = settings.load(config)
    logs.configure(loaded.log.level, loaded.log.format)
    run(_serve(loaded))


async def _serve(loaded: "Settings") -> None:
    from relay.app import Relay

    stop = asyncio.Event()
    _stop_on_signals(stop)
    await Relay(loaded).run(stop)


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first signal drains; the second ends the process at once, which the journal survives."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(FAILED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _time(text: str, option: str) -> float:
    """Read a length of time as settings have it, or a number of seconds."""
    from relay.settings import values

    try:
        found = float(values.seconds(text))  # type: ignore[arg-type]  # a text or a number
    except ValueError:
        found = math.inf
    if not 0 <= found < math.inf:
        message = "must be a length of time, as 60s, 5m or 300"
        raise typer.BadParameter(message, param_hint=option)
    return found


@app.command(epilog="Example: relay drain --journal /mnt/old-replica/journal.db --timeout 5m")
def drain(
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Then what is left stays on disk: 5m, 300.")
    ] = "5m",
    journal: Annotated[
        Path | None, typer.Option(help="A journal file; without it, the settings name one.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Publish what a stopped replica's journal holds, and take nothing; exit 1 if some is left.

    A dead letter that only this journal has is left, too. SIGTERM ends it as a crash would.
    """
    from relay import settings
    from relay.observe import logs

    within = _time(timeout, "--timeout")
    loaded = settings.load(config).at(journal)
    if journal and not journal.exists():
        raise JournalError(f"{journal}: there is no such journal")
    logs.configure(loaded.log.level, loaded.log.format)
    path = loaded.journal.path
    left = run(_drain(loaded, within))
    with searching() as progress, journalview.opened(path, progress) as view:
        alone = () if loaded.kafka.dead_letter_value else tuple(DeadLetterReason)
        undecided = view.undecided(alone or journalview.UNDECIDED)
    if as_json:
        document({"journal": str(path), "left": left, "undecided": undecided})
        raise typer.Exit(FAILED if left or undecided else 0)
    if left:
        say(f"{path}: {left:,} events left")
    if undecided:
        say(
            f"{path}: {undecided:,} dead letters that only this journal has; replay or discard"
            f" each: relay events list --journal {path} --outcome dead_letter"
        )
    if left or undecided:
        raise typer.Exit(FAILED)
    say("Nothing is left.")


async def _drain(loaded: "Settings", timeout: float) -> int:  # noqa: ASYNC109 - a bound
    """Show how many are pending while the journal is emptied."""
    from rich.console import Console
    from rich.progress import Progress

    from relay.app import Relay

    relay = Relay(loaded)
    draining = asyncio.create_task(relay.drain(timeout))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("publishing", total=None)
        while not draining.done():
            await asyncio.wait({draining}, timeout=DRAIN_LOOK)
            account = relay.metrics.account()
            done = account.received - account.pending
            progress.update(task, total=account.received or None, completed=done)
    return await draining


@app.command(epilog="Example: relay check --wait 60s")
def check(
    wait: Annotated[
        str,
        typer.Option(metavar="TIME", help="Look again until all will do, at most so long: 60s."),
    ] = "0s",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Look at settings, journal, Kafka and topics; exit 1 if something will not do."""
    from relay import settings
    from relay.cli.check import failed, findings, settled, show
    from relay.observe import logs

    within = _time(wait, "--wait")
    tell = (lambda finding: document(finding.document())) if as_json else show
    try:
        loaded = settings.load(config)
    except SettingsError as error:
        if not as_json:
            raise
        tell(failed("settings", error))
        raise typer.Exit(MISUSED) from None
    logs.configure(level="error")
    if not run(settled(lambda: findings(loaded), within, tell)):
        raise typer.Exit(FAILED)


@app.command(epilog="Example: relay dev --rate 20 --long-connection")
def dev(
    rate: Annotated[float, typer.Option(help="Requests per second; 0: as fast as answered.")] = 3,
    repeat: Annotated[float, typer.Option(help="Share of events sent twice.")] = 0.1,
    hostile: Annotated[float, typer.Option(help="Share of requests to be refused.")] = 0.1,
    tickets: Annotated[int, typer.Option(help="Tickets open at a time.")] = 8,
    seed: Annotated[int | None, typer.Option(help="Repeat an earlier run.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds; 0: until Ctrl-C.")] = 0,
    long_connection: Annotated[
        bool, typer.Option("--long-connection", help="Half of the events come that way.")
    ] = False,
) -> None:
    """Run everything on this machine: embedded broker, relay, simulator and a live view."""
    from relay.dev.run import DevOptions
    from relay.dev.run import run as play

    options = DevOptions(
        rate=rate,
        repeat=repeat,
        hostile=hostile,
        tickets=tickets,
        seed=seed,
        duration=duration,
        long_connection=long_connection,
    )
    raise typer.Exit(run(play(options)))


@app.command(epilog="Example: relay tail --from-beginning --topic feishu.helpdesk.ticket")
def tail(
    config: ConfigOption = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="A topic's full name; repeatable. Default: all.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show what consumers of the topics see, live."""
    from relay import settings
    from relay.contract.normalize import Router
    from relay.egress.kafka.client import client_options
    from relay.tail import follow, show

    kafka = settings.load(config).kafka
    topics = topic or Router(*kafka.routes).topics
    records = follow(client_options(kafka), topics, from_beginning=from_beginning)
    run(show(console(), records, prefix=kafka.topic_prefix, as_json=as_json))


@app.command(epilog="Example: relay version --json")
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    if as_json:
        document({"version": __version__})
    else:
        say(__version__)


class Shell(StrEnum):
    """What words are completed in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(epilog="Example: relay completion fish > ~/.config/fish/completions/relay.fish")
def completion(
    shell: Annotated[Shell, typer.Argument(help="For which shell.")],
) -> None:
    """Print what lets a shell complete commands, options and values; source it, or install it."""
    get_completion_inspect_parameters()
    shell_complete(typer.main.get_command(app), {}, "relay", _COMPLETE, f"source_{shell}")


_OTHERS: dict[Callable[..., None], str] = {
    cli_config.init: "relay init relay.toml",
    cli_feishu.simulate: "relay simulate --count 300 --rate 100 --hostile 0.15",
    cli_feishu.subscribe: "relay subscribe --event helpdesk.ticket.created_v1",
    cli_feishu.unsubscribe: "relay unsubscribe --app hr-desk",
    cli_feishu.subscriptions: "relay subscriptions --json",
    cli_feishu.backfill: "relay backfill --since 2026-11-20T08:00 --until 2026-11-20T20:00",
}
for command, example in _OTHERS.items():
    app.command(epilog=f"Example: {example}")(command)
