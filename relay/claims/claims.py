"""One event, one replica: claims events in Valkey or Redis before they are published.

A claim belongs to a journal, not to a process, and is made only for what is on that journal's disk:
whoever dies between claim and publication finds its own claim again. It never decides anything
else, and never holds an answer to Feishu.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import TYPE_CHECKING, TypeVar

import structlog
from redis.exceptions import AuthenticationError, NoPermissionError

from relay.claims.store import FAULTS, Answer, Claim, Store, connect
from relay.errors import (
    ClaimsAwaitedError,
    ClaimsEmptiedError,
    ClaimsError,
    ClaimsRefusedError,
    ClaimsUnavailableError,
)
from relay.events import StoredEvent, Verdict
from relay.journal.retention import Retention
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.settings import Claims as Settings
from relay.settings import OnOutage
from relay.settings.values import StoreUrl

if TYPE_CHECKING:
    from relay.claims.seeding import Seeding

T = TypeVar("T")

log = structlog.get_logger()

#: Keys in one call, so that the server is never busy with one for more than about a millisecond.
CALL_KEYS = 500
#: Seconds between two tries while the store is away, doubled up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
#: Seconds for which a process that must end tries to release its claims.
RELEASE_PATIENCE = 30.0

#: How the library names a sentinel that it has asked: by all the options of its connections.
_CLIENT = re.compile(r"<redis\.asyncio\..*?\)>(?= - )")
#: Seconds without a batch after which the store is asked whether it is still there.
IDLE_LOOK = 10.0


class Claims:
    """The claims of one process."""

    def __init__(self, settings: Settings, retention: Retention, metrics: Metrics) -> None:
        self._settings = settings
        self._seconds = retention.claim_seconds
        self._metrics = metrics
        self.changes = Changes(log, "claims_available")
        self._store: Store | None = None
        #: Whether it is known what a full store does.
        self._looked = False
        self._wait = FIRST_WAIT
        #: Monotonic time before which nothing is tried (with `publish`).
        self._again_at = 0.0
        #: Monotonic time at which the store was last asked.
        self._asked_at = -IDLE_LOOK
        metrics.claims_up.set(0)
        #: Keys that were free before the batch which is not yet published, and its events' seq.
        self._fresh: dict[str, int] = {}
        self._connecting = asyncio.Lock()
        #: What must have succeeded before the first claim.
        self.entry: Seeding | None = None

    async def close(self) -> None:
        """Close the connection."""
        if self.entry:
            await self.entry.close()
        await self._discard()

    async def ask(self, events: Sequence[StoredEvent], owner: str) -> Verdict:
        """Claim a batch for a journal; waits while the store is away, unless it may be skipped."""
        if self._settings.on_outage is OnOutage.PUBLISH and time.monotonic() < self._again_at:
            return await self._skip(events)
        while True:
            try:
                if self.entry:
                    await self.entry.enter(events)
                lost = await self._claim(events, owner, self._fresh)
            except ClaimsEmptiedError:
                if self.entry:
                    self.entry.emptied()
                continue
            except ClaimsError as error:
                self._failed(error)
                awaited = isinstance(error, ClaimsAwaitedError)
                if self._settings.on_outage is OnOutage.PUBLISH and not awaited:
                    self._again_at = time.monotonic() + LONGEST_WAIT
                    return await self._skip(events)
                self._metrics.claims_waiting.set(len(events))
                await asyncio.sleep(self._wait * random.uniform(0.5, 1))  # noqa: S311 - jitter
                self._wait = min(self._wait * 2, LONGEST_WAIT)
                continue
            self._succeeded(len(events), len(lost))
            return Verdict(lost=lost)

    async def _skip(self, events: Sequence[StoredEvent]) -> Verdict:
        """Let events go out unclaimed; they are claimed once the store is back."""
        if self.entry:
            await self.entry.unclaimed(events[0].seq)
        return Verdict(skipped=True)

    def published(self) -> None:
        """What was claimed has come to its end, and is never to be released."""
        self._fresh.clear()

    async def release(self, owner: str, first_seq: int) -> None:
        """Let go of what is newly claimed and not published, from `first_seq` on.

        Nobody publishes it under this name. Tries for RELEASE_PATIENCE seconds, as what stays
        claimed is left to nobody; then raises as `claim` does.
        """
        keys = [key for key, seq in self._fresh.items() if seq >= first_seq]
        deadline = time.monotonic() + RELEASE_PATIENCE
        while part := keys[:CALL_KEYS]:
            try:
                await self._within(methodcaller("drop", part, owner))
            except ClaimsError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(self._wait)
            else:
                keys = keys[CALL_KEYS:]
        self._fresh.clear()

    async def look(self) -> None:
        """See from time to time whether the store is there, while there is nothing to claim."""
        if time.monotonic() < self._asked_at + IDLE_LOOK:
            return
        try:
            await self._within(lambda store: store.version())
            if self.entry:
                await self.entry.enter()
        except ClaimsError as error:
            self._failed(error)
        else:
            self._succeeded(0, 0)

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        """Claim a batch; give the positions that another journal has.

        Raises ClaimsUnavailableError or ClaimsRefusedError; then nothing is known, and asking again
        is harmless.
        """
        return await self._claim(events, owner, {})

    async def _claim(
        self, events: Sequence[StoredEvent], owner: str, fresh: dict[str, int]
    ) -> frozenset[int]:
        """Claim, and note in `fresh` the keys that nobody had, or of which that is not known."""
        groups: dict[str | None, list[int]] = {}
        for position, event in enumerate(events):
            # An operator wants a replayed event once more, whoever published it first.
            if not event.replayed:
                groups.setdefault(event.origin, []).append(position)
        lost: list[int] = []
        for origin, positions in groups.items():
            for first in range(0, len(positions), CALL_KEYS):
                part = positions[first : first + CALL_KEYS]
                keys = [self._key(events[position]) for position in part]
                seqs = [events[position].seq for position in part]
                try:
                    answer = await self._call(keys, owner, origin)
                except ClaimsError:
                    # It may have been done; the next try would find them as our own.
                    fresh |= zip(keys, seqs, strict=True)
                    raise
                lost += (part[place] for place in answer.lost)
                if len(answer.held) < len(keys):
                    free = (place for place in range(len(keys)) if place not in answer.held)
                    fresh |= {keys[place]: seqs[place] for place in free}
        return frozenset(lost)

    def _key(self, event: StoredEvent) -> str:
        return f"{self._settings.key_prefix}{event.app}:{event.event_id}"

    async def announce(self, replica: str, owner: str) -> None:
        """Say that everything a replica has published is in the store. Raises as `claim` does."""
        mark = self._announcement(replica)
        await self._within(lambda store: store.put(mark, owner, self._seconds))

    async def dismiss(self, replica: str) -> None:
        """Say, for ever, that nobody need wait for a replica's past. Raises as `claim` does."""
        mark = self._announcement(replica)
        try:
            await self._within(lambda store: store.put(mark, "gone", None))
        finally:
            await self._discard()

    async def announced(self, replica: str) -> bool:
        """Whether a replica has said so. Raises as `claim` does."""
        return await self._within(lambda store: store.has(self._announcement(replica)))

    async def members(self) -> str:
        """Give the names of those that share the store. Raises as `claim` does."""
        return await self._within(lambda store: store.read(f"{self._settings.key_prefix}@members"))

    async def enlist(self, members: str) -> None:
        """Put down the names of those that share the store. Raises as `claim` does."""
        key = f"{self._settings.key_prefix}@members"
        await self._within(lambda store: store.put(key, members, self._seconds))

    def _announcement(self, replica: str) -> str:
        return f"{self._settings.key_prefix}replica:{replica}"

    async def about(self) -> tuple[str, str]:
        """Connect; give the store's version and `Store.eviction`. Raises as `claim` does."""
        try:
            version = await self._within(lambda store: store.version())
            return version, await self._within(lambda store: store.eviction())
        finally:
            await self._discard()

    async def _call(self, keys: Sequence[str], owner: str, origin: str | None) -> Answer:
        claim = Claim(
            owner=owner,
            seconds=self._seconds,
            heir_of=origin.split() if origin else (),
            mark=self._announcement(self.entry.place) if self.entry else None,
        )
        return await self._within(lambda store: store.claim(keys, claim))

    async def _within(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Ask the store within the time limit; after any failure it is connected anew."""
        self._asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await work(await self._connected())
        except BaseException as error:
            await self._discard()
            if isinstance(error, FAULTS):
                raise _translated(error, self._settings.store) from error
            raise

    async def _connected(self) -> Store:
        """Give the store, one for those that claim and those that bring in the past."""
        async with self._connecting:
            if self._store is None:
                self._store = await connect(self._settings)
                await self._look_at_eviction(self._store)
            return self._store

    async def _look_at_eviction(self, store: Store) -> None:
        """Say once if a full store would forget claims: an event of those could go out twice."""
        if not self._looked and (policy := await store.eviction()):
            log.warning("claims_may_be_evicted", policy=policy)
        self._looked = True

    async def _discard(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(*FAULTS):
                async with asyncio.timeout(1):
                    await store.close()

    def _failed(self, error: ClaimsError) -> None:
        awaited = isinstance(error, ClaimsAwaitedError)
        self._metrics.claims_up.set(awaited)
        self._metrics.awaited(error.replica if isinstance(error, ClaimsAwaitedError) else "")
        if awaited:
            self.changes.failing("claims_awaited", str(error))
        else:
            self.changes.failing("claims_unavailable", str(error))

    def _succeeded(self, asked: int, lost: int) -> None:
        self._wait = FIRST_WAIT
        self._metrics.awaited("")
        self.changes.working()
        self._metrics.claims_up.set(1)
        self._metrics.claims_waiting.set(0)
        self._metrics.claims_asked.inc(asked)
        self._metrics.claims_lost.inc(lost)


def _translated(error: BaseException, asked: StoreUrl) -> ClaimsError:
    at = ", ".join(str(place) for place in asked.hosts)
    # A cluster's client hides why its nodes do not let it in.
    for one in (error, error.__cause__):
        if isinstance(one, AuthenticationError | NoPermissionError):
            return ClaimsRefusedError(f"the claims store at {at} refuses this user: {one}")
    if isinstance(error, TimeoutError):
        return ClaimsUnavailableError(f"the claims store at {at} did not answer in time")
    reason = _CLIENT.sub("a sentinel", str(error))
    return ClaimsUnavailableError(f"the claims store at {at} is not available: {reason}")
