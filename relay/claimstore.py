"""Where claims are kept: a Redis or Valkey server, one that sentinels name, or a cluster."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from relay.errors import ClaimsRefusedError
from relay.settings import Claims as Settings

#: `SET ... NX GET` came with Redis 7.0; every Valkey has it.
OLDEST_VERSION = 7
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

_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Store(Protocol):
    """A server, or a cluster of them."""

    async def claim(
        self, keys: Sequence[str], owner: str, seconds: int, heir_of: Sequence[str]
    ) -> list[int]:
        """Claim each key that is free, or held by a journal that `owner` is the heir of.

        Gives the positions of those that others hold.
        """

    async def free(self, keys: Sequence[str]) -> list[str]:
        """Give the keys that nobody holds."""

    async def drop(self, keys: Sequence[str], owner: str) -> None:
        """Remove those that are still the owner's."""

    async def put(self, key: str, value: str) -> None:
        """Set a key for good."""

    async def has(self, key: str) -> bool:
        """Whether a key is there."""

    async def version(self) -> str:
        """Give the server's version, as `7.2.4`."""

    async def close(self) -> None:
        """Close the connections."""


async def connect(settings: Settings) -> "Store":
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


def _store(settings: Settings) -> "Store":
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

    async def free(self, keys: Sequence[str]) -> list[str]:
        """Give the keys that nobody holds."""
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.exists(key)
        return [key for key, there in zip(keys, await pipeline.execute(), strict=True) if not there]

    async def drop(self, keys: Sequence[str], owner: str) -> None:
        """Remove those that are still the owner's."""
        for key in keys:
            await self._client.eval(_DROP, 1, key, owner)

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
