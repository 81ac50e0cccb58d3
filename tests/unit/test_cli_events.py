"""`relay events` in this process: what an operator sees of a journal, and does to it."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli import main as cli
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import file
from relay.journal import view as journalview
from tests.fakes import as_json, event, journal_at, payload


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with an event of each ending."""
    place = tmp_path / "journal.db"

    async def fill() -> None:
        async with journal_at(place) as journal:
            for name in ("published", "letter", "large", "pending"):
                await journal.add(event(name, as_json(payload(name, token="a-token"))))
            await journal.settle(
                [
                    Settlement(seq=1, outcome=Outcome.PUBLISHED),
                    Settlement(
                        seq=2, outcome=Outcome.DEAD_LETTER, reason=DeadLetterReason.NO_EVENT_TYPE
                    ),
                    Settlement(
                        seq=3, outcome=Outcome.DEAD_LETTER, reason=DeadLetterReason.TOO_LARGE
                    ),
                ],
                1_767_323_045_678,
            )

    asyncio.run(fill())
    return place


def run(path: Path, *arguments: str) -> str:
    """Run a command on the journal; give what it printed."""
    done = CliRunner().invoke(cli.app, ["events", *arguments, "--journal", str(path)])
    assert done.exit_code == 0, done.output
    return done.stdout


def failure(path: Path, *arguments: str) -> str:
    """Run a command that must fail; give why."""
    done = CliRunner().invoke(cli.app, ["events", *arguments, "--journal", str(path)])
    assert done.exit_code == 1
    return str(done.exception)


def listed(path: Path, *arguments: str) -> dict[str, str]:
    lines = run(path, "list", "--json", *arguments).splitlines()
    return {one["event_id"]: one["outcome"] for one in map(json.loads, lines)}


def test_list_shows_the_latest_first(path: Path) -> None:
    table = run(path, "list")
    places = [table.index(name) for name in ("pending", "large", "letter", "published")]
    assert sorted(places) == places
    assert "dead_letter: too_large" in table


def test_list_can_be_narrowed(path: Path) -> None:
    assert list(listed(path)) == ["pending", "large", "letter", "published"]
    assert list(listed(path, "--limit", "2")) == ["pending", "large"]
    assert listed(path, "--outcome", "pending") == {"pending": "pending"}
    assert set(listed(path, "--outcome", "dead_letter")) == {"letter", "large"}
    assert "no such events" in run(path, "list", "--outcome", "duplicate")


def test_show_hides_the_token(path: Path) -> None:
    assert "a-token" not in run(path, "show", "published")
    shown = run(path, "show", "published", "--json")
    assert "a-token" not in shown
    assert json.loads(shown)["body"]["header"]["token"] == "(hidden)"
    assert json.loads(shown)["settled_at"] == "2026-01-02T03:04:05.678Z"
    assert "你好" in shown


def test_show_gives_the_record(path: Path) -> None:
    record = json.loads(run(path, "show", "--json", "published", "--record"))["record"]
    assert record["topic"] == "feishu.helpdesk.ticket_message"
    assert record["headers"]["ce_id"] == "published"
    assert record["value"]["ticket_id"] == "77"


def test_replay_makes_an_event_pending_again(path: Path) -> None:
    said = run(path, "replay", "published", "letter")
    assert "published: pending again" in said
    outcomes = listed(path)
    assert (outcomes["published"], outcomes["letter"]) == ("pending", "pending")


def test_discard_lets_go_of_what_is_kept(path: Path) -> None:
    assert "goes when the dedupe window has passed" in run(path, "discard", "large")
    assert "dead_letter: discarded" in run(path, "list")


def test_what_cannot_be_done_is_said(path: Path) -> None:
    assert "has no event nothing" in failure(path, "show", "nothing")
    assert "has no event nothing" in failure(path, "replay", "nothing")
    assert "still pending" in failure(path, "replay", "pending")
    assert "is no dead letter" in failure(path, "discard", "published")
    assert "cannot be read" in failure(path.with_name("none.db"), "list")


@pytest.mark.parametrize("event_id", ["published", "letter", "large"])
def test_body_that_is_erased_is_nowhere(path: Path, event_id: str) -> None:
    """Of what is settled, however it ended; the id stays, and a repeat is a duplicate."""
    erased = f'"event_id":"{event_id}"'.encode()
    assert erased in path.read_bytes()
    assert "has no body any more" in run(path, "erase", event_id)
    assert json.loads(run(path, "show", "--json", event_id))["body"] is None
    assert "let go of the body" in failure(path, "replay", event_id)
    assert not [one for one in path.parent.glob(f"{path.name}*") if erased in one.read_bytes()]

    async def repeated() -> Outcome:
        async with journal_at(path) as journal:
            return await journal.add(event(event_id))

    assert asyncio.run(repeated()) is Outcome.DUPLICATE


def test_erasing_a_dead_letter_decides_on_it(path: Path) -> None:
    """A drain does not wait for what is not there."""
    with journalview.opened(path) as view:
        assert view.undecided() == 1
        for event_id in ("large", "published"):
            view.erase(event_id)
        assert view.undecided() == 0
        assert view.find("large")[0].reason == "discarded"
        assert view.find("published")[0].reason is None


def test_pending_event_is_not_erased(path: Path) -> None:
    """Nothing else has it."""
    assert "still pending" in failure(path, "erase", "pending")
    assert json.loads(run(path, "show", "--json", "pending"))["body"]


def test_body_that_a_full_journal_let_go_is_not_replayed(path: Path) -> None:
    connection = file.connect(path)
    connection.execute("UPDATE events SET body = x'' WHERE event_id = 'published'")
    connection.close()
    assert "let go of the body" in failure(path, "replay", "published")
    assert json.loads(run(path, "show", "--json", "published"))["body"] is None


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "euc-kr"])
@pytest.mark.parametrize(
    "command", [["list"], ["list", "--json"], ["show", "名"], ["show", "名", "--json"]]
)
def test_terminal_of_any_encoding_is_no_error(
    path: Path, encoding: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot write is replaced; JSON is whole in each."""
    body = {"text": "你好 \U0001f600 \xe9 \u0153"}
    connection = file.connect(path)
    sql = "UPDATE events SET event_id = ?, body = ? WHERE event_id = 'published'"
    connection.execute(sql, ("名", json.dumps(body).encode()))
    connection.close()
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr("sys.argv", ["relay", "events", *command, "--journal", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    assert not ended.value.code
    shown = written.getvalue().decode(encoding)
    if command == ["list", "--json"]:
        assert "名" in [json.loads(line)["event_id"] for line in shown.splitlines()]
    elif command[-1] == "--json":
        assert json.loads(shown)["body"] == body


@pytest.mark.parametrize("depth", [300, 960, 985, 1000, 1018])
def test_body_of_any_depth_is_shown(path: Path, depth: int) -> None:
    """As text where it cannot be written as JSON; no token either way."""
    deep = b'{"header":{"token": "a-token","x":' + b"[" * depth + b"1" + b"]" * depth + b"}}"
    connection = file.connect(path)
    connection.execute("UPDATE events SET body = ? WHERE event_id = 'published'", (deep,))
    connection.close()
    shown = run(path, "show", "published", "--record")
    assert "[[[[" in "".join(shown.split())
    assert "a-token" not in shown
    assert "(hidden)" in shown


@pytest.mark.parametrize(
    "body",
    [
        b'{"token":"a-token",',
        b'{"header": {"token" :\n"a-token", "n": 1e999}}',
        b'\xff{"token":"a-token"}',
    ],
)
def test_text_that_is_no_json_shows_no_token(path: Path, body: bytes) -> None:
    connection = file.connect(path)
    connection.execute("UPDATE events SET body = ? WHERE event_id = 'letter'", (body,))
    connection.close()
    shown = run(path, "show", "letter", "--record")
    assert "a-token" not in shown
    assert "(hidden)" in shown


def test_body_that_is_no_json_is_shown_as_text(path: Path) -> None:
    connection = file.connect(path)
    connection.execute("UPDATE events SET body = x'ff41' WHERE event_id = 'published'")
    connection.close()
    shown = json.loads(run(path, "show", "--json", "published", "--record"))
    assert shown["body"] == "\ufffdA"
    assert shown["record"]["headers"]["relay_reason"] == "not_json"
    assert shown["record"]["value"] == "\ufffdA"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["version"], 0, ""),
        (["serve"], 2, "the configuration is not usable"),
        (["check"], 2, "kafka"),
        (["events", "list", "--journal", "/nowhere/at/all.db"], 1, "cannot be read"),
        (["simulate", "--count", "1", "--encrypt-key", "k\udcff"], 2, "is not UTF-8"),
        (["claims", "gone", "\udcff"], 2, "is not UTF-8"),
    ],
)
def test_errors_are_one_message_and_a_code(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Never a traceback."""
    monkeypatch.setattr("sys.argv", ["relay", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code or 0) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_backup_is_a_journal(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert run(path, "backup", str(copy)) == f"{copy}: 4 events\n"
    assert listed(copy) == listed(path)
    assert "is there already" in failure(path, "backup", str(copy))
