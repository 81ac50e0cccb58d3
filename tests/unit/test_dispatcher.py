"""From the journal into Kafka: once, in order, for ever; the Kafka here is one in memory."""

import asyncio
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.contract.normalize import Router
from relay.egress import dispatcher as dispatcher_module
from relay.egress.dispatcher import Dispatcher
from relay.egress.tenure import Place, Tenure
from relay.errors import (
    BatchRefusedError,
    FencedError,
    KafkaRefusedError,
    KafkaUnavailableError,
    RecordRefusedError,
)
from relay.events import DeadLetterReason, Fate, Landing, Outcome, Record
from relay.journal import file
from relay.journal.journal import Journal
from relay.observe.account import Account
from relay.observe.metrics import Metrics
from tests.fakes import (
    MemoryKafka,
    MemoryPublisher,
    as_json,
    event,
    journal_at,
    know,
    payload,
    until,
)

ROUTER = Router("feishu.", {})
LOST = KafkaUnavailableError("no answer")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a back-off."""
    monkeypatch.setattr(dispatcher_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(dispatcher_module, "LONGEST_WAIT", 0.004)
    monkeypatch.setattr(dispatcher_module, "IDLE_LOOK", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@asynccontextmanager
async def dispatching(
    journal: Journal, kafka: MemoryKafka, metrics: Metrics, router: Router = ROUTER
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(
        Dispatcher(journal, MemoryPublisher(kafka), router, metrics).run(), name="dispatcher"
    )
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, FencedError):
            await task


async def add(journal: Journal, *names: str) -> None:
    await asyncio.gather(*(journal.add(event(name)) for name in names))


def drained(metrics: Metrics) -> bool:
    return metrics.account().pending == 0


def published(kafka: MemoryKafka) -> list[str]:
    return [dict(record.headers).get("ce_id", b"-").decode() for record in kafka.records]


def endings(path: Path) -> list[tuple[str, str | None, str | None]]:
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT event_id, outcome, reason FROM events ORDER BY seq"
        return connection.execute(sql).fetchall()


async def test_events_are_published_in_order_and_settled(path: Path) -> None:
    """Several batches' worth; the account says so."""
    kafka, metrics = MemoryKafka(), Metrics()
    names = [f"e-{n}" for n in range(2500)]
    async with journal_at(path, metrics, max_waiting=5000) as journal:
        await add(journal, *names)
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
            assert metrics.registry.get_sample_value("relay_kafka_up") == 1
        assert metrics.registry.get_sample_value("relay_kafka_up") == 0
        assert kafka.place(journal.id) == Place(offset=2501, owner=journal.identity.signature)
        assert Tenure(file=journal.identity).held
    assert names == published(kafka)
    expected = Account(received=2500, published=2500, duplicate=0, dead_letter=0, pending=0)
    assert expected == metrics.account()
    assert {("published", None)} == {(outcome, reason) for _, outcome, reason in endings(path)}
    assert metrics.registry.get_sample_value("relay_end_to_end_seconds_count") == 2500


class NarrowPublisher(MemoryPublisher):
    """To a Kafka that takes no more than so many records before time is up."""

    fits = 100

    def __init__(self, kafka: MemoryKafka) -> None:
        super().__init__(kafka)
        self.sizes: list[int] = []

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> list[Landing]:
        batch = [one async for one in records]
        self.sizes.append(len(batch))
        if len(batch) > self.fits:
            raise KafkaUnavailableError("time is up")

        async def again() -> AsyncIterator[Record]:
            for one in batch:
                yield one

        return await super().publish(again(), last_seq)


async def test_batch_for_which_time_is_too_short_is_made_smaller(path: Path) -> None:
    """An outage leaves a long backlog, and the same batch would fail for ever."""
    kafka, metrics = MemoryKafka(), Metrics()
    publisher = NarrowPublisher(kafka)
    names = [f"e-{n}" for n in range(1000)]
    async with journal_at(path, metrics, max_waiting=2000) as journal:
        await add(journal, *names)
        task = asyncio.create_task(Dispatcher(journal, publisher, ROUTER, metrics).run())
        await until(lambda: drained(metrics))
        assert published(kafka) == names
        publisher.fits = 1000
        await add(journal, *(f"f-{n}" for n in range(1000)))
        await until(lambda: drained(metrics))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert publisher.sizes[:5] == [1000, 500, 250, 125, 62]
    assert max(publisher.sizes[-3:]) > 100, "and larger again"


async def test_new_events_are_taken_as_they_come(path: Path) -> None:
    """Also by a dispatcher that had nothing to do."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        for name in ("a", "b", "c"):
            await until(lambda: drained(metrics))
            await add(journal, name)
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b", "c"]


async def test_lost_answer_to_a_commit_publishes_nothing_twice(path: Path) -> None:
    """The offset that was committed with the records tells that they are there."""
    kafka, metrics = MemoryKafka(after_commit=[LOST, LOST]), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a", "b", "c")
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
            await add(journal, "d")
            await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b", "c", "d"]
    assert metrics.account().published == 4


async def test_failed_commit_is_repeated(path: Path) -> None:
    """What did not get into Kafka goes there at the next attempt, in the same order."""
    kafka, metrics = MemoryKafka(before_commit=[LOST, LOST, None, LOST]), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a", "b")
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
            await add(journal, "c", "d")
            await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b", "c", "d"]


async def test_restart_settles_what_kafka_has(path: Path) -> None:
    """Killed between Kafka's commit and the journal's."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path) as journal:
        await know(kafka, journal, 3)
        await add(journal, "a", "b", "c", "d")
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await until(lambda: drained(metrics))
    assert published(kafka) == ["c", "d"]
    assert metrics.account() == Account(
        received=4, published=4, duplicate=0, dead_letter=0, pending=0
    )


async def test_settling_that_fails_is_done_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal cannot be written for a while; Kafka has the batch already."""
    monkeypatch.setattr(file, "BUSY_TIMEOUT", 0.01)
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal:
        await know(kafka, journal)
        await add(journal, "a", "b")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with dispatching(journal, kafka, metrics):
                await until(lambda: kafka.epochs[journal.id] > 2)
                assert metrics.account().pending == 2
                other.execute("ROLLBACK")
                await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]


class PoisonedRouter(Router):
    """A router with a fault that one event type brings out."""

    def topic(self, event_type: str) -> str:
        if event_type == "poison":
            raise ZeroDivisionError
        return super().topic(event_type)


async def test_poisoned_event_does_not_stop_the_next(path: Path) -> None:
    """A fault of ours costs one event its form, not its delivery."""
    kafka, metrics = MemoryKafka(), Metrics()
    body = as_json(payload("bad", event_type="poison"))
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        await journal.add(event("bad", body))
        await add(journal, "b")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics, PoisonedRouter("feishu.", {})):
                await until(lambda: drained(metrics))
    assert endings(path)[:2] == [("a", "published", None), ("bad", "dead_letter", "internal_error")]
    topics = [record.topic for record in kafka.records]
    ticket = "feishu.helpdesk.ticket_message"
    assert [ticket, "feishu.dead_letter", ticket] == topics
    assert (kafka.records[1].value, kafka.records[1].key) == (body, b"bad")
    assert metrics.account().dead_letter == 1
    assert "你好" not in str(lines)


async def test_too_large_record_is_dead_lettered_alone(path: Path) -> None:
    """Its value stays in the journal; the events around it are published in order."""
    kafka, metrics = MemoryKafka(max_bytes=5000), Metrics()
    large = as_json(payload("large", event={"text": "x" * 6000}))
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        await journal.add(event("large", large))
        await add(journal, "b")
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    assert endings(path) == [
        ("a", "published", None),
        ("large", "dead_letter", "too_large"),
        ("b", "published", None),
    ]
    assert published(kafka) == ["a", "-", "b"]
    letter = kafka.records[1]
    assert (letter.value, letter.reason) == (None, DeadLetterReason.TOO_LARGE)
    assert dict(letter.headers)["relay_size"] == str(len(large)).encode()
    assert metrics.account().dead_letter == 1


async def test_too_large_record_is_known_after_a_restart(path: Path) -> None:
    """What the broker refused once is not sent to it again."""
    kafka, metrics = MemoryKafka(max_bytes=100), Metrics()
    async with journal_at(path) as journal:
        await add(journal, "large")
        await journal.mark_refused([1], DeadLetterReason.TOO_LARGE)
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await until(lambda: drained(metrics))
        assert kafka.epochs[journal.id] == 1
    assert endings(path) == [("large", "dead_letter", "too_large")]


async def test_broker_that_takes_no_dead_letter_is_held(path: Path) -> None:
    """Nothing is skipped; when its limit is raised, all goes out."""
    kafka, metrics = MemoryKafka(max_bytes=-1), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: "kafka_refuses" in {line["event"] for line in lines})
                assert kafka.records == []
                kafka.max_bytes = 2**20
                await until(lambda: drained(metrics))
    assert endings(path) == [("a", "dead_letter", "too_large")]


@pytest.mark.parametrize("bad", [[1], [0, 2], [0, 1, 2, 3]])
async def test_refused_records_are_dead_lettered_and_the_rest_goes_on(
    bad: list[int], path: Path
) -> None:
    """Refused alone, and again: once more is tried; their bodies stay in the journal."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal:
        for n in range(4):
            ticket = {"ticket": {"ticket_id": f"t-{n}"}}
            await journal.add(event(f"e-{n}", as_json(payload(f"e-{n}", event=ticket))))
        kafka.refuses = {f"t-{n}".encode() for n in bad}
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: drained(metrics))
        assert kafka.epochs[journal.id] == 3
    expected = [
        (f"e-{n}", "dead_letter", "refused") if n in bad else (f"e-{n}", "published", None)
        for n in range(4)
    ]
    assert endings(path) == expected
    letters = [one for one in kafka.records if one.reason is DeadLetterReason.REFUSED]
    assert [f"e-{n}".encode() for n in bad] == [letter.key for letter in letters]
    assert {letter.value for letter in letters} == {None}
    told = [line["event_id"] for line in lines if line["event"] == "record_refused"]
    assert [f"e-{n}" for n in bad] == told


async def test_record_that_was_refused_once_goes_out(path: Path) -> None:
    """A line may have garbled it; nothing is given up at the first word."""
    kafka, metrics = MemoryKafka(), Metrics()
    kafka.before_commit = [RecordRefusedError(0), None]
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    assert endings(path) == [("a", "published", None)]


async def test_batch_that_is_refused_is_sent_again_at_once_and_whole(path: Path) -> None:
    """Nothing waits, and the next batch is no smaller: the publisher packs it otherwise."""
    kafka, metrics = MemoryKafka(), Metrics()
    kafka.before_commit = [BatchRefusedError("t: too old", Fate.TIME_REFUSED)] * 5
    async with journal_at(path, metrics) as journal:
        await add(journal, "a", "b")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]
    assert [line["fate"] for line in lines if line["event"] == "batch_refused"] == (
        ["time_refused"] * 5
    )
    assert "kafka_unavailable" not in {line["event"] for line in lines}


async def test_fenced_dispatcher_ends(path: Path) -> None:
    """Another process owns this journal's identity: two must not publish."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics) as task:
        name = journal.id
        await until(lambda: Tenure(file=journal.identity).held)
        kafka.replace(journal.id)
        await add(journal, "a")
        with pytest.raises(FencedError):
            await task
    assert endings(path) == [("a", None, None)]
    async with journal_at(path) as journal:
        assert journal.id != name, "the other one's offsets must not settle our rows"


async def test_offset_beyond_what_was_sent_is_another_file(path: Path) -> None:
    """Under the own signature, too: the machine went back in time, with its memory."""
    kafka, metrics = MemoryKafka(after_commit=[None, LOST]), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        name = journal.id
        await add(journal, "a")
        await until(lambda: drained(metrics))
        kafka.on_open = [LOST]
        kafka.before_commit = [LOST]
        kafka.offsets[name] = 99
        await add(journal, "b")
        await until(lambda: drained(metrics))
        assert journal.id != name
    assert published(kafka) == ["a", "b"]


async def test_journal_older_than_kafka_becomes_another(path: Path) -> None:
    """A volume restored from a snapshot: what it held then is published, what came since is not."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path) as journal:
        await know(kafka, journal, 50)
        await add(journal, "old-1", "old-2")
        old_id = journal.id
    async with journal_at(path, metrics) as journal:
        await add(journal, "new-1")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: drained(metrics))
        assert kafka.offsets[journal.id] == 4
        assert journal.id != old_id
    assert published(kafka) == ["new-1"]
    (loud,) = [line for line in lines if line["event"] == "journal_older_than_kafka"]
    assert (loud["log_level"], loud["last_seq"], loud["kafka_offset"]) == ("error", 2, 50)
    async with journal_at(path) as journal:
        assert journal.id != old_id
    assert metrics.account().published == 3


async def test_event_accepted_before_kafka_was_heard_is_not_settled_by_an_old_offset(
    path: Path,
) -> None:
    """The same number may have meant another event before the snapshot was put back."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path) as journal:
        await add(journal, "new-1")
        kafka.offsets[journal.id] = 2
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await until(lambda: drained(metrics))
    assert published(kafka) == ["new-1"]


async def test_refusal_is_held_and_said_once(path: Path) -> None:
    """Missing rights: nothing is lost, nothing published, and it goes on when they are there."""
    refused: Exception = KafkaRefusedError("no rights")
    kafka, metrics = MemoryKafka(on_open=[refused] * 5), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: drained(metrics))
    said = [line["event"] for line in lines]
    assert said == ["kafka_refuses", "kafka_connected"]
    assert published(kafka) == ["a"]


async def test_outage_is_said_once_and_shown(path: Path) -> None:
    """However many attempts it takes."""
    kafka, metrics = MemoryKafka(on_open=[LOST] * 20), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: len(kafka.on_open) < 15)
                assert metrics.registry.get_sample_value("relay_kafka_up") == 0
                await until(lambda: drained(metrics))
    assert [line["event"] for line in lines] == ["kafka_unavailable", "kafka_connected"]


async def test_fault_in_the_loop_does_not_end_it(path: Path) -> None:
    kafka, metrics = MemoryKafka(before_commit=[RuntimeError("a bug")]), Metrics()
    async with journal_at(path, metrics) as journal:
        await add(journal, "a")
        with capture_logs() as lines:
            async with dispatching(journal, kafka, metrics):
                await until(lambda: drained(metrics))
    assert {
        "event": "dispatch_failed",
        "error": "RuntimeError: a bug",
        "log_level": "warning",
    } in lines
    assert published(kafka) == ["a"]


async def test_replayed_event_is_found_without_a_call(path: Path) -> None:
    """`relay events replay` is another process: the idle dispatcher looks by itself."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await add(journal, "a")
        await until(lambda: drained(metrics))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            row = other.execute(
                "DELETE FROM events"
                " RETURNING app, event_id, event_type, transport, received_at, body"
            ).fetchone()
            other.execute(
                "INSERT INTO events (app, event_id, event_type, transport, received_at, body,"
                " replayed) VALUES (?, ?, ?, ?, ?, ?, 1)",
                row,
            )
            other.execute("COMMIT")
        await until(lambda: len(kafka.records) == 2)
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "a"]
    assert dict(kafka.records[1].headers)["relay_replayed"] == b"1"
    assert metrics.account().received == metrics.account().published == 2


async def test_dead_letters_of_the_door_are_published_as_such(path: Path) -> None:
    """Authentic, but no event: stored, then on the topic of dead letters."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal:
        letter = event("digest", b"[1]", dead_letter=DeadLetterReason.NOT_AN_OBJECT)
        assert await journal.add(letter) is Outcome.DEAD_LETTER
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    assert kafka.values == [b"[1]"]
    assert endings(path) == [("digest", "dead_letter", "not_an_object")]
