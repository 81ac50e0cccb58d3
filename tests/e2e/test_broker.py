"""A broker that hangs, dies, or is not there: answers stay fast and every event arrives once."""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Say
from tests.e2e.process import Relay, compared, until
from tests.e2e.test_faults import MEGABYTE, answered, connected, only_200_and_fast, published
from tests.kafka_server import KafkaServer
from tests.oracle import Oracle

#: Events per second: what the sender itself takes is no part of an answer.
RATE = 150


@pytest.mark.parametrize("patience", ["30s", "2s"])
async def test_paused_broker_delays_no_answer(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str, say: Say, patience: str
) -> None:
    """A broker that hangs, for less or for longer than relay waits for it."""
    settings = {"KAFKA__TIMEOUT": patience}
    async with Relay(tmp_path, broker.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url, rate=RATE)
        await relay.serving()
        async with compared(relay, oracle), oracle.load():
            await until(lambda: published(relay, 200), 15, "events flow")
            broker.pause()
            await asyncio.sleep(6)
            broker.resume()
            await asyncio.sleep(1)
        only_200_and_fast(oracle, say)


async def test_killed_broker_delays_no_answer(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """SIGKILL in the midst of transactions, three times; each time it comes back."""
    settings = {"KAFKA__TIMEOUT": "5s"}
    async with Relay(tmp_path, broker.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url, rate=RATE)
        await relay.serving()
        async with compared(relay, oracle), oracle.load():
            for _ in range(3):
                before = (await relay.metrics())['relay_settled_total{outcome="published"}']
                await until(lambda n=before: published(relay, n + 100), 30, "events flow")  # type: ignore[misc]
                broker.kill()
                await relay.logged("kafka_unavailable")
                await asyncio.to_thread(broker.restart)
        only_200_and_fast(oracle, say)


async def test_absent_broker_is_not_waited_for(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Relay becomes ready and takes events; they flow when Kafka comes."""
    broker.kill()
    async with Relay(tmp_path, broker.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        await oracle.send(500)
        assert (await relay.metrics())["relay_kafka_up"] == 0
        only_200_and_fast(oracle, say)
        async with compared(relay, oracle):
            await asyncio.to_thread(broker.restart)


async def test_full_journal_is_503_and_heals(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str
) -> None:
    """Kafka away for too long: the bound holds, and what was taken is published later."""
    broker.kill()
    settings = {"JOURNAL__MAX_BYTES": "2MiB"}
    async with Relay(tmp_path, broker.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url, padding=3000)
        await relay.serving()
        async with compared(relay, oracle), oracle.load():
            await until(lambda: answered(oracle, 503, 100), 30, "the journal is full")
            assert relay.journal.stat().st_size < 4 * MEGABYTE
            await asyncio.to_thread(broker.restart)
            taken = oracle.acknowledged
            await until(lambda: answered(oracle, 200, taken + 100), 30, "the journal has space")


async def test_sigterm_drains_the_backlog(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str
) -> None:
    """Everything that was answered 200 is on Kafka when the process has ended, with 0."""
    async with Relay(tmp_path, broker.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url, rate=0)
        await relay.serving()
        await until(lambda: connected(relay), 15, "relay has Kafka")
        broker.pause()
        await oracle.send(3000)
        relay.terminate()
        await relay.logged("draining")
        broker.resume()
        assert await relay.ended() == 0
        report = await oracle.compared(broker.bootstrap, topic_prefix)
    assert not report.faults(), report.faults()
    assert relay.said("draining")[-1]["pending"] > 2000
    assert relay.said("stopped")[-1]["left_in_journal"] == 0
