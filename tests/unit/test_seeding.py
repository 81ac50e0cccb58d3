"""From one replica to several: what the first has published is claimed before others publish."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.claims import peers, seeding
from relay.claims.peers import Peers
from relay.claims.seeding import Seeding
from relay.contract.rules.values import rfc3339
from relay.errors import ClaimsAwaitedError, ClaimsUnavailableError, RejectedError, RejectReason
from relay.events import Outcome, Settlement, StoredEvent
from relay.journal.journal import Journal
from relay.journal.rows.claimed import Claimed
from relay.journal.rows.identity import Identity
from relay.observe import clock
from tests.fakes import as_json, event, journal_at, payload, until


class MemoryStore:
    """A claims store in memory, which may be away."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.listed = ""
        self.failures = 0
        self.calls = self.claims = 0
        #: Claims go through while it is set.
        self.flowing = asyncio.Event()
        self.flowing.set()

    def empty(self) -> None:
        self.owners.clear()
        self.names.clear()
        self.listed = ""

    async def members(self) -> str:
        self._called()
        return self.listed

    async def enlist(self, members: str) -> None:
        self._called()
        self.listed = members

    def _called(self) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise ClaimsUnavailableError("away")

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        await self.flowing.wait()
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
    monkeypatch.setattr(seeding, "BUSY_LOOK", 0.0)


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
        await journal.note_claimed(Claimed())
    async with journal_at(path) as journal:
        await Seeding(journal, store, "", "").enter()
    assert store.claims == 2


async def test_entry_goes_on_after_a_failure(tmp_path: Path) -> None:
    """Whichever of its steps it was that met no store."""
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a", "b", "c", "d")
        for failures in (1, 1, 1):
            store = MemoryStore()
            await journal.note_claimed(Claimed())
            entry = Seeding(journal, store, "relay-0", "relay-0")
            store.failures = failures
            with pytest.raises(ClaimsUnavailableError):
                await entry.enter()
            await entry.enter()
            assert set(store.owners) == {"a", "b", "d"}
            assert store.names["relay-0"] == journal.id


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
        assert store.names["relay-1"] == journal.id


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


def made(event_id: str, at: float, **changes: Any) -> StoredEvent:
    """Give a pending event that Feishu made at a time."""
    body = payload(event_id)
    body["header"]["create_time"] = str(int(at * 1000))
    callback = event(event_id, as_json(body))
    kept = {name: getattr(callback, name) for name in ("app", "transport", "received_at")}
    return StoredEvent(
        seq=1, event_id=event_id, event_type="t", body=callback.body, **(kept | changes)
    )


@pytest.mark.usefixtures("always_looking")
async def test_gone_replica_is_waited_for_for_one_window(tmp_path: Path) -> None:
    """Of the journal's own time, over restarts; then its past cannot be repeated any more."""
    store, path = MemoryStore(), tmp_path / "j.db"
    for hours in (0, 5, 15.9):
        async with journal_at(path, window=16 * 3600) as journal:
            retention = journal.retention
            retention.open_for = max(retention.open_for, int(hours * 3600_000))
            with pytest.raises(ClaimsAwaitedError, match=r"waits until relay-0.*gone relay-0$"):
                await Seeding(journal, store, "relay-1", "relay-0").enter()
    async with journal_at(path, window=16 * 3600) as journal:
        journal.retention.open_for = 16 * 3600_000
        await Seeding(journal, store, "relay-1", "relay-0").enter()
    async with journal_at(path, window=16 * 3600) as journal:
        await Seeding(journal, store, "relay-1", "relay-0").enter()
        with pytest.raises(ClaimsAwaitedError) as another:
            await Seeding(journal, store, "relay-1", "relay-2").enter()
        assert another.value.replica == "relay-2"
        await journal.note_claimed(Claimed())
    async with journal_at(path, window=16 * 3600) as journal:
        with pytest.raises(ClaimsAwaitedError):
            await Seeding(journal, store, "relay-1", "relay-0").enter()


@pytest.mark.usefixtures("always_looking")
async def test_mark_that_has_lapsed_is_not_waited_for_again(tmp_path: Path) -> None:
    """It goes a window after its replica: who saw that need not wait at its next start."""
    store, path = MemoryStore(), tmp_path / "j.db"
    store.names["relay-0"] = "its journal"
    async with journal_at(path) as journal:
        entry = Seeding(journal, store, "relay-1", "relay-0")
        await entry.enter()
        del store.names["relay-0"]
        await entry.enter()
    async with journal_at(path) as journal:
        await Seeding(journal, store, "relay-1", "relay-0").enter()


async def test_mark_that_is_gone_at_a_start_is_waited_for(tmp_path: Path) -> None:
    """An operator may have removed it: the other one ran alone."""
    store, path = MemoryStore(), tmp_path / "j.db"
    store.names["relay-0"] = "its journal"
    async with journal_at(path) as journal:
        await Seeding(journal, store, "relay-1", "relay-0").enter()
    del store.names["relay-0"]
    async with journal_at(path) as journal:
        with pytest.raises(ClaimsAwaitedError):
            await Seeding(journal, store, "relay-1", "relay-0").enter()


@pytest.mark.usefixtures("always_looking")
async def test_what_went_out_unclaimed_is_claimed_later(tmp_path: Path) -> None:
    """By this process or the next; what was claimed before is not asked for again."""
    store, path = MemoryStore(), tmp_path / "j.db"
    async with journal_at(path) as journal:
        entry = Seeding(journal, store, "", "")
        await entry.enter()
        await publish(journal, "claimed")
        await entry.unclaimed(2)
        await publish(journal, "b")
        await entry.unclaimed(3)
        await publish(journal, "c")
        assert journal.claimed.missing_from == 2
        await until_in(entry, journal)
        assert set(store.owners) == {"b", "c"}
        await entry.unclaimed(4)
        await publish(journal, "d")
    async with journal_at(path) as journal:
        await Seeding(journal, store, "", "").enter()
        assert set(store.owners) == {"b", "c", "d"}


@pytest.mark.usefixtures("always_looking")
async def test_what_goes_out_unclaimed_meanwhile_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store went away again while the past was brought in."""
    monkeypatch.setattr(seeding, "PATIENCE", 0.01)
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a")
        entry = Seeding(journal, store, "relay-0", "")
        store.flowing.clear()
        await entry.enter()
        assert "relay-0" not in store.names, "its past is not there"
        await entry.unclaimed(2)
        store.flowing.set()
        await until(lambda: store.claims)
        await entry.enter()
        await publish(journal, "b")
        await until_in(entry, journal)
        assert set(store.owners) == {"a", "b"}
        await entry.enter()
        assert "relay-0" in store.names


async def until_in(entry: Seeding, journal: Journal) -> None:
    """Look until nothing is missing."""
    async with asyncio.timeout(10):
        while journal.claimed.missing_from is not None:
            await entry.enter()
            await asyncio.sleep(0.001)


async def test_events_do_not_go_out_unclaimed_without_a_note(tmp_path: Path) -> None:
    """The journal cannot be written: it is held, and what the file says stays true."""
    async with journal_at(tmp_path / "j.db") as journal:
        entry = Seeding(journal, MemoryStore(), "", "")
        await entry.enter()

        async def full(_: object) -> None:
            raise RejectedError(RejectReason.JOURNAL_UNAVAILABLE, "no space")

        usual, journal._call = journal._call, full  # type: ignore[method-assign, assignment]
        with pytest.raises(RejectedError):
            await entry.unclaimed(1)
        assert journal.claimed.missing_from is None
        journal._call = usual  # type: ignore[method-assign]


@pytest.mark.usefixtures("always_looking")
async def test_publishing_goes_on_while_an_emptied_store_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what was made before: another replica may have published it."""
    monkeypatch.setattr(seeding, "PATIENCE", 0.01)
    monkeypatch.setattr(peers, "NOTICE", 0.5)
    store = MemoryStore()
    now = time.time()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, *"abcd")
        entry = Seeding(journal, store, "relay-0", "")
        store.listed, store.names["relay-1"] = "relay-0 relay-1", "another"
        await entry.enter([made("old", now - 3600)])
        store.empty()
        store.flowing.clear()
        with capture_logs() as logs:
            await entry.enter([made("new", now + 60)])
        assert [line["event"] for line in logs] == ["claims_emptied"]
        assert not journal.claimed.seeded
        await entry.enter([made("again", now - 3600, replayed=True)])
        for old in (made("old", now - 3600), replace(made("x", 0), body=b"?"), made("y", 0)):
            with pytest.raises(ClaimsAwaitedError, match="was emptied"):
                await entry.enter([made("new", now + 60), old])
        store.flowing.set()
        await until_in(entry, journal)
        assert set(store.owners) == {"a", "b", "d"}
        with pytest.raises(ClaimsAwaitedError, match="was emptied"):
            await entry.enter([made("old", now - 3600)])
        await asyncio.sleep(0.6)
        await entry.enter([made("old", now - 3600)])


async def test_wait_after_a_store_was_emptied_names_who_has_not_filled_it(tmp_path: Path) -> None:
    """With the command that ends it, if that one never comes again."""
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, *"ab")
        entry = Seeding(journal, store, "relay-0", "")
        store.listed, store.names["relay-1"] = "relay-0 relay-1", "another"
        await entry.enter([made("old", 0)])
        store.empty()
        entry.emptied()
        with pytest.raises(ClaimsAwaitedError, match=r"emptied.*what relay-1 has.* gone relay-1$"):
            await entry.enter([made("old", 0)])


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of who waits for others, in the test's hands."""
    now = [1000.0]
    monkeypatch.setattr(clock, "boot", lambda: now[0])
    return now


async def test_all_that_run_are_waited_for_until_they_have_filled_it(seconds: list[float]) -> None:
    """Those that do not run have had the time to show it; those that die while they fill, too."""
    store = MemoryStore()
    others = Peers(store)
    store.listed = "relay-0 running gone retired dying"
    for name in ("running", "gone", "dying"):
        store.names[name] = "its journal"
    assert await others.look("relay-0")
    store.empty()
    others.start()
    assert not await others.look("relay-0")
    assert store.listed == "dying gone relay-0 running"
    store.names["@running"] = store.names["@dying"] = "its journal"
    seconds[0] += peers.NOTICE
    assert not await others.look("relay-0")
    store.names["running"] = "its journal"
    assert not await others.look("relay-0")
    seconds[0] += peers.LONGEST_FILL
    assert await others.look("relay-0")


async def test_who_is_alone_waits_for_nobody(seconds: list[float]) -> None:
    store = MemoryStore()
    others = Peers(store)
    assert await others.look("relay-0")
    store.empty()
    others.start()
    assert await others.look("relay-0")


async def test_at_a_start_nobody_is_known(seconds: list[float]) -> None:
    """So all have the time to put themselves down."""
    store = MemoryStore()
    others = Peers(store)
    others.start()
    assert not await others.look("relay-0")
    store.listed += " relay-1"
    store.names["@relay-1"] = "its journal"
    seconds[0] += peers.NOTICE
    assert not await others.look("relay-0")
    store.names["relay-1"] = "its journal"
    assert await others.look("relay-0")


async def test_name_that_another_has_overwritten_is_put_down_again(seconds: list[float]) -> None:
    """And one without a past in the store is not kept for ever."""
    store = MemoryStore()
    others = Peers(store)
    store.listed = "relay-1 retired"
    store.names["relay-1"] = "its journal"
    assert await others.look("relay-0")
    assert store.listed == "relay-0 relay-1"


@pytest.mark.usefixtures("always_looking")
async def test_store_emptied_while_it_is_filled_is_filled_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "PATIENCE", 0.01)
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, *"abcdefgh")
        entry = Seeding(journal, store, "relay-0", "")
        claim, flown = store.claim, 0

        async def claim_slowly(events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
            nonlocal flown
            answer = await claim(events, owner)
            flown += 1
            if flown == 2:
                store.flowing.clear()
            return answer

        monkeypatch.setattr(store, "claim", claim_slowly)
        await entry.enter()
        await until(lambda: flown == 2)
        store.empty()
        await entry.enter()
        store.flowing.set()
        await until_in(entry, journal)
        assert set(store.owners) == set("abdegh")


async def test_fill_that_fails_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "LOOK", 0.0)
    monkeypatch.setattr(seeding, "BUSY_LOOK", 0.0)
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, *"abcdefgh")
        entry = Seeding(journal, store, "", "")
        claim = store.claim

        async def claim_once(events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
            if store.claims == 2:
                store.claims += 1
                raise ClaimsUnavailableError("away")
            return await claim(events, owner)

        monkeypatch.setattr(store, "claim", claim_once)
        with pytest.raises(ClaimsUnavailableError):
            await entry.enter()
        await until_in(entry, journal)
        assert store.claims == 5, "four pages, and the one that failed"
        assert set(store.owners) == set("abdegh")


async def test_stop_leaves_the_rest_to_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "PATIENCE", 0.01)
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a")
        entry = Seeding(journal, store, "", "")
        store.flowing.clear()
        await entry.enter()
        await entry.close()
        assert journal.claimed.missing_from == 0
        assert not store.owners


async def test_mark_of_an_earlier_version_tells_that_the_store_is_whole(tmp_path: Path) -> None:
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a")
        await journal.note_claimed(Claimed(seeded=True))
        store.names["relay-0"] = journal.id
        await Seeding(journal, store, "relay-0", "").enter([made("old", 1)])
        assert not store.owners


async def test_store_emptied_while_nobody_looked_is_noticed_at_the_start(tmp_path: Path) -> None:
    store, path = MemoryStore(), tmp_path / "j.db"
    async with journal_at(path) as journal:
        await publish(journal, "a")
        await Seeding(journal, store, "", "").enter([made("old", 1)])
    store.empty()
    async with journal_at(path) as journal:
        with pytest.raises(ClaimsAwaitedError, match="was emptied"):
            await Seeding(journal, store, "", "").enter([made("old", 1)])
    assert set(store.owners) == {"a"}


@pytest.mark.parametrize("replica", ["", "relay-0"])
async def test_new_name_of_a_journal_is_no_emptied_store(tmp_path: Path, replica: str) -> None:
    """It has parted from a copy, and starts again: its marks bear another name, or not."""
    store = MemoryStore()
    async with journal_at(tmp_path / "j.db") as journal:
        await publish(journal, "a")
        await Seeding(journal, store, replica, "").enter()
        assert journal.claimed.seeded
        await journal.become(Identity(id="another"))
    async with journal_at(tmp_path / "j.db") as journal:
        with capture_logs() as logs:
            await Seeding(journal, store, replica, "").enter([made("old", 0)])
    assert "claims_emptied" not in {line["event"] for line in logs}


async def test_name_taken_while_it_runs_is_no_emptied_store_either(tmp_path: Path) -> None:
    """Its marks follow it at the next look, so that the next process finds them."""
    store = MemoryStore()
    with capture_logs() as logs:
        async with journal_at(tmp_path / "j.db") as journal:
            await publish(journal, "a")
            seeding = Seeding(journal, store, "", "")
            await seeding.enter()
            await journal.become(Identity(id="another"))
            seeding.emptied()
            await seeding.enter([made("old", 0)])
            assert journal.claimed.seeded
        async with journal_at(tmp_path / "j.db") as journal:
            await Seeding(journal, store, "", "").enter([made("old", 0)])
    assert "claims_emptied" not in {line["event"] for line in logs}


async def test_name_taken_amid_the_filling_has_a_filling_of_its_own(tmp_path: Path) -> None:
    """What was brought in for the old name says nothing of the new one's marks."""
    store = MemoryStore()
    claim = store.claim

    async def renaming(events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        if journal.id != "another":
            await journal.become(Identity(id="another"))
        return await claim(events, owner)

    store.claim = renaming  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with journal_at(tmp_path / "j.db") as journal:
            await publish(journal, "a")
            seeding = Seeding(journal, store, "", "")
            await seeding.enter()
            seeded = [journal.claimed.seeded]
            seeding.emptied()
            await seeding.enter([made("old", 0)])
            seeded.append(journal.claimed.seeded)
    assert seeded == [False, True]
    assert "claims_emptied" not in {line["event"] for line in logs}


def test_time_of_an_event_is_compared_as_it_is_written() -> None:
    """RFC 3339 in UTC with milliseconds sorts as time does."""
    times = [0, 1, 999, 1000, 86_400_000, 1_767_323_045_678, 9_999_999_999_999]
    assert sorted(map(rfc3339, times)) == list(map(rfc3339, times))
