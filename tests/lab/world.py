"""One seed's world: replicas, stores, networks between them, and a Feishu that remembers."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from relay.simulator.feishu import SmallFeishu
from relay.simulator.gateway import GatewayOptions
from tests.e2e.process import ForkedRelay, Relay
from tests.lab.ground import Ground
from tests.lab.proxy import Line, Proxy
from tests.oracle import Event, Oracle, Report
from tests.ports import free_port
from tests.redis_server import RedisServer

#: Events per second in all, and tickets they belong to.
RATE, TICKETS = 60.0, 20
#: Seconds within which everything must be well again after the last fault.
RECOVERY = 60.0
#: Claims survive the death of their store: that they do not is a fault of its own.
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_CREDENTIALS = {
    "APPS__DEFAULT__LONG_CONNECTION": "true",
    "APPS__DEFAULT__APP_ID": "cli_a",
    "APPS__DEFAULT__APP_SECRET": "s",
}


class LabOracle(Oracle):
    """Sends each delivery to a random replica, or over a random long connection."""

    def __init__(self, replicas: Sequence["Replica"], feishu: SmallFeishu, seed: int) -> None:
        super().__init__("", seed=seed, rate=RATE, tickets=TICKETS)
        self._replicas = replicas
        self._feishu = feishu
        self._chance = random.Random(seed)
        self.pushed: Counter[int] = Counter()

    async def _deliver(
        self, session: aiohttp.ClientSession, event: Event, url: str | None = None
    ) -> int:
        if self._chance.random() < 0.4:
            code = await self._feishu.gateway.deliver(event.body, event.event_id)
            self.pushed[code] += 1
            return code
        url = self._chance.choice([one.url for one in self._replicas if one.in_service])
        return await super()._deliver(session, event, url)


@dataclass(slots=True)
class Replica:
    """One place of the service: a relay, and its lines to the stores."""

    number: int
    relay: Relay
    kafka: Sequence[Proxy]
    claims: Proxy
    #: Whether the load balancer sends events here.
    in_service: bool = True

    @property
    def name(self) -> str:
        """As the timeline calls it."""
        return f"relay {self.number}"

    @property
    def url(self) -> str:
        """Where Feishu would call it."""
        return self.relay.url


@dataclass(slots=True)
class Verdict:
    """What one seed has shown."""

    seed: int
    report: Report
    #: Answers by status, 0 for none; acknowledgements by code.
    answers: Counter[int]
    pushed: Counter[int]
    #: Seconds.
    p99: float
    slowest: float
    faults: Counter[str]
    #: Seconds until all was well again after the last fault.
    recovery: float
    #: Events whose claims were emptied may come twice.
    may_repeat: bool
    timeline: list[str] = field(default_factory=list)

    def wrong(self) -> str:
        """Say what the promise was broken by; empty if it was kept.

        Order is by arrival at each replica, so there is none to check over several.
        """
        found = {
            "acknowledged, but not on Kafka": self.report.missing,
            "on Kafka more than once": () if self.may_repeat else self.report.twice,
            "on Kafka, but never sent": self.report.unknown,
            "dead-lettered": self.report.dead,
        }
        return "; ".join(f"{len(ids)} {kind}: {ids[:5]}" for kind, ids in found.items() if ids)


class World:
    """Everything of one seed, from `opened` on."""

    def __init__(self, seed: int, ground: Ground, directory: Path, replicas: int) -> None:
        self.seed = seed
        self.ground = ground
        self.directory = directory
        self.prefix = f"lab-{seed}-{time.time_ns() % 10**9}."
        self.redis = RedisServer(free_port(), directory / "redis", _DURABLE)
        self.feishu = SmallFeishu(
            GatewayOptions(app_id="cli_a", app_secret="s", seed=seed, max_part=400)
        )
        self._doors = [free_port() for _ in range(replicas)]
        self.replicas: list[Replica] = []
        #: Relays that were replaced: nobody calls them, but they may still run.
        self.retired: list[Relay] = []
        self.busy: set[object] = set()
        self.faults: Counter[str] = Counter()
        self.may_repeat = False
        self.timeline: list[str] = []
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """Note what happened, with the second at which it did."""
        self.timeline.append(f"{time.monotonic() - self._began:6.2f}  {what}")

    def make_relay(self, number: int, directory: Path) -> Relay:
        """Make a replica's relay on a directory; the first replica has the webhook only."""
        settings = {
            "CLAIMS__URL": f"redis://127.0.0.1:{self._doors[number]}",
            "CLAIMS__TIMEOUT": "1s",
            "KAFKA__TIMEOUT": "5s",
            "DRAIN__TIMEOUT": "5s",
            "FEISHU_URL": self.feishu.url,
            **self.ground.login,
        }
        if number > 0:
            settings |= _CREDENTIALS
        return ForkedRelay(directory, self.ground.seen_by(number), self.prefix, **settings)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[LabOracle]:
        """Start everything; end every process that was started here."""
        self.redis.directory.mkdir(parents=True)
        self.redis.start()
        await self.feishu.start()
        try:
            for number, door in enumerate(self._doors):
                self.replicas.append(
                    Replica(
                        number,
                        self.make_relay(number, self.directory / f"relay-{number}"),
                        self.ground.proxies(number),
                        Proxy(door, self.redis.port),
                    )
                )
            await asyncio.gather(*(proxy.start() for proxy in self._proxies()))
            await asyncio.gather(*(one.relay.serving() for one in self.replicas))
            self._began = time.monotonic()
            yield LabOracle(self.replicas, self.feishu, self.seed)
        finally:
            for relay in self._relays():
                if relay.running:
                    relay.kill()
                    await relay.ended()
            await asyncio.gather(*(proxy.stop() for proxy in self._proxies()))
            await self.feishu.stop()
            self.redis.go_on()
            self.redis.kill()

    def _relays(self) -> list[Relay]:
        return [*(one.relay for one in self.replicas), *self.retired]

    def _proxies(self) -> list[Proxy]:
        return [proxy for one in self.replicas for proxy in (*one.kafka, one.claims)]

    async def well_again(self) -> float:
        """Heal every line, wait until nothing is pending anywhere; give the seconds it took."""
        for proxy in self._proxies():
            proxy.set(Line.OPEN)
        began = time.monotonic()
        for one in self.replicas:
            assert one.relay.running, f"{one.name} died of itself: {one.relay.log[-1500:]}"
            await one.relay.ready(RECOVERY)
        await asyncio.gather(*(one.relay.drained(RECOVERY) for one in self.replicas))
        took = time.monotonic() - began
        await self._drain_the_retired()
        return took

    async def _drain_the_retired(self) -> None:
        """The operator's step: what only a replaced replica's journal holds goes out."""
        for relay in self.retired:
            if relay.running:
                # It ends by itself as soon as it has something to publish.
                with contextlib.suppress(AssertionError):
                    await relay.drained(RECOVERY / 4)
                if relay.running:
                    relay.kill()
                await relay.ended()
            code, printed = await relay.command("drain")
            assert code == 0, printed
            self.say(f"retired journal drained: {printed.strip().splitlines()[-1]}")
