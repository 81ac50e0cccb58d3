"""One event, one replica: claims events in Valkey or Redis before they are published.

A claim belongs to a journal, not to a process, and is made only for what is on that journal's disk:
whoever dies between claim and publication finds its own claim again. It never decides anything
else, and never holds an answer to Feishu.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from relay.errors import (
    ClaimsAwaitedError,
    ClaimsError,
    ClaimsRefusedError,
    ClaimsUnavailableError,
)
from relay.events import StoredEvent, Verdict
from relay.logs import Changes
from relay.metrics import Metrics
from relay.settings import Claims as Settings
from relay.settings import OnOutage

if TYPE_CHECKING:
    from relay.seeding import Entry

T = TypeVar("T")

log = structlog.get_logger()

#: `SET ... NX GET` came with Redis 7.0; every Valkey has it.
OLDEST_VERSION = 7
#: Keys in one call, so that the server is never busy with one for more than about a millisecond.
CALL_KEYS = 500
#: Seconds between two tries while the store is away, doubled up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0

#: Seconds without a batch after which the store is asked whether it is still there.
IDLE_LOOK = 10.0

#: One call for many keys costs a tenth of as many `SET`s.
_SCRIPT = """
local lost = {}
for place, key in ipairs(KEYS) do
  local owner = redis.call('SET', key, ARGV[1], 'NX', 'GET', 'EX', ARGV[2])
  for heir = 3, #ARGV do
    if owner == ARGV[heir] then
      redis.call('SET', key, ARGV[1], 'EX', ARGV[2])
      owner = false
    end
  end
  if owner and owner ~= ARGV[1] then lost[#lost + 1] = place end
end
return lost
"""


class _Store(Protocol):
    """A server, or a cluster of them."""

    async def claim(
        self, keys: Sequence[str], owner: str, seconds: int, heir_of: Sequence[str]
    ) -> list[int]:
        """Claim each key that is free, or held by a journal that `owner` is the heir of.

        Gives the positions of those that others hold.
        """

    async def put(self, key: str, value: str) -> None:
        """Set a key for good."""

    async def has(self, key: str) -> bool:
        """Whether a key is there."""

    async def version(self) -> str:
        """Give the server's version, as `7.2.4`."""

    async def close(self) -> None:
        """Close the connections."""


class Claims:
    """The claims of one process."""

    def __init__(self, settings: Settings, window: float, metrics: Metrics) -> None:
        self._settings = settings
        self._seconds = int(window)
        self._metrics = metrics
        self._changes = Changes(log, "claims_available")
        self._store: _Store | None = None
        self._wait = FIRST_WAIT
        #: Monotonic time before which nothing is tried (with `publish`).
        self._again_at = 0.0
        #: Monotonic time at which the store was last asked.
        self._asked_at = -IDLE_LOOK
        metrics.claims_up.set(0)
        #: What must have succeeded before the first claim.
        self.entry: Entry | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._discard()

    async def ask(self, events: Sequence[StoredEvent], owner: str) -> Verdict:
        """Claim a batch for a journal; waits while the store is away, unless it may be skipped."""
        if self._settings.on_outage is OnOutage.PUBLISH and time.monotonic() < self._again_at:
            return Verdict(skipped=True)
        while True:
            try:
                if self.entry:
                    await self.entry()
                lost = await self.claim(events, owner)
            except ClaimsError as error:
                self._failed(error)
                awaited = isinstance(error, ClaimsAwaitedError)
                if self._settings.on_outage is OnOutage.PUBLISH and not awaited:
                    self._again_at = time.monotonic() + LONGEST_WAIT
                    return Verdict(skipped=True)
                self._metrics.claims_waiting.set(len(events))
                await asyncio.sleep(self._wait * random.uniform(0.5, 1))  # noqa: S311 - jitter
                self._wait = min(self._wait * 2, LONGEST_WAIT)
                continue
            self._succeeded(len(events), len(lost))
            return Verdict(lost=lost)

    async def look(self) -> None:
        """See from time to time whether the store is there, while there is nothing to claim."""
        if time.monotonic() < self._asked_at + IDLE_LOOK:
            return
        try:
            await self._within(lambda store: store.version())
            if self.entry:
                await self.entry()
        except ClaimsError as error:
            self._failed(error)
        else:
            self._succeeded(0, 0)

    async def claim(self, events: Sequence[StoredEvent], owner: str) -> frozenset[int]:
        """Claim a batch; give the positions that another journal has.

        Raises ClaimsUnavailableError or ClaimsRefusedError; then nothing is known, and asking again
        is harmless.
        """
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
                lost += (part[place] for place in await self._call(keys, owner, origin))
        return frozenset(lost)

    def _key(self, event: StoredEvent) -> str:
        return f"{self._settings.key_prefix}{event.app}:{event.event_id}"

    async def announce(self, replica: str, owner: str) -> None:
        """Say that everything a replica has published is in the store. Raises as `claim` does."""
        await self._within(lambda store: store.put(self._announcement(replica), owner))

    async def announced(self, replica: str) -> bool:
        """Whether a replica has said so. Raises as `claim` does."""
        return await self._within(lambda store: store.has(self._announcement(replica)))

    def _announcement(self, replica: str) -> str:
        return f"{self._settings.key_prefix}replica:{replica}"

    async def version(self) -> str:
        """Connect, and give the store's version. Raises as `claim` does."""
        try:
            return await self._within(lambda store: store.version())
        finally:
            await self._discard()

    async def _call(self, keys: Sequence[str], owner: str, origin: str | None) -> list[int]:
        heir_of = origin.split() if origin else ()
        return await self._within(lambda store: store.claim(keys, owner, self._seconds, heir_of))

    async def _within(self, work: Callable[["_Store"], Awaitable[T]]) -> T:
        """Ask the store within the time limit; after any failure it is connected anew."""
        self._asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout):
                if self._store is None:
                    self._store = await connect(self._settings)
                return await work(self._store)
        except BaseException as error:
            await self._discard()
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise _translated(error) from error
            raise

    async def _discard(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await store.close()

    def _failed(self, error: ClaimsError) -> None:
        self._metrics.claims_up.set(0)
        self._changes.failing("claims_unavailable", str(error))

    def _succeeded(self, asked: int, lost: int) -> None:
        self._wait = FIRST_WAIT
        self._changes.working()
        self._metrics.claims_up.set(1)
        self._metrics.claims_waiting.set(0)
        self._metrics.claims_asked.inc(asked)
        self._metrics.claims_lost.inc(lost)


async def connect(settings: Settings) -> "_Store":
    """Connect, and refuse a server that is too old.

    Raises ClaimsRefusedError; RedisError, OSError or TimeoutError if it cannot be reached.
    """
    store = _store(settings)
    try:
        version = await store.version()
    except BaseException:
        with suppress(RedisError, OSError):
            await store.close()
        raise
    if int(version.partition(".")[0]) < OLDEST_VERSION:
        await store.close()
        message = f"the claims store has version {version}; relay needs Redis 7 or Valkey"
        raise ClaimsRefusedError(message)
    return store


def _store(settings: Settings) -> "_Store":
    """Make the client that the URL's scheme names; nothing is connected yet."""
    url = urlsplit(settings.url.get_secret_value())
    base, _, kind = url.scheme.partition("+")
    options: dict[str, Any] = {
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "retry": Retry(NoBackoff(), 0),
        "username": unquote(url.username) if url.username else None,
        "password": unquote(url.password) if url.password else None,
    }
    if base == "rediss":
        options |= {
            "ssl": True,
            "ssl_ca_certs": str(settings.ca_file) if settings.ca_file else None,
        }
    if kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in _hosts(url, 6379)]
        return _Cluster(RedisCluster(startup_nodes=nodes, **options))
    path = [part for part in url.path.split("/") if part]
    if kind == "sentinel":
        options["db"] = int(path[1]) if len(path) > 1 else 0
        limits = {name: options[name] for name in ("socket_timeout", "retry")}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # the library lacks it
            _hosts(url, 26379), sentinel_kwargs=limits, **options
        )
        return _Server(sentinel.master_for(path[0]), *sentinel.sentinels)
    ((host, port),) = _hosts(url, 6379)
    return _Server(Redis(host=host, port=port, db=int(path[0]) if path else 0, **options))


def _hosts(url: SplitResult, default: int) -> list[tuple[str, int]]:
    """Read `host:port,host:port`."""
    found = []
    for place in url.netloc.rpartition("@")[2].split(","):
        host, colon, port = place.rpartition(":")
        found.append((host, int(port)) if colon else (place, default))
    return found


class _Keys:
    """What is one command everywhere."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def put(self, key: str, value: str) -> None:
        """Set a key for good."""
        await self._client.set(key, value)

    async def has(self, key: str) -> bool:
        """Whether a key is there."""
        return bool(await self._client.exists(key))


class _Server(_Keys):
    """One server, or the master that sentinels name."""

    def __init__(self, client: Any, *sentinels: Any) -> None:
        super().__init__(client)
        self._sentinels = sentinels
        self._script = client.register_script(_SCRIPT)

    async def claim(
        self, keys: Sequence[str], owner: str, seconds: int, heir_of: Sequence[str]
    ) -> list[int]:
        """Claim many keys in one call."""
        lost = await self._script(keys=keys, args=(owner, seconds, *heir_of))
        return [place - 1 for place in lost]

    async def version(self) -> str:
        """Ask the server."""
        return _version(await self._client.info(section="server"))

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._sentinels):
            await client.aclose()


class _Cluster(_Keys):
    """A cluster: each key has its own node, so each is a command of its own."""

    async def claim(
        self, keys: Sequence[str], owner: str, seconds: int, heir_of: Sequence[str]
    ) -> list[int]:
        """Claim many keys in one pipeline; inherited ones, which are few, one by one."""
        if heir_of:
            asked = [await self._inherit(key, owner, seconds, heir_of) for key in keys]
            return [place for place, lost in enumerate(asked) if lost]
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.set(key, owner, nx=True, get=True, ex=seconds)
        holders = await pipeline.execute()
        mine = (None, owner.encode())
        return [place for place, holder in enumerate(holders) if holder not in mine]

    async def _inherit(self, key: str, owner: str, seconds: int, heir_of: Sequence[str]) -> bool:
        lost = await self._client.eval(_SCRIPT, 1, key, owner, seconds, *heir_of)
        return bool(lost)

    async def version(self) -> str:
        """Ask one of the nodes."""
        await self._client.initialize()
        node = self._client.get_random_node()
        return _version(await self._client.info(section="server", target_nodes=node))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _version(info: dict[str, Any]) -> str:
    return str(info.get("redis_version", "0"))


def _translated(error: BaseException) -> ClaimsError:
    if isinstance(error, AuthenticationError | NoPermissionError):
        return ClaimsRefusedError(f"the claims store refuses this user: {error}")
    if isinstance(error, TimeoutError):
        return ClaimsUnavailableError("the claims store did not answer in time")
    return ClaimsUnavailableError(f"the claims store is not available: {error}")
