"""What drives a terminal reaches none, and no header: whoever wrote it."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from relay.cli import main as cli
from relay.cli.check import Finding, settled, show
from relay.contract import exactjson
from relay.contract.normalize import Router, dead_letter, normalize
from relay.contract.printable import escaped, header, printable, segment
from relay.errors import JournalError
from relay.events import Callback, DeadLetterReason, StoredEvent, Transport
from relay.observe import logs
from relay.tail import Seen, as_line, render
from tests.fakes import as_json, event, journal_at, payload

#: C0, DEL, C1, and what turns the direction of writing.
CONTROLS = [*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
HOSTILE = "".join(map(chr, CONTROLS))
SAMPLES = [
    "\x1b[2J",
    "\x9b31m",
    "\x00",
    "\x07",
    "a\rb",
    "a\nb",
    "\x7f",
    "\u202egnp",
    "\u2066x",
    "\x85",
]


def clean(text: str) -> bool:
    """Nothing of it is in a text but the ends of lines."""
    return not set(text) & (set(HOSTILE) - {"\n"})


@pytest.mark.parametrize("char", [chr(code) for code in CONTROLS])
def test_each_control_character_is_held_back(char: str) -> None:
    assert printable(f"a{char}b") == "a b"
    assert char not in escaped(f'"{char}"') or char == "\n"
    assert json.loads(escaped(json.dumps(f"a{char}b", ensure_ascii=False))) == f"a{char}b"
    assert header(f"a{char}b").decode().isprintable()
    assert header(f"a{char}b").startswith(b"a%")


@pytest.mark.parametrize("text", ["", "plain", "你好", "100%", "a b", "😭", "e\u0301", "a%0Ab"])
def test_everything_else_stays(text: str) -> None:
    assert printable(text) == escaped(text) == text
    assert header(text) == text.encode()


@pytest.mark.parametrize("text", ["\ufffe", "\uffff", "\ufdd0"])
def test_header_has_no_noncharacters(text: str) -> None:
    """CloudEvents does not take them."""
    assert header(text).isascii()


@pytest.mark.parametrize(
    ("text", "made"),
    [(".", ""), ("..", ""), ("...", "..."), (".a", ".a"), ("../x", "..%2Fx"), ("a\n", "a%0A")],
)
def test_segment_leads_nowhere(text: str, made: str) -> None:
    assert segment(text) == made


def stored(event_id: str, event_type: str, origin: str, app: str = "default") -> StoredEvent:
    body = {
        "schema": "2.0",
        "header": {
            "event_id": event_id,
            "event_type": event_type,
            "tenant_key": origin,
            "app_id": origin,
        },
        "event": {"ticket_id": origin, "ticket": {"ticket_id": origin}, "text": HOSTILE},
    }
    return StoredEvent(
        seq=1,
        app=app,
        transport=Transport.WEBHOOK,
        received_at=1_767_323_045_678,
        event_id=event_id,
        event_type=event_type,
        body=json.dumps(body).encode(),
    )


@pytest.mark.parametrize("text", [*SAMPLES, HOSTILE, "."])
@pytest.mark.parametrize("event_type", ["helpdesk.ticket.created_v1", "odd"])
def test_no_header_has_a_control_character(text: str, event_type: str) -> None:
    """The value keeps the text as it came."""
    name = event_type if event_type != "odd" else f"odd{text}"
    record = normalize(stored(f"e{text}", name, text), Router("", {}))
    for key, value in record.headers:
        assert value.decode().isprintable(), key
    value = exactjson.loads(record.value or b"")
    assert (value["event"]["id"], value["ticket_id"]) == (f"e{text}", text)
    assert value["data"]["text"] == HOSTILE


@pytest.mark.parametrize("text", SAMPLES)
def test_no_header_of_a_dead_letter_has_one(text: str) -> None:
    letter = dead_letter(
        stored("e", "odd", "t", app=text), Router("", {}), DeadLetterReason.INTERNAL_ERROR
    )
    for key, value in letter.headers:
        assert value.decode().isprintable(), key


@pytest.mark.parametrize("origin", [".", "..", "../..", "/", "\\..", "%2e%2e"])
def test_source_has_three_segments_whatever_the_tenant(origin: str) -> None:
    record = normalize(stored("e", "odd", origin), Router("", {}))
    source = dict(record.headers)["ce_source"].decode()
    _, feishu, *rest = source.split("/")
    assert (feishu, len(rest)) == ("feishu", 2)
    assert not {".", ".."} & set(rest)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal in which everything that a stranger can write is hostile."""
    place = tmp_path / "journal.db"

    async def fill() -> None:
        async with journal_at(place) as journal:
            for number, text in enumerate([HOSTILE, *SAMPLES]):
                await journal.add(
                    Callback(
                        app=f"app{text}",
                        transport=Transport.WEBHOOK,
                        received_at=number,
                        event_id=f"e-{number}{text}",
                        event_type=f"type{text}",
                        body=as_json(payload(f"e-{number}") | {"text": text}),
                    )
                )

    asyncio.run(fill())
    return place


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"]])
def test_list_of_events_drives_no_terminal(arguments: list[str], path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["events", *arguments, "--journal", str(path)])
    assert done.exit_code == 0, done.output
    assert clean(done.output)
    if "--json" in arguments:
        lines = [json.loads(line) for line in done.output.splitlines()]
        assert lines[-1]["event_id"] == f"e-0{HOSTILE}"
        assert len(lines) == 1 + len(SAMPLES)


def test_table_shows_what_looks_like_markup(tmp_path: Path) -> None:
    """It is no style of ours, and no mistake."""
    place = tmp_path / "journal.db"

    async def fill() -> None:
        async with journal_at(place) as journal:
            for name in ("[red]e-1", "[/nothing]e-2"):
                await journal.add(replace(event(name), event_type=name))

    asyncio.run(fill())
    done = CliRunner().invoke(cli.app, ["events", "list", "--journal", str(place)])
    assert done.exit_code == 0, done.output
    assert done.output.count("[red]e-1") == done.output.count("[/nothing]e-2") == 2


@pytest.mark.parametrize("number", range(1, 1 + len(SAMPLES)))
@pytest.mark.parametrize(
    "more", [["show"], ["show", "--record", "--json"], ["replay"], ["discard"]]
)
def test_command_about_an_event_drives_no_terminal(
    number: int,
    more: list[str],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither by its result nor by its complaint."""
    event_id = f"e-{number}{SAMPLES[number - 1]}"
    arguments = ["relay", "events", *more, "--journal", str(path), event_id]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said, complaint = capsys.readouterr()
    assert clean(said)
    assert clean(complaint)
    if more[0] == "show":
        assert not ended.value.code
    if more[-1] == "--json":
        json.loads(said)


def test_what_is_wrong_is_said_without_driving_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line stays one, as settings' mistakes have it."""

    def fail(**_: object) -> None:
        raise JournalError(f"one\ntwo{HOSTILE.replace(chr(10), '')}")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert clean(said)
    assert len(said.splitlines()) == 3
    assert said.splitlines()[2].startswith("Next: ")


def test_findings_of_a_check_drive_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """They hold what a server said."""

    async def findings() -> AsyncIterator[Finding]:
        said = f"Kafka says {HOSTILE}"
        yield Finding(subject="kafka", passed=False, sentence=said, code="c", advice=HOSTILE)

    assert not asyncio.run(settled(findings, 0, show))
    assert clean(capsys.readouterr().out)


@pytest.mark.parametrize("text", [*SAMPLES, HOSTILE])
def test_record_drives_no_terminal(text: str) -> None:
    record = Seen(
        topic="t",
        partition=0,
        offset=0,
        timestamp=0,
        key=text.encode(),
        value=json.dumps({"data": {}, "event": {"type": text}, "ticket_id": text}).encode(),
        headers=(("ce_id", text.encode()),),
    )
    for line in (as_line(record), render(record).plain):
        assert line.isprintable()


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", [*SAMPLES, HOSTILE])
def test_log_drives_no_terminal(form: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is often a peer's own words; the colours are relay's."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure(form=form)
    structlog.get_logger().warning("kafka_unavailable", error=text)
    line = stream.getvalue()
    assert "kafka_unavailable" in line
    if form == "json":
        assert json.loads(line)["error"] == text
        assert clean(line)
    else:
        assert text not in line
