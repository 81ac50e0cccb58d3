"""How a journal joins those that share claims: what it has published unclaimed is claimed for it.

A replica that ran alone claimed nothing, nor did one that went on while the store was away. What is
missing is brought in beside the publishing, or an event that Feishu repeats to another replica
would come twice. The same when the store was emptied. Its past matters to the others only: its own
repeats a journal knows.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog

from relay.claims.peers import Peers, place_of
from relay.contract import exactjson
from relay.contract.normalize import created_at
from relay.contract.rules.values import rfc3339
from relay.errors import ClaimsAwaitedError, ClaimsEmptiedError
from relay.events import StoredEvent
from relay.journal.journal import Journal

log = structlog.get_logger()

#: Rows of the journal that are claimed at once: answers wait for one page at most.
PAGE = 100
#: Seconds between two looks at the store, at least; an idle replica looks less often. That it
#: was emptied each claim tells.
LOOK = 5.0
#: The same while something is missing in it.
BUSY_LOOK = 1.0
#: Seconds for which all waits for the past: a short one is in before anything is published.
PATIENCE = 0.2


_FILLING = "the store was emptied: events made before wait until all replicas have filled it"


def lacks(replicas: Collection[str]) -> str:
    """Say whose past is not in the store, and what ends a wait for it."""
    names = ", ".join(sorted(replicas))
    return (
        f"what {names} has published before is not in it: who was told to come after, and events "
        "from before a store was emptied, wait for that; if it is gone for good: "
        f"relay claims gone {min(replicas)}"
    )


async def lacking(store: "Store", own: str) -> set[str]:
    """Name those that share a store and have not brought in their past; raises ClaimsError."""
    others = set((await store.members()).split()) - {own}
    return {name for name in others if not await store.announced(name)}


def awaited(replica: str) -> ClaimsAwaitedError:
    """Say which replica is waited for, for how long at most, and what ends it."""
    sentence = (
        f"waits until {replica} has brought in what it has published before, for a dedupe window "
        f"at most; if it is gone for good: relay claims gone {replica}"
    )
    return ClaimsAwaitedError(sentence, replica)


class Store(Protocol):
    """What `Claims` does for it; all raise ClaimsError."""

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        """Claim events; give the positions that others have."""

    async def announce(self, replica: str, owner: str) -> None:
        """Say that a replica's past is in the store, as long as there is a past to repeat."""

    async def announced(self, replica: str) -> bool:
        """Whether a replica's past is in the store."""

    async def members(self) -> str:
        """Give the names of those that share it, with a space between."""

    async def enlist(self, members: str) -> None:
        """Put down the names of those that share it."""


class Seeding:
    """The entry of one process, and what it must still bring in."""

    def __init__(self, journal: Journal, store: Store, replica: str, after: str) -> None:
        """`replica` is this one's name, `after` that of one that must have entered before."""
        self._journal = journal
        self._store = store
        self._replica = replica
        self._after = "" if after == replica else after
        self._peers = Peers(store)
        #: Under which name this process has arrived.
        self._arrived_as = ""
        self._entered = False
        #: Monotonic time at which the store is looked at again.
        self._again_at = 0.0
        self._filling: asyncio.Task[None] | None = None
        #: The last seq that is brought in; None before the first.
        self._cursor: int | None = None
        #: How often events went out unclaimed.
        self._skips = 0
        #: When the store was found empty, as events have their time; None when all have filled it.
        self._emptied_at: str | None = None

    @property
    def _name(self) -> str:
        """Only a name is told to others. A journal without one may take another id at any time."""
        return self._replica or self._journal.id

    @property
    def place(self) -> str:
        """Name the mark that each claim asks for: while it is there, the store has lost nothing."""
        return place_of(self._name)

    async def close(self) -> None:
        """Leave what is missing to the next process."""
        task, self._filling = self._filling, None
        if task:
            task.cancel()
            await asyncio.wait({task})

    async def enter(self, events: Sequence[StoredEvent] = ()) -> None:
        """Look whether these events may be claimed now; raises ClaimsError if not."""
        if time.monotonic() >= self._again_at:
            await self._look()
        if self._emptied_at is not None and any(self._old(event) for event in events):
            raise ClaimsAwaitedError(self._why())

    async def unclaimed(self, seq: int) -> None:
        """Note that the events from `seq` on go out unclaimed: they are brought in later."""
        self._skips += 1
        self._again_at = 0.0
        claimed = self._journal.claimed
        if claimed.missing_from is None:
            await self._journal.note_claimed(replace(claimed, unclaimed_from=seq))

    def _why(self) -> str:
        missing = self._peers.missing
        return f"{_FILLING}; {lacks(missing)}" if missing else _FILLING

    def emptied(self) -> None:
        """Look at the store at once: it has lost its mark."""
        self._again_at = 0.0

    async def _look(self) -> None:
        """See that the store has everything, and that this replica's turn has come."""
        name = self._name
        if not await self._store.announced(self.place):
            await self._arrive()
        await self._store.announce(self.place, self._journal.id)
        self._arrived_as = name
        await self._bring_in()
        await self._see_peers()
        if self._journal.claimed.missing_from is None:
            await self._store.announce(self._name, self._journal.id)
        await self._await_turn()
        lacking = self._emptied_at is not None or self._journal.claimed.missing_from is not None
        self._again_at = time.monotonic() + (BUSY_LOOK if lacking else LOOK)

    async def _arrive(self) -> None:
        """Find a store that has nothing of this journal: a new one, or it was emptied."""
        await self.close()
        if await self._store.announced(self._name):
            return  # an earlier version has set no such mark
        claimed = self._journal.claimed
        if claimed.seeded or self._arrived_as == self._name:
            self._emptied_at = rfc3339(int(time.time() * 1000))
            self._peers.start()
            log.warning("claims_emptied")
        self._cursor = None
        await self._journal.note_claimed(replace(claimed, seeded=False, unclaimed_from=None))

    async def _bring_in(self) -> None:
        """Go on with what is missing, beside all else; a short past is waited for."""
        if self._journal.claimed.missing_from is None:
            return
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill())
            await asyncio.wait({self._filling}, timeout=PATIENCE)
        if self._filling.done():
            task, self._filling = self._filling, None
            with suppress(ClaimsEmptiedError):  # the next look finds that, too
                task.result()

    async def _fill(self) -> None:
        """Claim what was published unclaimed, the oldest first; it goes on where it has failed."""
        began, skips, name, count = time.monotonic(), self._skips, self._name, 0
        missing_from = self._journal.claimed.missing_from or 0
        cursor = missing_from - 1 if self._cursor is None else self._cursor
        while (past := self._journal.published(cursor, PAGE))[1] > cursor:
            events, last = past
            if events:
                await self._store.claim(events, self._journal.id)
            await asyncio.sleep(0)
            self._cursor = cursor = last
            count += len(events)
        if (skips, name) == (self._skips, self._name):
            claimed = replace(self._journal.claimed, seeded=True, unclaimed_from=None)
            self._cursor = None
            await self._journal.note_claimed(claimed)
        if count:
            log.info("claims_filled", events=count, seconds=round(time.monotonic() - began, 1))

    async def _see_peers(self) -> None:
        """Learn who else there is; and of an emptied store, whether they have filled it."""
        if await self._peers.look(self._name) and self._emptied_at is not None:
            self._emptied_at = None
            log.info("claims_refilled")

    def _old(self, event: StoredEvent) -> bool:
        """Whether an event may have been published before the store was emptied."""
        if event.replayed:
            return False
        try:
            content = event.content or exactjson.glance(event.body)
        except ValueError:
            return True
        return (created_at(content) or "") <= (self._emptied_at or "")

    async def _await_turn(self) -> None:
        """Raise ClaimsAwaitedError while the replica to come after has not brought in its past.

        After a window of the journal's time that past cannot be repeated any more. The mark goes by
        itself a window after its replica: who sees that has waited long enough.
        """
        if not self._after:
            return
        retention, claimed = self._journal.retention, self._journal.claimed
        since = claimed.awaited_since if claimed.awaited == self._after else None
        if await self._store.announced(self._after):
            since, self._entered = None, True
        elif since is None:
            lapsed = self._entered and self._emptied_at is None
            since = retention.open_for - (retention.window if lapsed else 0)
        noted = replace(claimed, awaited=self._after, awaited_since=since)
        await self._journal.note_claimed(noted)
        self._entered = self._entered or (since is not None and retention.over(since))
        if not self._entered:
            raise awaited(self._after)
