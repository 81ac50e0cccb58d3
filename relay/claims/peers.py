"""The other replicas that share a claims store; and, when it was emptied, who has filled it.

Each puts its name on a list in the store. Who is found there with its past is remembered: when the
store is emptied, so is the list.
"""

from typing import Protocol

from relay.observe import clock

#: Seconds in which a running replica has noticed that the store was emptied: an idle one looks
#: every ten.
NOTICE = 30.0
#: Seconds to fill it; a replica that takes longer is not waited for: it may have died meanwhile.
LONGEST_FILL = 600.0


class Store(Protocol):
    """What `Claims` does for it; all raise ClaimsError."""

    async def announced(self, replica: str) -> bool:
        """Whether a replica's past, or its place, is in the store."""

    async def members(self) -> str:
        """Give the names of those that share it, with a space between."""

    async def enlist(self, members: str) -> None:
        """Put down the names of those that share it."""


def place_of(name: str) -> str:
    """Name the mark that a replica sets at once, before its past is in the store."""
    return f"@{name}"


class Peers:
    """What one replica knows of the others."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Those whose past is, or was, in the store; None before the first look.
        self._known: set[str] | None = None
        #: Those that are waited for.
        self.missing: set[str] = set()
        #: Boot time at which the store was found empty; None: all have filled it.
        self._since: float | None = None
        #: Whether that was at the first look: others may not yet have shown themselves.
        self._strange = False

    def start(self) -> None:
        """The store was found empty: wait for all others."""
        self._since = clock.boot()
        self._strange = self._known is None

    async def look(self, own: str) -> bool:
        """Give whether the store has what each of the others has published; `own` is our name."""
        listed = set((await self._store.members()).split())
        others = listed.union(self._known or ()) - {own}
        there = {name for name in others if await self._store.announced(name)}
        self.missing = {name for name in others - there if await self._waited_for(name)}
        if own not in listed:
            await self._store.enlist(" ".join(sorted({own, *there, *self.missing})))
        self._known = there | self.missing
        if self.missing or (self._strange and self._passed() < NOTICE):
            return False
        self._since, self._strange = None, False
        return True

    def _passed(self) -> float:
        return clock.boot() - (self._since or 0.0)

    async def _waited_for(self, name: str) -> bool:
        """Whether a replica may still fill the store: it runs, or had no time to show that."""
        if self._since is None:
            return False
        if self._passed() < NOTICE:
            return True
        return self._passed() < LONGEST_FILL and await self._store.announced(place_of(name))
