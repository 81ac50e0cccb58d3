"""From one replica to several: what the first has published is claimed before others publish."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.claims import seeding
from relay.claims.seeding import Seeding
from relay.errors import ClaimsAwaitedError, ClaimsUnavailableError
from relay.events import Outcome, Settlement, StoredEvent
from relay.journal.journal import Journal
from tests.fakes import event, journal_at


class MemoryStore:
    """A claims store in memory, which may be away."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.failures = 0
        self.calls = self.claims = 0

    def _called(self) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise ClaimsUnavailableError("away")

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        self._called()
        self.claims += 1
        for one in events:
            self.owners.setdefault(one.event_id, owner)
        return frozenset()

    async def announce(self, replica: str, owner: str) -> None:
        self._called()
        self.names[replica] = owner

    async def announced(self, replica: str) -> bool:
        self._called()
        return replica in self.names


async def publish(journal: Journal, *names: str) -> None:
    """Store events and settle them: one in three as another's, none left."""
    for name in names:
        await journal.add(event(name))
    rows = await journal.pending(100, 2**20)
    outcomes = (Outcome.PUBLISHED, Outcome.DEAD_LETTER, Outcome.DUPLICATE)
    ends = [Settlement(seq=row.seq, outcome=outcomes[place % 3]) for place, row in enumerate(rows)]
    await journal.settle(ends, 1_767_323_045_678)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "PAGE", 2)


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second passes between two looks for the own mark."""
    monkeypatch.setattr(seeding, "LOOK", 0.0)


async def test_what_a_journal_has_published_is_claimed(tmp_path: Path) -> None:
    """And neither what another published nor what is pending, which is claimed in its turn."""
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a", "b", "others", "c", "d", "others-2", "e")
        await journal.add(event("pending"))
        await Seeding(journal, store, "", "").enter()
        assert store.owners == dict.fromkeys("abcde", journal.id)


async def test_past_is_brought_in_once(tmp_path: Path) -> None:
    """Over restarts, too; but again after a time without claims."""
    store, path = MemoryStore(), tmp_path / "j.db"
    async with journal_at(path) as journal:
        await publish(journal, "a")
        await Seeding(journal, store, "", "").enter()
    async with journal_at(path) as journal:
        await Seeding(journal, store, "", "").enter()
        assert store.claims == 1
        await journal.note_claims(seeded=False)
    async with journal_at(path) as journal:
        await Seeding(journal, store, "", "").enter()
    assert store.claims == 2


async def test_entry_goes_on_after_a_failure(tmp_path: Path) -> None:
    """Whichever of its steps it was that met no store."""
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a", "b", "c", "d")
        for failures in (1, 1, 1):
            store = MemoryStore()
            await journal.note_claims(seeded=False)
            entry = Seeding(journal, store, "relay-0", "relay-0")
            store.failures = failures
            with pytest.raises(ClaimsUnavailableError):
                await entry.enter()
            await entry.enter()
            assert set(store.owners) == {"a", "b", "d"}
            assert store.names == {"relay-0": journal.id}


@pytest.mark.usefixtures("always_looking")
async def test_replica_without_a_name_notices_an_emptied_store(tmp_path: Path) -> None:
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a")
        entry = Seeding(journal, store, "", "")
        await entry.enter()
        store.owners.clear()
        await entry.enter()
        assert store.owners == {}, "nothing shows that it was emptied"
        store.names.clear()
        await entry.enter()
        assert store.owners == {"a": journal.id}


@pytest.mark.usefixtures("always_looking")
async def test_store_that_was_emptied_is_filled_again(tmp_path: Path) -> None:
    """By each replica with what it has published, so that newcomers do not wait for ever."""
    store = MemoryStore()
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    async with journal_at(old) as first, journal_at(new) as second:
        await publish(first, "a")
        running = Seeding(first, store, "relay-0", "relay-0")
        await running.enter()
        store.owners.clear()
        store.names.clear()
        newcomer = Seeding(second, store, "relay-1", "relay-0")
        with pytest.raises(ClaimsAwaitedError, match="relay-0"):
            await newcomer.enter()
        await running.enter()
        assert store.owners == {"a": first.id}
        await newcomer.enter()


@pytest.mark.usefixtures("always_looking")
async def test_who_has_entered_waits_for_nobody_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.names["relay-0"] = "its journal"
    async with journal_at(tmp_path / "j.db") as journal:
        entry = Seeding(journal, store, "relay-1", "relay-0")
        await entry.enter()
        store.names.clear()
        await entry.enter()
        assert store.names == {"relay-1": journal.id}


async def test_store_is_looked_at_now_and_then(tmp_path: Path) -> None:
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        entry = Seeding(journal, store, "relay-0", "relay-0")
        await entry.enter()
        calls = store.calls
        for _ in range(100):
            await entry.enter()
        assert store.calls == calls


async def test_newcomer_waits_for_the_one_that_ran_alone(tmp_path: Path) -> None:
    store = MemoryStore()
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    async with journal_at(old) as first, journal_at(new) as second:
        await publish(first, "a")
        newcomer = Seeding(second, store, "relay-1", "relay-0")
        with pytest.raises(ClaimsAwaitedError, match="relay-0"):
            await newcomer.enter()
        await Seeding(first, store, "relay-0", "relay-0").enter()
        await newcomer.enter()
        assert store.owners == {"a": first.id}
        await newcomer.enter()
