"""Where is ticket X? `relay events` finds it, shows its life, and changes many at once."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from relay.cli import main as cli
from relay.cli.events import commands, options, shown
from relay.events import Transport
from relay.journal import search
from relay.journal.rows.lives import Life
from tests.unit.test_search import NOW, TICKET, TOPIC, fill, old

__all__ = ["old"]
LIFE = Life(
    seq=1,
    app="default",
    event_id="e-1",
    event_type="a.b",
    transport=Transport.WEBHOOK,
    received_at=NOW,
    outcome="published",
    reason=None,
    settled_at=NOW + 1500,
    size=10,
    replayed=False,
    stored_at=NOW + 4,
    claimed_at=NOW + 304,
    ticket=TICKET,
    message_id="om_1",
    topic=TOPIC,
    partition=3,
    offset=41,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "journal.db"
    asyncio.run(fill(place))
    return place


def run(path: Path, *arguments: str, typed: str | None = None) -> Result:
    command = ["events", *arguments, "--journal", str(path)]
    return CliRunner().invoke(cli.app, command, input=typed)


def listed(path: Path, *arguments: str) -> list[str]:
    done = run(path, "list", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return [json.loads(line)["event_id"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--ticket", TICKET], "9753"),
        (["--ticket", TICKET, "--outcome", "published"], "73"),
        (["--message", "om_6"], "6"),
        (["--type", "im.message.receive_v1"], "83"),
        (["--app", "second", "--outcome", "pending"], "8"),
        (["--transport", "long_connection"], "94"),
        (["--reason", "too_large"], "2"),
        (["--since", "2026-01-02T03:04:05.686Z"], "98"),
        (["--until", "2026-01-02T11:04:05.680+08:00"], "10"),
        (["--since", "2026-01-03"], ""),
        (["--since", "1m"], ""),
        (["--limit", "3"], "987"),
        (["--limit", "3", "--before", "8"], "654"),
    ],
)
def test_list_is_narrowed(path: Path, arguments: list[str], names: str) -> None:
    assert listed(path, *arguments) == [f"e-{name}" for name in names]


@pytest.mark.parametrize("text", ["", "yesterday", "2", "2w", "2026-13-01", "h", "1" * 10 + "s"])
def test_time_that_is_none_is_refused(path: Path, text: str) -> None:
    done = run(path, "list", "--since", text)
    assert done.exit_code == 2
    assert "neither 2h" in " ".join(done.output.replace("│", "").split())


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30s", 30), ("5m", 300), ("2h", 7200), ("3d", 259_200)]
)
def test_time_may_be_so_long_ago(text: str, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000)
    assert options.moment(text) == (1_000_000 - seconds) * 1000


def test_rest_is_offered(path: Path) -> None:
    """On standard error: the lines are for programs too."""
    assert "there may be more: --before 8 goes on" in run(path, "list", "--limit", "3").stderr
    assert run(path, "list").stderr == ""
    assert "no such events" in run(path, "list", "--ticket", "nothing").stdout


def test_person_waits_no_longer_than_a_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program gets all that there is."""
    monkeypatch.setattr(search, "FIRST_SLICE", 2)
    monkeypatch.setattr(search, "SECONDS", -1)
    assert listed(path, "--reason", "too_large") == ["e-2"]
    monkeypatch.setattr(commands, "seen", lambda: True)
    done = run(path, "list", "--reason", "too_large")
    assert "looked back to 2026-01-02 03:04:05: --before 9 goes on from there" in done.stderr


def test_wide_list_has_a_line_for_each() -> None:
    """What does not fit is cut at the end, never in a place or an id."""
    [head, line] = shown.lines([LIFE], None)
    assert head.split() == ["received", "event", "id", "outcome", "ticket", "where", "type", "app"]
    assert line.split() == [
        *("2026-01-02", "03:04:05", "e-1", "published", TICKET),
        *(f"{TOPIC}/3@41", "a.b", "default"),
    ]
    cut = list(shown.lines([replace(LIFE, event_type="x" * 200)], 130))
    assert [len(one) for one in cut] == [130, 130]
    assert f"{TOPIC}/3@41" in cut[1]


def test_narrow_list_has_two(path: Path) -> None:
    del path
    pending = replace(LIFE, outcome="pending", topic=None, ticket=None, reason="too_large")
    assert list(shown.lines([LIFE, pending], 80)) == [
        f"2026-01-02 03:04:05  published           ticket {TICKET}",
        f"  e-1  {TOPIC}/3@41",
        "2026-01-02 03:04:05  pending: too_large",
        "  e-1  a.b",
    ]


def test_life_is_told_step_by_step() -> None:
    assert list(shown.life_lines(LIFE, "r-1")) == [
        "e-1  a.b  app default",
        f"ticket {TICKET}  message om_1",
        "",
        "2026-01-02 03:04:05.678             received     by webhook, replica r-1",
        "2026-01-02 03:04:05.682      +4 ms  on disk",
        "2026-01-02 03:04:05.982    +300 ms  claimed",
        f"2026-01-02 03:04:07.178     +1.2 s  published    {TOPIC}/3@41",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offset": None, "partition": None}, "a crash has cost Kafka's answer"),
        ({"topic": None}, "an earlier version of relay has settled it"),
        ({"outcome": "dead_letter", "reason": "too_large"}, f"too_large; {TOPIC}/3@41"),
        ({"outcome": "duplicate", "reason": "other_replica"}, "another replica had claimed it"),
        ({"outcome": "duplicate", "reason": "exported"}, "handed over"),
        ({"outcome": "withheld"}, "for no topic"),
        ({"outcome": "pending", "settled_at": None}, "it waits for"),
        ({"outcome": "pending", "settled_at": None, "reason": "refused"}, "has refused its record"),
    ],
)
def test_end_says_why(changes: dict[str, Any], said: str) -> None:
    *_, end = shown.life_lines(replace(LIFE, **changes), "r-1")
    assert said in end


def test_what_is_not_known_is_said_to_be_so() -> None:
    bare = replace(LIFE, event_type="", stored_at=None, claimed_at=None, ticket=None, replayed=True)
    told = list(shown.life_lines(replace(bare, message_id=None), "r-1"))
    assert told[0] == "e-1  (no type)  app default"
    assert told[2].endswith("replica r-1; replayed")
    assert told[3] == f"-{'':33}  on disk      (the time is not noted)"
    assert "+1.5 s" in told[4]


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (0, "0 ms"),
        (-7, "-7 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (119_900, "119.9 s"),
        (120_000, "2 min"),
        (7_199_000, "120 min"),
        (7_200_000, "2 h"),
        (172_799_000, "48 h"),
        (172_800_000, "2 d"),
    ],
)
def test_time_is_said_as_a_person_does(milliseconds: int, said: str) -> None:
    assert shown._span(milliseconds) == said


def test_show_is_a_life_and_a_body(path: Path) -> None:
    done = run(path, "show", "e-3")
    assert f"{TOPIC}/3@43" in done.stdout
    assert '"ticket_id"' in done.stdout
    told = json.loads(run(path, "show", "e-3", "--json").stdout)
    assert (told["partition"], told["offset"], told["ticket"]) == (3, 43, TICKET)
    assert told["settled_at"] == "2026-01-02T03:04:05.778Z"
    assert told["stored_at"] is None
    assert told["body"]["event"]["ticket"]["ticket_id"] == TICKET


def test_what_an_earlier_version_has_settled_is_shown(old: Path) -> None:
    assert "an earlier version of relay has settled it" in run(old, "show", "e-3").stdout


def test_many_are_replayed_by_what_they_have_in_common(path: Path) -> None:
    """What is pending is not counted, what has no body any more is left, and said."""
    assert run(path, "erase", "e-7").exit_code == 0
    done = run(path, "replay", "--type", "helpdesk.ticket_message.created_v1", "--yes")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "6 events: pending again; a running relay publishes them, behind all others",
    )
    assert "1 left as they are: each has no body any more" in done.stdout
    assert listed(path, "--outcome", "published", "--outcome", "published") == ["e-7", "e-3"]


def test_many_are_discarded(path: Path) -> None:
    """Of what is narrowed so, the dead letters only."""
    done = run(path, "discard", "--app", "default", "--yes", "--json")
    assert json.loads(done.stdout) == {"done": 2, "left": {}}
    assert listed(path, "--reason", "discarded") == ["e-2", "e-1"]
    assert json.loads(run(path, "replay", "e-0", "--json").stdout) == {"done": 1, "left": {}}


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_nobody_to_ask_is_a_refusal(path: Path, command: str) -> None:
    done = run(path, command, "--outcome", "dead_letter")
    assert done.exit_code == 2
    counted = f"2 events to {command}: 1 dead_letter too_large, 1 dead_letter no_event_type"
    assert counted in done.stderr
    assert f"--yes {command}s them" in done.stderr
    assert listed(path, "--outcome", "dead_letter") == ["e-2", "e-1"]
    assert listed(path, "--reason", "discarded") == []


@pytest.mark.parametrize(("typed", "code", "left"), [("n\n", 1, 2), ("y\n", 0, 0)])
def test_count_is_confirmed(
    path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, left: int
) -> None:
    monkeypatch.setattr(commands, "asks", lambda: True)
    done = run(path, "replay", "--outcome", "dead_letter", typed=typed)
    assert done.exit_code == code
    assert "Replay 2 events?" in done.stdout
    assert len(listed(path, "--outcome", "dead_letter")) == left


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["discard"],
        ["replay", "e-1", "--ticket", TICKET],
        ["replay", "--outcome", "pending", "--yes"],
    ],
)
def test_what_would_be_guessed_is_refused(path: Path, arguments: list[str]) -> None:
    assert run(path, *arguments).exit_code == 2
    assert listed(path, "--outcome", "pending") == ["e-9", "e-8"]


def test_nothing_to_change_is_said(path: Path) -> None:
    done = run(path, "replay", "--ticket", "nothing")
    assert (done.exit_code, done.stdout) == (0, "The journal has no such events.\n")


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--ticket", "\udcff"],
        ["list", "--message", "a\udcff"],
        ["list", "--type", "\udcff"],
        ["list", "--app", "\udcff"],
        ["list", "--reason", "\udcff"],
        ["list", "--limit", "9" * 20],
        ["list", "--before", "9" * 20],
        ["show", "\udcff"],
        ["show", "e-1", "--app", "\udcff"],
        ["replay", "\udcff"],
        ["replay", "--ticket", "\udcff", "--yes"],
        ["discard", "\udcff"],
        ["erase", "\udcff"],
    ],
    ids="_".join,
)
def test_word_that_nothing_can_be_called_is_a_mistake(
    path: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Bytes that are no UTF-8, as a terminal of another encoding sends; numbers of no journal."""
    monkeypatch.setattr("sys.argv", ["relay", "events", *words, "--journal", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", "").split())
    assert "not UTF-8" in said or "less than or equal to" in said
