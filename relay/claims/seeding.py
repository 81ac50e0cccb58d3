"""How a journal joins those that share claims: what it has published before is claimed first.

A replica that ran alone claimed nothing. Before others may publish beside it, its past must be in
the store, or an event that Feishu repeats to one of them would come twice. The same when the store
was emptied; a replica notices by its own mark.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from relay.errors import ClaimsAwaitedError
from relay.events import StoredEvent
from relay.journal.journal import Journal

#: Rows of the journal that are claimed at once.
PAGE = 2000
#: Seconds between two looks for the own mark, at least; an idle replica looks less often.
LOOK = 1.0


class Store(Protocol):
    """What `Claims` does for it; all raise ClaimsError."""

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        """Claim events; give the positions that others have."""

    async def announce(self, replica: str, owner: str) -> None:
        """Say that a replica's past is in the store, as long as there is a past to repeat."""

    async def announced(self, replica: str) -> bool:
        """Whether a replica's past is in the store."""


Entry = Callable[[], Awaitable[None]]


class Seeding:
    """The entry of one process, to be called before whatever it claims."""

    def __init__(self, journal: Journal, store: Store, replica: str, after: str) -> None:
        """`replica` is this one's name, `after` that of one that must have entered before."""
        self._journal = journal
        self._store = store
        self._replica = replica
        self._after = after
        self._entered = False
        #: Monotonic time at which the store is looked at again.
        self._again_at = 0.0

    async def enter(self) -> None:
        """Bring in the past, and ask for the other's; raises ClaimsError while it is not done."""
        if time.monotonic() < self._again_at:
            return
        # Only a name is told to others; the store's loss shows by any mark.
        name = self._replica or self._journal.id
        if not (self._journal.claims_seeded and await self._store.announced(name)):
            await self._seed()
        await self._store.announce(name, self._journal.id)
        if not self._entered and not await self._is_our_turn():
            message = f"waits until {self._after} has brought in what it has published before"
            raise ClaimsAwaitedError(message)
        self._entered = True
        self._again_at = time.monotonic() + LOOK

    async def _is_our_turn(self) -> bool:
        return self._after in {"", self._replica} or await self._store.announced(self._after)

    async def _seed(self) -> None:
        seq = 0
        while page := self._journal.published(seq, PAGE):
            await self._store.claim(page, self._journal.id)
            seq = page[-1].seq
        await self._journal.note_claims(seeded=True)
