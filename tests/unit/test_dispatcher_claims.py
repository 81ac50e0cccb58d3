"""Several replicas: an event that two journals hold is published by one of them, in every case."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from relay.contract.normalize import Router
from relay.egress import dispatcher as dispatcher_module
from relay.egress import recovery as recovery_module
from relay.egress.dispatcher import Dispatcher
from relay.egress.tenure import Tenure
from relay.errors import ClaimsUnavailableError, FencedError, KafkaUnavailableError
from relay.events import StoredEvent, Verdict
from relay.journal.journal import Journal
from relay.observe.account import Account
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, MemoryPublisher, event, journal_at, until
from tests.unit.test_dispatcher import endings, published

ROUTER = Router("feishu.", {})
LOST = KafkaUnavailableError("no answer")


class MemoryClaims:
    """A claims store in memory, shared by the replicas of a test."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.away = self.refusing = False
        self.fresh: list[StoredEvent] = []
        self.changes = Changes(structlog.get_logger(), "claims_available")

    async def look(self) -> None:
        """Nothing changes while nobody asks."""

    async def release(self, owner: str, first_seq: int) -> None:
        """Let go of what is newly claimed and not published."""
        if self.refusing:
            raise ClaimsUnavailableError("away")
        for one in self.fresh:
            if one.seq >= first_seq and self.owners.get(one.event_id) == owner:
                del self.owners[one.event_id]

    def published(self) -> None:
        """Never release it."""
        self.fresh = []

    async def ask(self, events: Sequence[StoredEvent], owner: str) -> Verdict:
        self.fresh += [one for one in events if one.event_id not in self.owners]
        if self.away:
            return Verdict(skipped=True)
        for one in events:
            if self.owners.get(one.event_id, "") in (one.origin or "").split():
                self.owners[one.event_id] = owner
        lost = [
            place
            for place, one in enumerate(events)
            if not one.replayed and self.owners.setdefault(one.event_id, owner) != owner
        ]
        return Verdict(lost=frozenset(lost))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(dispatcher_module, "LONGEST_WAIT", 0.004)
    monkeypatch.setattr(recovery_module, "SILENCE", 0.02)


@asynccontextmanager
async def replica(
    journal: Journal, kafka: MemoryKafka, metrics: Metrics, claims: MemoryClaims
) -> AsyncIterator[None]:
    dispatcher = Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims)  # type: ignore[arg-type]
    task = asyncio.create_task(dispatcher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, FencedError):
            await task


async def add(journal: Journal, *names: str) -> None:
    await asyncio.gather(*(journal.add(event(name)) for name in names))


async def test_event_at_two_replicas_is_published_once(tmp_path: Path) -> None:
    """The other one settles it as a duplicate and says why; both accounts balance."""
    kafka, claims = MemoryKafka(), MemoryClaims()
    one, other = Metrics(), Metrics()
    async with (
        journal_at(tmp_path / "1.db", one) as first,
        journal_at(tmp_path / "2.db", other) as second,
    ):
        await add(first, "a", "b", "c")
        await add(second, "b", "x", "c", "y", "a")
        async with replica(first, kafka, one, claims), replica(second, kafka, other, claims):
            await until(lambda: not one.account().pending and not other.account().pending)
    assert sorted(published(kafka)) == ["a", "b", "c", "x", "y"]
    total = one.account().published + other.account().published
    assert (total, one.account().duplicate + other.account().duplicate) == (5, 3)
    ended = [*endings(tmp_path / "1.db"), *endings(tmp_path / "2.db")]
    assert [reason for _, outcome, reason in ended if outcome == "duplicate"] == (
        ["other_replica"] * 3
    )


async def test_batch_that_is_all_anothers_needs_no_transaction(tmp_path: Path) -> None:
    kafka, claims, metrics = MemoryKafka(), MemoryClaims(), Metrics()
    claims.owners = {"a": "somebody", "b": "somebody"}
    async with journal_at(tmp_path / "1.db", metrics) as journal:
        await add(journal, "a", "b")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: not metrics.account().pending)
            await add(journal, "c")
            await until(lambda: not metrics.account().pending)
            assert kafka.offsets == {journal.id: 4}
    assert published(kafka) == ["c"]
    expected = Account(received=3, published=1, duplicate=2, dead_letter=0, pending=0)
    assert metrics.account() == expected


async def test_recovery_knows_what_was_anothers(tmp_path: Path) -> None:
    """The commit's answer was lost: the offset covers the batch, the claims tell its parts."""
    kafka, claims, metrics = MemoryKafka(after_commit=[LOST]), MemoryClaims(), Metrics()
    claims.owners = {"b": "somebody"}
    async with journal_at(tmp_path / "1.db", metrics) as journal:
        await add(journal, "a", "b", "c")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: not metrics.account().pending)
    assert published(kafka) == ["a", "c"]
    assert endings(tmp_path / "1.db") == [
        ("a", "published", None),
        ("b", "duplicate", "other_replica"),
        ("c", "published", None),
    ]


async def test_claim_survives_the_process(tmp_path: Path) -> None:
    """It died after the claim and before the transaction: its next process publishes."""
    kafka, claims, metrics = MemoryKafka(before_commit=[LOST] * 3), MemoryClaims(), Metrics()
    async with journal_at(tmp_path / "1.db", metrics) as journal:
        await add(journal, "a")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: not kafka.before_commit[1:])
    assert claims.owners
    kafka.before_commit.clear()
    again = Metrics()
    async with (
        journal_at(tmp_path / "1.db", again) as journal,
        replica(journal, kafka, again, claims),
    ):
        await until(lambda: not again.account().pending)
    assert published(kafka) == ["a"]


async def test_large_record_among_anothers_is_found(tmp_path: Path) -> None:
    """Its place among the records is not its place in the batch."""
    kafka, claims, metrics = MemoryKafka(max_bytes=2000), MemoryClaims(), Metrics()
    claims.owners = {"a": "somebody", "b": "somebody"}
    large = b'{"schema":"2.0","header":{"event_id":"large","event_type":"t"},"event":{"x":"%b"}}'
    async with journal_at(tmp_path / "1.db", metrics) as journal:
        await add(journal, "a", "b", "c")
        await journal.add(event("large", large % (b"x" * 3000)))
        await add(journal, "d")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: not metrics.account().pending)
    outcomes = {name: (outcome, reason) for name, outcome, reason in endings(tmp_path / "1.db")}
    assert outcomes["large"] == ("dead_letter", "too_large")
    assert outcomes["a"] == outcomes["b"] == ("duplicate", "other_replica")
    assert outcomes["c"] == outcomes["d"] == ("published", None)


async def test_unclaimed_record_says_so(tmp_path: Path) -> None:
    kafka, claims, metrics = MemoryKafka(), MemoryClaims(), Metrics()
    claims.away = True
    async with journal_at(tmp_path / "1.db", metrics) as journal:
        await add(journal, "a")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: not metrics.account().pending)
            claims.away = False
            await add(journal, "b")
            await until(lambda: not metrics.account().pending)
    marks = [dict(record.headers).get("relay_dedupe") for record in kafka.records]
    assert marks == [b"skipped", None]


async def test_zombie_claims_nothing(tmp_path: Path) -> None:
    """A successor runs on a copy of its journal: what came only here must stay free for others."""
    path = tmp_path / "journal.db"
    kafka, metrics, claims = MemoryKafka(), Metrics(), MemoryClaims()
    async with journal_at(path, metrics) as journal:
        task = asyncio.create_task(
            Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
        )
        await until(lambda: Tenure(file=journal.identity).held)
        kafka.replace(journal.id)
        await asyncio.sleep(0.05)
        await journal.add(event("only-here"))
        with pytest.raises(FencedError):
            await task
    assert claims.owners == {}
    async with journal_at(path, metrics) as journal, replica(journal, kafka, metrics, claims):
        await until(lambda: published(kafka) == ["only-here"])


async def test_idle_zombie_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked at its journal and found nothing: that tells nothing of who else has its name."""
    monkeypatch.setattr(dispatcher_module, "IDLE_LOOK", 0.005)
    kafka, metrics, claims = MemoryKafka(), Metrics(), MemoryClaims()
    async with journal_at(tmp_path / "journal.db", metrics) as journal:
        dispatcher = Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims)  # type: ignore[arg-type]
        task = asyncio.create_task(dispatcher.run())
        await until(dispatcher.idle.is_set)
        kafka.replace(journal.id)
        await asyncio.sleep(0.1)
        dispatcher.idle.clear()
        await dispatcher.idle.wait()
        await journal.add(event("only-here"))
        with pytest.raises(FencedError):
            await task
    assert claims.owners == {}


async def test_replica_that_is_replaced_amid_a_batch_lets_its_claims_go(tmp_path: Path) -> None:
    """It woke up, claimed what only it has, and then its successor opened the journal's name."""
    path = tmp_path / "journal.db"
    fenced = FencedError("another process publishes under this journal's id", 0)
    kafka, metrics, claims = MemoryKafka(before_commit=[fenced]), Metrics(), MemoryClaims()
    async with journal_at(path, metrics) as journal:
        claims.owners["claimed-before"] = journal.id
        await journal.add(event("claimed-before"))
        await journal.add(event("only-here"))
        with pytest.raises(FencedError):
            await Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
        assert set(claims.owners) == {"claimed-before"}
        assert claims.owners["claimed-before"] != journal.id


async def test_published_claims_of_a_replaced_process_stay(tmp_path: Path) -> None:
    """The broker's answer came too late: a repeat of those events is still a repeat."""
    path = tmp_path / "journal.db"
    kafka, metrics, claims = MemoryKafka(after_commit=[LOST]), Metrics(), MemoryClaims()
    async with journal_at(path, metrics) as journal:
        name = journal.id
        await add(journal, "a", "b")
        kafka.on_open = [None, *[LOST] * 9999]
        task = asyncio.create_task(
            Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
        )
        await until(lambda: published(kafka))
        kafka.replace(name)
        kafka.on_open.clear()
        with pytest.raises(FencedError):
            await task
    assert claims.owners == {"a": name, "b": name}


async def test_claims_of_what_a_successor_has_too_stay(tmp_path: Path) -> None:
    """It was replaced amid a batch: the copy publishes what it holds, under the same name."""
    path, fenced = tmp_path / "journal.db", FencedError("replaced", 2)
    kafka, metrics, claims = MemoryKafka(before_commit=[fenced]), Metrics(), MemoryClaims()
    async with journal_at(path, metrics) as journal:
        name = journal.id
        for one in ("both have it", "only here"):
            await journal.add(event(one))
        with pytest.raises(FencedError):
            await Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
        assert claims.owners == {"both have it": name}
        assert metrics.account().pending == 1
    assert endings(path)[0][1:] == ("duplicate", "other_replica")
    again = Metrics()
    async with journal_at(path, again) as journal, replica(journal, kafka, again, claims):
        await until(lambda: not again.account().pending)
    assert published(kafka) == ["only here"]


async def test_claims_that_cannot_be_released_are_named(tmp_path: Path) -> None:
    """The process ends all the same, and its journal has another name."""
    fenced = FencedError("replaced", 1)
    kafka, metrics, claims = MemoryKafka(before_commit=[fenced]), Metrics(), MemoryClaims()
    claims.refusing = True
    async with journal_at(tmp_path / "journal.db", metrics) as journal:
        name = journal.id
        await journal.add(event("a"))
        with capture_logs() as logs, pytest.raises(FencedError):
            await Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
        assert journal.id != name
    assert [line["event"] for line in logs] == ["claims_not_released"]


async def test_published_events_of_a_replaced_process_stay_so_without_claims(
    tmp_path: Path,
) -> None:
    """Under its new name it publishes only what Kafka does not have."""
    path = tmp_path / "journal.db"
    kafka, metrics = MemoryKafka(after_commit=[LOST]), Metrics()
    async with journal_at(path, metrics) as journal:
        name = journal.id
        await add(journal, "a", "b")
        kafka.on_open = [None, *[LOST] * 9999]
        task = asyncio.create_task(
            Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics).run()
        )
        await until(lambda: published(kafka))
        await add(journal, "c")
        kafka.replace(name)
        kafka.on_open.clear()
        with pytest.raises(FencedError):
            await task
    again = Metrics()
    async with (
        journal_at(path, again) as journal,
        replica(journal, kafka, again, MemoryClaims()),
    ):
        await until(lambda: not again.account().pending)
    assert published(kafka) == ["a", "b", "c"]


async def test_transaction_that_timed_out_is_no_replacement(tmp_path: Path) -> None:
    """A process that was suspended too long goes on: its claims are its own, no event is left."""
    kafka, metrics, claims = MemoryKafka(), Metrics(), MemoryClaims()
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        name = journal.id
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: kafka.epochs[name])
            kafka.epochs[name] += 1
            await journal.add(event("a"))
            await until(lambda: metrics.account().pending == 0)
        assert journal.id == name
    assert published(kafka) == ["a"]
    assert claims.owners == {"a": name}
