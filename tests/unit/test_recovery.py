"""A journal and its name: copies that wake up, Kafka that forgets, clocks that stood still."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.egress import dispatcher as dispatcher_module
from relay.egress import recovery as recovery_module
from relay.egress.dispatcher import Dispatcher
from relay.egress.tenure import Place, Tenure
from relay.errors import FencedError, KafkaUnavailableError
from relay.events import StoredEvent, Verdict
from relay.journal import handover
from relay.observe import clock
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, MemoryPublisher, journal_at, know, until
from tests.unit.test_dispatcher import ROUTER, add, dispatching, drained, endings, published
from tests.unit.test_dispatcher_claims import MemoryClaims, replica

LOST = KafkaUnavailableError("no answer")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a back-off."""
    monkeypatch.setattr(dispatcher_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(dispatcher_module, "LONGEST_WAIT", 0.004)
    monkeypatch.setattr(dispatcher_module, "IDLE_LOOK", 0.02)


@pytest.mark.parametrize(
    ("shared", "successors", "own"), [(0, 5, 10), (3, 5, 10), (3, 30, 10), (1, 1, 1)]
)
async def test_zombie_that_is_killed_and_started_again_loses_nothing(
    tmp_path: Path, shared: int, successors: int, own: int
) -> None:
    """Its fresh process finds an offset within its range that another one has signed."""
    first, second, kafka = tmp_path / "a.db", tmp_path / "b.db", MemoryKafka()
    names = [f"shared-{n}" for n in range(shared)]
    theirs = [f"b-{n}" for n in range(successors)]
    ours = [f"a-{n}" for n in range(own)]
    async with journal_at(first) as journal:
        async with dispatching(journal, kafka, Metrics()):
            await until(lambda: Tenure(file=journal.identity).held)
        await add(journal, *names)
    shutil.copy(first, second)
    metrics = Metrics()
    async with journal_at(second, metrics) as journal, dispatching(journal, kafka, metrics):
        await add(journal, *theirs)
        await until(lambda: drained(metrics))
    # The process of the first had signed, and took these in before it was killed.
    async with journal_at(first) as journal:
        await journal.become(Tenure(file=journal.identity).signing("x", Place()).signed().file)
        await add(journal, *ours)
    signature = next(iter(kafka.signed[journal.id].alone_from))
    async with journal_at(first) as journal:
        identity = Tenure(file=journal.identity).signing(signature, Place()).signed().file
        await journal.become(identity)
    metrics = Metrics()
    with capture_logs() as lines:
        async with journal_at(first, metrics) as journal, dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    assert sorted(published(kafka)) == sorted([*names, *theirs, *ours])
    said = {line["event"] for line in lines}
    assert said & {"journal_replaced", "journal_older_than_kafka"}


async def test_nobody_is_not_me(tmp_path: Path) -> None:
    """It slept for so long that Kafka forgot all: its successor may have the name."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        name = journal.id
        async with dispatching(journal, kafka, metrics):
            await add(journal, "a")
            await until(lambda: drained(metrics))
            epoch = kafka.epochs[name]
            kafka.offsets.clear()
            kafka.signed.clear()
            kafka.before_commit = [LOST]
            with capture_logs() as lines:
                await add(journal, "b")
                await until(lambda: drained(metrics))
        assert journal.id != name
        assert kafka.epochs[name] == epoch, "whoever has the name now is left alone"
    assert published(kafka) == ["a", "b"]
    assert "journal_forgotten" in {line["event"] for line in lines}


async def test_coordinator_that_has_just_come_up_ends_nobody(tmp_path: Path) -> None:
    """It tells what was before this process signed, until it is written to."""
    path, kafka = tmp_path / "j.db", MemoryKafka()
    async with journal_at(path) as journal:
        name = journal.id
        async with dispatching(journal, kafka, Metrics()):
            await add(journal, "a")
            await until(lambda: published(kafka) == ["a"])
    earlier = kafka.place(name)
    async with journal_at(path, metrics := Metrics()) as journal:
        async with dispatching(journal, kafka, metrics):
            await until(lambda: kafka.place(name).owner != earlier.owner)
            kafka.behind[name] = earlier
            kafka.after_commit = [LOST]
            await add(journal, "b")
            await until(lambda: drained(metrics))
        assert journal.id == name
    assert published(kafka) == ["a", "b"]


async def test_claims_under_a_forgotten_name_are_our_own(tmp_path: Path) -> None:
    """Killed between claim and publication, and then Kafka was made anew: nobody else has it."""
    path, kafka, claims, metrics = tmp_path / "j.db", MemoryKafka(), MemoryClaims(), Metrics()
    async with journal_at(path) as journal:
        await know(MemoryKafka(), journal)
        await add(journal, "a", "theirs")
        claims.owners = {"a": journal.id, "theirs": "somebody"}
        name = journal.id
    async with journal_at(path, metrics) as journal:
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: drained(metrics))
        assert journal.identity.former_ids == name
        assert claims.owners["a"] == journal.id
        claims.owners["later"] = name
        await add(journal, "later")
        async with replica(journal, kafka, metrics, claims):
            await until(lambda: drained(metrics))
    assert [one[1] for one in endings(path)] == ["published", "duplicate", "duplicate"]


async def test_forgotten_name_goes_along_with_an_export(tmp_path: Path) -> None:
    """What it may have claimed under that name is published by whoever takes it in."""
    old, new, claims = tmp_path / "old.db", tmp_path / "new.db", MemoryClaims()
    async with journal_at(old) as journal:
        await know(MemoryKafka(), journal)
        await add(journal, "a")
        claims.owners["a"] = journal.id
        dispatcher = Dispatcher(journal, MemoryPublisher(MemoryKafka()), ROUTER, Metrics())
        await dispatcher.recover()
        await add(journal, "b")
        handover.write(old, tmp_path / "events")
    handover.read(tmp_path / "events", new)
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(new, metrics) as journal, replica(journal, kafka, metrics, claims):
        await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock that nobody can set, for a test to set."""
    now = [1000.0]
    monkeypatch.setattr(recovery_module, "boot", lambda: now[0])
    return now


class WatchedPublisher(MemoryPublisher):
    """Counts confirmations."""

    confirmations = 0

    async def confirm(self, settled_seq: int) -> None:
        self.confirmations += 1
        await super().confirm(settled_seq)


async def test_silence_counts_while_the_machine_sleeps(tmp_path: Path, boot: list[float]) -> None:
    """The monotonic clock has not moved: Kafka is asked all the same, before a claim."""
    kafka, metrics, claims = MemoryKafka(), Metrics(), MemoryClaims()
    publisher = WatchedPublisher(kafka)
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        dispatcher = Dispatcher(journal, publisher, ROUTER, metrics, claims)  # type: ignore[arg-type]
        task = asyncio.create_task(dispatcher.run())
        await add(journal, "a")
        await until(lambda: drained(metrics))
        assert publisher.confirmations == 0
        boot[0] += 3600
        await add(journal, "b")
        await until(lambda: drained(metrics))
        assert publisher.confirmations == 1
        boot[0] += 3600
        kafka.replace(journal.id, journal.last_seq())
        await add(journal, "only-here")
        with pytest.raises(FencedError):
            await task
    assert publisher.confirmations == 2
    assert set(claims.owners) == {"a", "b"}


class SlowClaims(MemoryClaims):
    """The store was away for hours, and `hold` has waited for it."""

    def __init__(self, boot: list[float]) -> None:
        super().__init__()
        self._boot = boot
        self.meanwhile: Callable[[], None] = lambda: None

    async def ask(self, events: Sequence[StoredEvent], owner: str) -> Verdict:
        verdict = await super().ask(events, owner)
        self._boot[0] += 3600
        self.meanwhile()
        return verdict


@pytest.mark.parametrize("others", [[], ["only-here"]])
async def test_confirmation_is_repeated_after_a_hold(
    tmp_path: Path, boot: list[float], others: list[str]
) -> None:
    """Whoever took over meanwhile does not know what was claimed, whatever the answer was."""
    kafka, metrics, claims = MemoryKafka(), Metrics(), SlowClaims(boot)
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        claims.meanwhile = lambda: kafka.replace(journal.id)
        claims.owners = dict.fromkeys(others, "somebody")
        await add(journal, "only-here")
        with pytest.raises(FencedError):
            await Dispatcher(journal, MemoryPublisher(kafka), ROUTER, metrics, claims).run()  # type: ignore[arg-type]
    assert claims.owners == dict.fromkeys(others, "somebody")
    assert endings(tmp_path / "j.db") == [("only-here", None, None)]


def test_boot_clock_goes_on() -> None:
    before = clock.boot()
    assert clock.boot() >= before
