"""Where claims are kept: a Redis or Valkey server, one that sentinels name, or a cluster."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.cluster import PRIMARY
from redis.exceptions import RedisClusterException, RedisError

from relay.claims.connections import lively
from relay.errors import ClaimsEmptiedError, ClaimsRefusedError
from relay.settings import Claims as Settings
from relay.settings.values import StoreKind

#: `SET ... NX GET` came with Redis 7.0; every Valkey has it.
OLDEST_VERSION = 7
#: One call for many keys costs a tenth of as many `SET`s.
#: Gives the places of keys that somebody had: others' as they are, the owner's own below zero.
#: Where the last of the keys is a mark that is gone, nothing is claimed, and the one place is 0.
_SCRIPT = """
local held = {}
local marks = tonumber(ARGV[3])
if marks == 1 and redis.call('EXISTS', KEYS[#KEYS]) == 0 then return {0} end
for place = 1, #KEYS - marks do
  local key = KEYS[place]
  local owner = redis.call('SET', key, ARGV[1], 'NX', 'GET', 'EX', ARGV[2])
  for heir = 4, #ARGV do
    if owner == ARGV[heir] then
      redis.call('SET', key, ARGV[1], 'EX', ARGV[2])
      owner = false
    end
  end
  if owner == ARGV[1] then held[#held + 1] = -place
  elseif owner then held[#held + 1] = place end
end
return held
"""

#: Of a connection's options, those that hold for one to a sentinel.
_OF_SENTINELS = (
    "socket_timeout",
    "socket_connect_timeout",
    "retry",
    "health_check_interval",
    "ssl",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)

_DROP = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""


#: What the library raises when a store cannot be asked, or does not answer as it should.
FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)

_EMPTIED = "the claims store was emptied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """For whom events are claimed, and for how long."""

    owner: str
    seconds: int
    #: Journals whose claims are the owner's.
    heir_of: Sequence[str] = ()
    #: A key that is there as long as the store has lost nothing; None: nobody asks.
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Which of the keys that were to be claimed somebody had, by their places."""

    lost: Collection[int]
    #: Those, and the owner's own.
    held: Collection[int]


class Store(Protocol):
    """A server, or a cluster of them."""

    async def claim(self, keys: Sequence[str], claim: Claim) -> Answer:
        """Claim each key that is free, or held by a journal that the owner is the heir of.

        Raises ClaimsEmptiedError, and claims nothing, if the mark is gone.
        """

    async def drop(self, keys: Sequence[str], owner: str) -> None:
        """Remove those that are still the owner's."""

    async def put(self, key: str, value: str, seconds: int | None) -> None:
        """Set a key for so long; None: for ever."""

    async def has(self, key: str) -> bool:
        """Whether a key is there."""

    async def read(self, key: str) -> str:
        """Give what a key holds; empty if it is not there."""

    async def version(self) -> str:
        """Give the server's version, as `7.2.4`."""

    async def eviction(self) -> str:
        """Say by which policy a server throws keys away when it is full; empty if by none."""

    async def close(self) -> None:
        """Close the connections."""


async def connect(settings: Settings) -> "Store":
    """Connect, and refuse a server that is too old.

    Raises ClaimsRefusedError; one of FAULTS if it cannot be reached.
    """
    store = _store(settings)
    try:
        version = await store.version()
    except BaseException:
        with suppress(*FAULTS):
            await store.close()
        raise
    if int(version.partition(".")[0]) < OLDEST_VERSION:
        await store.close()
        message = f"the claims store has version {version}; relay needs Redis 7 or Valkey"
        raise ClaimsRefusedError(message)
    return store


def _store(settings: Settings) -> "Store":
    """Make the client that the URL's scheme names; nothing is connected yet."""
    url = settings.store
    options: dict[str, Any] = {
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "retry": Retry(NoBackoff(), 0),
        **lively(),
        "username": url.user,
        "password": url.password.get_secret_value() if url.password else None,
    }
    if url.tls:
        options |= {"ssl": True} | _certificates(settings)
    if url.kind is StoreKind.CLUSTER:
        nodes = [ClusterNode(place.host, place.port) for place in url.hosts]
        return _Cluster(_ClusterClient(startup_nodes=nodes, **options))
    options["db"] = url.database
    if url.kind is StoreKind.SENTINEL:
        # Whom they name gets the password: they must be who they say, too. They get their own.
        common = {name: one for name, one in options.items() if name in _OF_SENTINELS}
        common["username"] = settings.sentinel_username or None
        common["password"] = settings.sentinel_password.get_secret_value() or None
        places = [(place.host, place.port) for place in url.hosts]
        sentinel = Sentinel(places, sentinel_kwargs=common, **options)  # type: ignore[no-untyped-call]  # the library lacks it
        return _Server(sentinel.master_for(url.service), *sentinel.sentinels)
    (place,) = url.hosts
    return _Server(Redis(host=place.host, port=place.port, **options))


def _certificates(settings: Settings) -> dict[str, Any]:
    """Say whom to trust, and who we are."""
    files = {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
    return {name: file for name, file in files.items() if file}


class _Keys:
    """What is one command everywhere."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def put(self, key: str, value: str, seconds: int | None) -> None:
        """Set a key for so long; None: for ever."""
        await self._client.set(key, value, ex=seconds)

    async def has(self, key: str) -> bool:
        """Whether a key is there."""
        return bool(await self._client.exists(key))

    async def read(self, key: str) -> str:
        """Give what a key holds; empty if it is not there."""
        return (await self._client.get(key) or b"").decode()


class _Server(_Keys):
    """One server, or the master that sentinels name."""

    def __init__(self, client: Any, *sentinels: Any) -> None:
        super().__init__(client)
        self._sentinels = sentinels
        self._script = client.register_script(_SCRIPT)
        self._drop = client.register_script(_DROP)

    async def claim(self, keys: Sequence[str], claim: Claim) -> Answer:
        """Claim many keys in one call."""
        marks = [claim.mark] if claim.mark else []
        args = (claim.owner, claim.seconds, len(marks), *claim.heir_of)
        places = await self._script(keys=[*keys, *marks], args=args)
        if places == [0]:
            raise ClaimsEmptiedError(_EMPTIED)
        lost = [place - 1 for place in places if place > 0]
        return Answer(lost, {abs(place) - 1 for place in places})

    async def drop(self, keys: Sequence[str], owner: str) -> None:
        """Remove many keys in one call."""
        await self._drop(keys=keys, args=(owner,))

    async def version(self) -> str:
        """Ask the server."""
        return _version(await self._client.info(section="server"))

    async def eviction(self) -> str:
        """Ask the server."""
        return _eviction(await self._client.info(section="memory"))

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._sentinels):
            await client.aclose()


class _ClusterClient(RedisCluster):
    """The library's, that also knows a node which it has first heard of by a slot on its way there.

    An empty node is in no list of slots: the library then fails with an error of its own.
    """

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """Find a node, or take it to the others."""
        known = super().get_node(host, port, node_name)
        if known is not None or not node_name:
            return known
        host, _, place = node_name.rpartition(":")
        nodes = self.nodes_manager
        new = ClusterNode(host, int(place), PRIMARY, **nodes.connection_kwargs)
        nodes.set_nodes(nodes.nodes_cache, {node_name: new})
        return new


class _Cluster(_Keys):
    """A cluster: each key has its own node, so each is a command of its own."""

    async def claim(self, keys: Sequence[str], claim: Claim) -> Answer:
        """Claim many keys in one pipeline; the mark is of one node, so it is asked for before."""
        if claim.mark and not await self.has(claim.mark):
            raise ClaimsEmptiedError(_EMPTIED)
        owner, heir_of = claim.owner, claim.heir_of
        pipeline = self._client.pipeline()
        for key in keys:
            if heir_of:
                pipeline.eval(_SCRIPT, 1, key, owner, claim.seconds, 0, *heir_of)
            else:
                pipeline.set(key, owner, nx=True, get=True, ex=claim.seconds)
        answers = await pipeline.execute()
        if heir_of:
            # One place, of one key: another's, the owner's own below zero, or none.
            held = {place: held[0] < 0 for place, held in enumerate(answers) if held}
        else:
            held = {place: held == owner.encode() for place, held in enumerate(answers) if held}
        return Answer([place for place, own in held.items() if not own], held)

    async def drop(self, keys: Sequence[str], owner: str) -> None:
        """Remove many keys in one pipeline."""
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.eval(_DROP, 1, key, owner)
        await pipeline.execute()

    async def version(self) -> str:
        """Ask one of the nodes."""
        await self._client.initialize()
        node = self._client.get_random_node()
        return _version(await self._client.info(section="server", target_nodes=node))

    async def eviction(self) -> str:
        """Ask all that have slots: each has settings of its own."""
        everywhere = _ClusterClient.PRIMARIES
        told = await self._client.info(section="memory", target_nodes=everywhere)
        # One node's answer stands alone; those of several by their names.
        each = [told] if "maxmemory_policy" in told else list(told.values())
        return ", ".join(sorted({policy for info in each if (policy := _eviction(info))}))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _version(info: dict[str, Any]) -> str:
    return str(info.get("redis_version", "0"))


def _eviction(info: dict[str, Any]) -> str:
    policy = str(info.get("maxmemory_policy", ""))
    return "" if policy == "noeviction" else policy
