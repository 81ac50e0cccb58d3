"""The promise under fire: killed again and again, every 200 is on Kafka, once and in order."""

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from relay.simulator.feishu import SmallFeishu
from relay.simulator.gateway import GatewayOptions
from tests.conftest import Say
from tests.e2e.crash import POINTS
from tests.e2e.process import ForkedRelay, Relay
from tests.kafka_server import Broker
from tests.oracle import Event, Oracle, Report

#: Read before any test runs: inside a test the environment has no RELAY_ variable.
KILLS = int(os.environ.get("RELAY_SOAK_KILLS", "32"))
#: Of them, with at-least-once delivery.
KILLS_AT_LEAST_ONCE = max(6, KILLS // 5)

#: Each point once. What recovery has to do there is left by the kill before.
CRASHES = (
    "insert.before",
    "insert.after",
    "commit.before",
    "commit.after",
    "resolve.before",
    "resolve.after",
    "begin.before",
    "begin.after",
    "records.queued",
    "records.sent",
    "offsets.sent",
    "transaction.before",
    "transaction.during",
    "transaction.after",
    "recovery.opened",
    "recovery.settle",
    "recovery.settled",
    "recovery.store",
    "recovery.stored",
    "recovery.signed",
    "recovery.noted",
    "settle.before",
    "settle.after",
)
#: Where it matters what Kafka has committed, and tells of it.
CRASHES_OF_KAFKA = (
    "records.sent",
    "offsets.sent",
    "transaction.before",
    "transaction.during",
    "transaction.after",
    "recovery.opened",
    "transaction.after",
    "recovery.settle",
    "settle.before",
)
CRASHES_AT_LEAST_ONCE = ("commit.after", "records.queued", "records.sent", "settle.before")
#: Where an acknowledgement over the long connection could be worth less than it says.
CRASHES_OF_BOTH = (
    "insert.before",
    "commit.before",
    "commit.after",
    "resolve.before",
    "resolve.after",
    "transaction.during",
    "settle.before",
)
KILLS_OF_BOTH = max(10, KILLS // 4)
#: Any moment.
RANDOM = ""


def plan(points: tuple[str, ...], kills: int, rng: random.Random) -> list[str]:
    """Each point once in its order, then points and random moments in turn."""
    more = [rng.choice(points) if n % 2 else RANDOM for n in range(max(0, kills - len(points)))]
    return [*points, *more][:kills]


async def kill(relay: Relay, point: str, rng: random.Random) -> None:
    """Let a process live until the point, or for a while, and die there."""
    if point:
        passages = 1 if point.startswith("recovery") else rng.randint(1, 6)
        relay.start(crash=f"{point}:{passages}")
        assert await relay.ended() == -signal.SIGKILL, point
    else:
        await relay.serving()
        await asyncio.sleep(rng.uniform(0, 1))
        relay.kill()
        await relay.ended()


async def fire(relay: Relay, oracle: Oracle, kills: list[str], rng: random.Random) -> Report:
    """Kill it so often under load, let it finish its work, and compare."""
    async with oracle.load():
        for point in kills:
            await kill(relay, point, rng)
        await relay.serving()
        await asyncio.sleep(1)
    await relay.drained(60)
    assert await relay.stopped() == 0
    return await oracle.compared(relay.bootstrap, relay.prefix)


@pytest.mark.timeout(120 + 15 * KILLS)
async def test_exactly_once_over_kills(
    kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Killed at every step of accepting, publishing and recovering, and at random moments."""
    rng = random.Random(KILLS)
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        report = await fire(relay, oracle, plan(CRASHES, KILLS, rng), rng)
    say(f"{KILLS} kills: {report}; answers {dict(oracle.answers)}, p99 {oracle.p99:.3f} s")
    assert report.acknowledged > 100 * min(KILLS, 20)
    assert not report.faults(), report.faults()


@pytest.mark.timeout(120 + 15 * len(CRASHES_OF_KAFKA))
async def test_exactly_once_over_kills_on_an_old_kafka(
    old_kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Which answers a commit before the offset in it can be read."""
    rng = random.Random(KILLS)
    async with ForkedRelay(tmp_path, old_kafka.bootstrap, topic_prefix) as relay:
        report = await fire(relay, Oracle(relay.url), list(CRASHES_OF_KAFKA), rng)
    say(f"{len(CRASHES_OF_KAFKA)} kills: {report}")
    assert not report.faults(), report.faults()


@pytest.mark.timeout(120 + 15 * KILLS_AT_LEAST_ONCE)
async def test_at_least_once_over_kills(
    kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Without transactions a kill may repeat events; it loses none and keeps their order."""
    rng = random.Random(KILLS)
    delivery = {"KAFKA__DELIVERY": "at-least-once"}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **delivery) as relay:
        oracle = Oracle(relay.url)
        kills = plan(CRASHES_AT_LEAST_ONCE, KILLS_AT_LEAST_ONCE, rng)
        report = await fire(relay, oracle, kills, rng)
    say(f"{len(kills)} kills: {report}")
    assert not report.faults(may_repeat=True), report.faults(may_repeat=True)


class TwoWayOracle(Oracle):
    """Delivers each event by webhook or over the long connection, as chance will have it."""

    def __init__(self, url: str, feishu: SmallFeishu, rng: random.Random) -> None:
        super().__init__(url)
        self._feishu = feishu
        self._chance = rng
        self.pushed: Counter[int] = Counter()

    async def _deliver(
        self, session: aiohttp.ClientSession, event: Event, url: str | None = None
    ) -> int:
        if self._chance.random() < 0.5:
            return await super()._deliver(session, event, url)
        code = await self._feishu.gateway.deliver(event.body, event.event_id)
        self.pushed[code] += 1
        return code


@pytest.mark.timeout(120 + 15 * KILLS_OF_BOTH)
async def test_exactly_once_over_kills_on_both_transports(
    kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """An acknowledgement is worth what a 200 is, and a retry may take the other way."""
    rng = random.Random(KILLS)
    feishu = SmallFeishu(GatewayOptions(app_id="cli_a", app_secret="s", seed=1, max_part=300))
    await feishu.start()
    connection = {
        "FEISHU_URL": feishu.url,
        "APPS__DEFAULT__LONG_CONNECTION": "true",
        "APPS__DEFAULT__APP_ID": "cli_a",
        "APPS__DEFAULT__APP_SECRET": "s",
    }
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **connection) as relay:
        oracle = TwoWayOracle(relay.url, feishu, rng)
        kills = plan(CRASHES_OF_BOTH, KILLS_OF_BOTH, rng)
        report = await fire(relay, oracle, kills, rng)
    await feishu.stop()
    say(f"{len(kills)} kills: {report}; acknowledged {dict(oracle.pushed)}")
    assert oracle.pushed[200] > 50 * len(kills) / 2
    assert not report.faults(), report.faults()


def test_every_oracle_point_exists() -> None:
    """A crash point that is never tried, or a name that is none, would prove nothing."""
    assert set(CRASHES) | {"renew.before", "renew.after"} == set(POINTS)
    assert set(CRASHES_AT_LEAST_ONCE) | set(CRASHES_OF_BOTH) <= set(POINTS)
