"""A stopped replica's pending events move into another journal: all of them, and none twice."""

import asyncio
import os
import sqlite3
from functools import partial
from pathlib import Path

import orjson
import pytest

from relay.egress.dispatcher import Dispatcher
from relay.errors import HandoverError, KafkaUnavailableError
from relay.events import EXPORTED, OTHER_REPLICA, Outcome, Settlement
from relay.journal import file as journalfile
from relay.journal import handover, view
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, MemoryPublisher, event, journal_at, know, until
from tests.unit.test_dispatcher import ROUTER, dispatching, drained, endings, published
from tests.unit.test_dispatcher_claims import MemoryClaims, replica

NOW = 1_767_323_045_678


def recovering(journal: Journal, kafka: MemoryKafka, metrics: Metrics) -> Dispatcher:
    return Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics)


async def fill(
    path: Path, *names: str, settled: int = 0, kafka: MemoryKafka | None = None, offset: int = 0
) -> str:
    """Store events and settle the first of them; give the journal's id, which Kafka may know."""
    async with journal_at(path) as journal:
        if kafka:
            await know(kafka, journal, offset)
        for name in names:
            await journal.add(event(name))
        if settled:
            done = [Settlement(seq=n + 1, outcome=Outcome.PUBLISHED) for n in range(settled)]
            await journal.settle(done, NOW)
        return journal.id


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    asyncio.run(fill(path, "done", "a", "b", settled=1))
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


def test_pending_events_move(old: Path, new: Path, tmp_path: Path) -> None:
    """With everything that belongs to them; the old journal keeps only their ids."""
    file = tmp_path / "events"
    assert handover.write(old, file) == 2
    assert handover.read(file, new) == handover.Taken(added=2, known=0, open=0)
    assert endings(old) == [
        ("done", "published", None),
        ("a", "duplicate", EXPORTED),
        ("b", "duplicate", EXPORTED),
    ]
    with view.opened(old) as before, view.opened(new) as after:
        for name in ("a", "b"):
            was, body = before.find(name)
            now, same = after.find(name)
            assert (now.event_type, now.transport, now.received_at) == (
                was.event_type,
                was.transport,
                was.received_at,
            )
            assert (same, now.outcome) == (body, "pending")


def test_second_import_adds_none(old: Path, new: Path, tmp_path: Path) -> None:
    handover.write(old, tmp_path / "events")
    handover.read(tmp_path / "events", new)
    assert handover.read(tmp_path / "events", new) == handover.Taken(added=0, known=2, open=0)


def test_import_into_its_own_journal_is_refused(old: Path, tmp_path: Path) -> None:
    handover.write(old, tmp_path / "events")
    with pytest.raises(HandoverError, match="was taken from"):
        handover.read(tmp_path / "events", old)


def test_existing_file_is_not_overwritten(old: Path, tmp_path: Path) -> None:
    (tmp_path / "events").write_text("mine")
    with pytest.raises(HandoverError, match="is there already"):
        handover.write(old, tmp_path / "events")
    assert (tmp_path / "events").read_text() == "mine"


@pytest.mark.parametrize("step", ["transaction", "rename"])
def test_export_that_died_is_finished_by_the_next(
    step: str, old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the journal let go of the events, or after it: no event is lost between the two."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        owner = journalfile if step == "transaction" else Path
        patched.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            handover.write(old, tmp_path / "events")
    assert not (tmp_path / "events").exists()
    assert handover.write(old, tmp_path / "events") == 2
    assert handover.read(tmp_path / "events", new).added == 2


def test_export_that_died_tells_what_came_after_it(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica ran once more in between: the old file is whole, and is not all."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            handover.write(old, tmp_path / "events")
    asyncio.run(fill(old, "later"))
    with pytest.raises(HandoverError, match=r"2 events.*1 more.*another file"):
        handover.write(old, tmp_path / "events")
    assert handover.read(tmp_path / "events", new).added == 2
    assert handover.write(old, tmp_path / "more") == 1
    assert handover.read(tmp_path / "more", new).added == 1


def test_draft_is_on_disk_before_the_journal_lets_go(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, transaction = os.fsync, journalfile.transaction

    def watched_sync(number: int) -> None:
        order.append("fsync")
        sync(number)

    def watched(connection: sqlite3.Connection, work: object) -> object:
        order.append("let go")
        return transaction(connection, work)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(journalfile, "transaction", watched)
    handover.write(old, tmp_path / "events")
    assert order[:3] == ["fsync", "fsync", "let go"], "the file, and its name"


@pytest.mark.parametrize("cut", [1, 3])
def test_file_that_is_not_whole_is_refused(cut: int, old: Path, new: Path, tmp_path: Path) -> None:
    """Before anything of it is taken in."""
    file = tmp_path / "events"
    handover.write(old, file)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-cut]))
    with pytest.raises(HandoverError, match="not whole"):
        handover.read(file, new)
    assert not new.exists()


@pytest.mark.parametrize("field", ["app", "event_id", "received_at", "origin"])
def test_event_that_lacks_something_is_refused(
    field: str, old: Path, new: Path, tmp_path: Path
) -> None:
    file = tmp_path / "events"
    handover.write(old, file)
    header, first, *rest = file.read_bytes().splitlines(keepends=True)
    event = orjson.loads(first)
    del event[field]
    file.write_bytes(b"".join((header, orjson.dumps(event), b"\n", *rest)))
    with pytest.raises(HandoverError, match=f"an event lacks {field}"):
        handover.read(file, new)
    assert not new.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("transport", "pigeon"),
        ("transport", None),
        ("transport", 7),
        ("app", None),
        ("event_id", 5),
        ("received_at", "yesterday"),
        ("received_at", 2**63),
        ("received_at", 1.5),
        ("received_at", -1),
        ("received_at", 2**62),
        ("received_at", True),
        ("replayed", 2),
        ("traceparent", ["x"]),
        ("traceparent", "x\x1b[2J"),
        ("traceparent", "00-1-2-01"),
        ("reason", 1),
        ("origin", {}),
        ("body", "no base64!"),
        ("body", 9),
    ],
)
def test_event_that_no_journal_can_hold_is_refused(
    field: str, value: object, old: Path, new: Path, tmp_path: Path
) -> None:
    """At import, with its line; taken in, it would stop every later start."""
    file = tmp_path / "events"
    handover.write(old, file)
    header, first, second, *rest = file.read_bytes().splitlines(keepends=True)
    event = orjson.loads(second) | {field: value}
    file.write_bytes(b"".join((header, first, orjson.dumps(event), b"\n", *rest)))
    with pytest.raises(HandoverError, match=f"line 3: no journal can hold its {field}"):
        handover.read(file, new)
    assert not new.exists()


def test_draft_of_another_journal_is_written_anew(old: Path, new: Path, tmp_path: Path) -> None:
    """Whole as it is, it tells nothing of this one."""
    other = tmp_path / "other.db"
    asyncio.run(fill(other, "x", "y", "z"))
    handover.write(other, tmp_path / "events.part")
    assert handover.write(old, tmp_path / "events") == 2
    assert handover.read(tmp_path / "events", new).added == 2
    assert [name for name, *_ in endings(new)] == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "{}\n", "[]\n[]\n", "not json\n", '{"relay_export":2,"journal":"x"}\n{"end":0}\n']
)
def test_file_of_another_kind_is_refused(text: str, new: Path, tmp_path: Path) -> None:
    (tmp_path / "events").write_text(text)
    with pytest.raises(HandoverError):
        handover.read(tmp_path / "events", new)


async def test_what_kafka_has_is_not_exported(tmp_path: Path) -> None:
    """The replica died between the transaction's commit and its own."""
    old, kafka, metrics = tmp_path / "old.db", MemoryKafka(), Metrics()
    await fill(old, "a", "b", "c", kafka=kafka, offset=3)
    async with journal_at(old, metrics) as journal:
        await recovering(journal, kafka, metrics).recover()
        assert handover.write(old, tmp_path / "events") == 1
    assert [ending[1] for ending in endings(old)] == ["published", "published", "duplicate"]


async def test_nothing_is_exported_while_kafka_does_not_tell(tmp_path: Path) -> None:
    old, metrics = tmp_path / "old.db", Metrics()
    await fill(old, "a")
    kafka = MemoryKafka(on_open=[KafkaUnavailableError("away")])
    async with journal_at(old, metrics) as journal:
        with pytest.raises(KafkaUnavailableError):
            await recovering(journal, kafka, metrics).recover()
    assert endings(old) == [("a", None, None)]


async def test_running_replica_publishes_what_is_put_in(old: Path, tmp_path: Path) -> None:
    """It finds the rows by itself, and its account balances."""
    handover.write(old, tmp_path / "events")
    kafka, metrics, new = MemoryKafka(), Metrics(), tmp_path / "new.db"
    async with journal_at(new, metrics) as journal, dispatching(journal, kafka, metrics):
        await journal.add(event("own"))
        await until(lambda: drained(metrics))
        await asyncio.to_thread(handover.read, tmp_path / "events", new)
        await until(lambda: len(kafka.records) == 3)
        await until(lambda: drained(metrics))
    assert published(kafka) == ["own", "a", "b"]
    account = metrics.account()
    assert (account.received, account.published, account.pending) == (3, 3, 0)


async def test_event_that_was_left_to_the_old_replica_is_taken_up(tmp_path: Path) -> None:
    """Here it ended as a duplicate, as the old one had claimed it and was to publish it."""
    old, new, claims = tmp_path / "old.db", tmp_path / "new.db", MemoryClaims()
    kafka, metrics = MemoryKafka(), Metrics()
    claims.owners["a"] = await fill(old, "a", "b")
    async with journal_at(new, metrics) as journal, replica(journal, kafka, metrics, claims):
        await journal.add(event("a"))
        await until(lambda: drained(metrics))
        assert endings(new) == [("a", "duplicate", OTHER_REPLICA)]
        handover.write(old, tmp_path / "events")
        taken = await asyncio.to_thread(handover.read, tmp_path / "events", new)
        assert taken == handover.Taken(added=2, known=0, open=0)
        await until(lambda: len(kafka.records) == 2)
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]


async def test_file_taken_in_by_two_replicas_is_published_once(tmp_path: Path) -> None:
    """And a third one that got an event by Feishu's retry keeps it."""
    old, claims, kafka = tmp_path / "old.db", MemoryClaims(), MemoryKafka()
    name = await fill(old, "a", "b", "c")
    claims.owners |= {"a": name, "b": "third"}
    handover.write(old, tmp_path / "events")
    for number in range(2):
        new, metrics = tmp_path / f"new-{number}.db", Metrics()
        handover.read(tmp_path / "events", new)
        async with journal_at(new, metrics) as journal, replica(journal, kafka, metrics, claims):
            await until(partial(drained, metrics))
    assert published(kafka) == ["a", "c"]


async def test_event_that_is_still_pending_here_is_not_known_yet(tmp_path: Path) -> None:
    """It may end as left to the lost replica, whose claim it is; a second import finds it so."""
    old, new, claims = tmp_path / "old.db", tmp_path / "new.db", MemoryClaims()
    kafka, metrics = MemoryKafka(), Metrics()
    claims.owners["a"] = await fill(old, "a")
    await fill(new, "a")
    handover.write(old, tmp_path / "events")
    assert handover.read(tmp_path / "events", new) == handover.Taken(added=0, known=0, open=1)
    async with journal_at(new, metrics) as journal, replica(journal, kafka, metrics, claims):
        await until(lambda: drained(metrics))
        assert published(kafka) == []
        taken = await asyncio.to_thread(handover.read, tmp_path / "events", new)
        assert taken == handover.Taken(added=1, known=0, open=0)
        await until(lambda: bool(kafka.records))
        await until(lambda: drained(metrics))
        taken = await asyncio.to_thread(handover.read, tmp_path / "events", new)
    assert taken == handover.Taken(added=0, known=1, open=0)
    assert published(kafka) == ["a"]


async def test_event_may_move_on(tmp_path: Path) -> None:
    """Through a second replica that never came to publish it; the first one's claim counts."""
    first, second, third = (tmp_path / f"{n}.db" for n in range(3))
    claims, kafka, metrics = MemoryClaims(), MemoryKafka(), Metrics()
    claims.owners["a"] = await fill(first, "a")
    handover.write(first, tmp_path / "one")
    handover.read(tmp_path / "one", second)
    handover.write(second, tmp_path / "two")
    handover.read(tmp_path / "two", third)
    async with journal_at(third, metrics) as journal, replica(journal, kafka, metrics, claims):
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a"]


async def test_old_offset_says_nothing_of_events_put_in(old: Path, tmp_path: Path) -> None:
    """The new journal is a restored copy: Kafka's offset lies where the file now has other rows."""
    new, kafka, metrics = tmp_path / "new.db", MemoryKafka(), Metrics()
    # Seq 1 to 3 are published; the snapshot knows of 1 only.
    await fill(new, "x", kafka=kafka, offset=4)
    handover.write(old, tmp_path / "events")
    handover.read(tmp_path / "events", new)
    async with journal_at(new, metrics) as journal, dispatching(journal, kafka, metrics):
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]
