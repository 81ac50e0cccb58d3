"""What the journal notes of an event that ends: where it lies, what it is about, its times."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.contract.normalize import Router
from relay.errors import KafkaUnavailableError, RejectedError
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import file, handover
from relay.journal import view as journalview
from relay.journal import writer as journalwriter
from relay.journal.journal import Journal
from relay.journal.rows import lives
from relay.journal.rows.lives import Lives, packed
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, as_json, event, journal_at, payload, until
from tests.unit.test_dispatcher import dispatching, drained
from tests.unit.test_dispatcher_claims import MemoryClaims, replica

TOPIC = "feishu.helpdesk.ticket_message"
NOW = 1_767_323_045_678
_ROWS = (
    'SELECT event_id, topic, "partition", "offset", ticket, message_id, kinds.outcome, kinds.reason'
    " FROM lives JOIN kinds USING (kind) JOIN events USING (seq) ORDER BY seq"
)


def rows(path: Path, sql: str = _ROWS) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def message(event_id: str, ticket: object, message_id: str | None = None) -> bytes:
    content = {"ticket": {"ticket_id": ticket}, "message_id": message_id}
    return as_json(payload(event_id, event=content))


async def settled(journal: Journal, *ends: Settlement) -> None:
    for one in ends:
        await journal.add(event(f"e-{one.seq}"))
    await journal.settle(ends, NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def test_place_of_a_record_is_in_the_commit_of_its_settling(path: Path) -> None:
    """With its ticket, its message, and of a dead letter as much as can be known."""
    kafka, metrics = MemoryKafka(max_bytes=2000), Metrics()
    async with journal_at(path, metrics) as journal:
        await journal.add(event("a", message("a", "6626871355780366331", "om_1")))
        await journal.add(event("b", message("b", 42)))
        await journal.add(event("c", as_json(payload("c", event={"text": "of no ticket"}))))
        await journal.add(event("d", b"[]", dead_letter=DeadLetterReason.NOT_AN_OBJECT))
        await journal.add(event("e", message("e", "77", "x" * 3000)))
        async with dispatching(journal, kafka, metrics, Router("feishu.", {})):
            await until(lambda: drained(metrics))
    letters = "feishu.dead_letter"
    assert rows(path) == [
        ("a", TOPIC, 0, 0, 6626871355780366331, "om_1", "published", None),
        ("b", TOPIC, 0, 1, 42, None, "published", None),
        ("c", TOPIC, 0, 2, None, None, "published", None),
        ("d", letters, 0, 3, None, None, "dead_letter", "not_an_object"),
        ("e", letters, 0, 4, 77, None, "dead_letter", "too_large"),
    ]


async def test_times_are_noted(path: Path) -> None:
    """When it was on disk, as long as that is in memory."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await journal.add(event("before"))
        await until(lambda: drained(metrics))
        await journal.add(event("now", received_at=NOW))
        await until(lambda: drained(metrics))
    found = rows(path, "SELECT received_at, stored_after, claimed_after FROM lives ORDER BY seq")
    assert [received for received, *_ in found] == [NOW, NOW]
    assert found[1][1] > 0
    assert [claimed for *_, claimed in found] == [None, None]


async def test_what_kafka_had_already_lies_nobody_knows_where(path: Path) -> None:
    """The answer to the commit was lost, and the offsets with it."""
    kafka, metrics = MemoryKafka(after_commit=[KafkaUnavailableError("no answer")]), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await journal.add(event("a"))
        await until(lambda: drained(metrics))
    assert rows(path) == [("a", TOPIC, None, None, 77, None, "published", None)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, None),
        ("", ""),
        ("0", "0"),
        ("7", 7),
        ("007", "007"),
        ("+7", "+7"),
        ("-7", "-7"),
        (" 7", " 7"),
        ("7.0", "7.0"),
        ("1e3", "1e3"),
        ("٣", "٣"),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("1" * 20, "1" * 20),
        ("客" * 200, "客" * 128),
        ("a\x00b", "a\x00b"),
    ],
)
def test_id_is_kept_as_what_it_is(path: Path, text: str | None, kept: object) -> None:
    """A number only where its text is the only one for it."""
    assert packed(text) == kept
    file.prepare(path)
    with closing(file.connect(path)) as connection:
        sql = "INSERT INTO lives (seq, kind, received_at, ticket) VALUES (1, 1, 1, ?)"
        connection.execute(sql, (packed(text),))
        (found,) = connection.execute("SELECT ticket FROM lives").fetchone()
    assert (found, type(found)) == (kept, type(kept))


async def test_type_of_further_kinds_is_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer can make up as many as he likes, and as long ones."""
    monkeypatch.setattr(lives, "MOST_KINDS", 3)
    types = [f"made.up_{n}" for n in range(6)] + ["x" * 300]
    file.prepare(path)
    with closing(file.connect(path)) as connection:
        for name in types:
            connection.execute(
                "INSERT INTO events (app, event_id, event_type, transport, received_at, body)"
                " VALUES ('default', ?, ?, 'webhook', 1, x'')",
                (name, name),
            )
        ends = [Settlement(seq=n, outcome=Outcome.PUBLISHED) for n in range(1, 8)]
        for one in ends:
            Lives().write(connection, [one])
    kinds = rows(path, "SELECT event_type FROM kinds ORDER BY kind")
    assert kinds == [("made.up_0",), ("made.up_1",), ("made.up_2",), (None,)]
    kept = rows(path, "SELECT event_type FROM lives JOIN kinds USING (kind) ORDER BY seq")
    assert kept == [*kinds, (None,), (None,), (None,)]


async def test_kind_of_a_commit_that_failed_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Settlement(seq=1, outcome=Outcome.PUBLISHED, topic=TOPIC)
    async with journal_at(path) as journal:
        for seq in (1, 2, 3):
            await journal.add(event(f"e-{seq}"))
        transaction = file.transaction

        def failing(connection: sqlite3.Connection, work: Callable[[], Any]) -> Any:
            def both() -> None:
                work()
                raise sqlite3.OperationalError("disk I/O error")

            return transaction(connection, both)

        monkeypatch.setattr(file, "transaction", failing)
        with pytest.raises(RejectedError):
            await journal.settle([end], NOW)
        monkeypatch.setattr(file, "transaction", transaction)
        for seq in (1, 2, 3):
            await journal.settle([Settlement(seq=seq, outcome=end.outcome, topic=TOPIC)], NOW)
    assert [(topic, outcome) for _, topic, *_, outcome, _ in rows(path)] == [
        (TOPIC, "published")
    ] * 3
    assert len(rows(path, "SELECT * FROM kinds")) == 1


async def test_settled_a_second_time_stays_as_it_was(path: Path) -> None:
    async with journal_at(path) as journal:
        await settled(journal, Settlement(seq=1, outcome=Outcome.PUBLISHED, topic=TOPIC))
        await journal.settle([Settlement(seq=1, outcome=Outcome.DUPLICATE)], NOW + 1)
    assert rows(path) == [("e-1", TOPIC, None, None, None, None, "published", None)]


async def test_what_is_replayed_begins_anew(path: Path) -> None:
    async with journal_at(path) as journal:
        await settled(journal, Settlement(seq=1, outcome=Outcome.PUBLISHED, topic=TOPIC))
        with journalview.opened(path) as view:
            view.replay("e-1")
    assert rows(path, "SELECT * FROM lives") == []


async def test_decision_and_erasure_are_noted(path: Path) -> None:
    """A key can be a person's id: it goes with the body. Where the record lies stays known."""
    letter, reason = Outcome.DEAD_LETTER, DeadLetterReason.INTERNAL_ERROR
    async with journal_at(path) as journal:
        for n in (1, 2, 3):
            await journal.add(event(f"e-{n}"))
        await journal.settle(
            [
                Settlement(seq=1, outcome=letter, reason=reason, topic="t", ticket="1"),
                Settlement(seq=2, outcome=letter, reason=reason, topic="t", ticket="2"),
                Settlement(seq=3, outcome=Outcome.PUBLISHED, topic=TOPIC, ticket="3"),
            ],
            NOW,
            None,
            [(5, 8), None, (7, 9)],
        )
        with journalview.opened(path) as view:
            view.discard("e-1")
            view.erase("e-2")
            view.erase("e-3")
    assert rows(path) == [
        ("e-1", "t", 5, 8, 1, None, "dead_letter", "discarded"),
        ("e-2", "t", None, None, None, None, "dead_letter", "discarded"),
        ("e-3", TOPIC, 7, 9, None, None, "published", None),
    ]


async def test_what_is_old_goes_with_its_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a dead letter that stays for a decision."""
    monkeypatch.setattr(journalwriter, "TIDY_INTERVAL", 0.01)
    reason = DeadLetterReason.INTERNAL_ERROR
    async with journal_at(path) as journal:
        await settled(
            journal,
            Settlement(seq=1, outcome=Outcome.PUBLISHED, topic=TOPIC),
            Settlement(seq=2, outcome=Outcome.DEAD_LETTER, reason=reason),
            Settlement(seq=3, outcome=Outcome.DUPLICATE),
        )
    async with journal_at(path, window=0):
        await until(lambda: len(rows(path, "SELECT seq FROM lives")) == 1)
    assert rows(path, "SELECT seq FROM lives") == rows(path, "SELECT seq FROM events") == [(2,)]


async def test_what_is_handed_over_is_noted_here_and_there(path: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.db"
    async with journal_at(path) as journal, journal_at(there) as other:
        await journal.add(event("a"))
        await other.add(event("a"))
        await other.settle([Settlement(seq=1, outcome=Outcome.DUPLICATE)], NOW)
    assert handover.write(path, tmp_path / "out.jsonl") == 1
    assert [row[-2:] for row in rows(path)] == [("duplicate", "exported")]
    assert handover.read(tmp_path / "out.jsonl", there).added == 1
    assert rows(there, "SELECT seq FROM lives") == []


async def test_ticket_of_what_another_replica_has_is_known(path: Path) -> None:
    """And when it was claimed; where nobody was asked, it was not."""
    kafka, metrics, claims = MemoryKafka(), Metrics(), MemoryClaims()
    claims.owners = {"lost": "somebody"}
    async with journal_at(path, metrics) as journal, replica(journal, kafka, metrics, claims):
        for name in ("mine", "lost", "odd"):
            claims.owners |= {"odd": "somebody"}
            body = b'{"event": 1}' if name == "odd" else None
            await journal.add(event(name, body))
        await until(lambda: drained(metrics))
        claims.away = True
        await journal.add(event("skipped"))
        await until(lambda: drained(metrics))
    found = rows(path, "SELECT claimed_after IS NULL, ticket FROM lives ORDER BY seq")
    assert found == [(False, 77), (False, 77), (False, None), (True, 77)]
