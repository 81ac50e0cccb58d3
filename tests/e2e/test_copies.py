"""Copies of one journal: whatever wakes up when, each accepted event is on the topic once."""

import asyncio
import signal
from collections import Counter
from os import kill
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.e2e.process import ForkedRelay, Relay, until
from tests.e2e.test_faults import connected, copy_journal
from tests.kafka_server import KafkaServer
from tests.oracle import Event, Oracle, consume, make_event

#: Kafka's answers come late on a busy machine, and so may the sleeper's end.
SETTINGS = {"KAFKA__TIMEOUT": "5s"}


async def take(relay: Relay, name: int, count: int) -> list[Event]:
    """Have a relay answer 200 to so many events."""
    events = [make_event(str(name), number) for number in range(1, count + 1)]
    oracle = Oracle(relay.url)
    assert [await oracle.post(event) for event in events] == [200] * count
    return events


@pytest.mark.parametrize(("theirs", "ours"), [(5, 10), (1, 1), (12, 3)])
async def test_zombie_that_wakes_while_kafka_hangs_loses_nothing(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str, theirs: int, ours: int
) -> None:
    """It is killed before it hears that it was replaced, and started again alone."""
    async with (
        ForkedRelay(tmp_path / "a", broker.bootstrap, topic_prefix, **SETTINGS) as first,
        ForkedRelay(tmp_path / "b", broker.bootstrap, topic_prefix, **SETTINGS) as second,
    ):
        await first.serving()
        events = await take(first, 1, 4)
        await first.drained()
        kill(first.pid, signal.SIGSTOP)
        copy_journal(first.journal, second.journal)
        await second.serving()
        await until(lambda: connected(second), 30, "the copy has Kafka")
        events += await take(second, 2, theirs)
        await second.drained()
        assert await second.stopped() == 0
        broker.pause()
        kill(first.pid, signal.SIGCONT)
        events += await take(first, 3, ours)
        await first.killed()
        broker.resume()
        await first.serving()
        await first.drained(60)
        assert await first.stopped() == 0
        seen = Counter(one.event_id for one in await consume(broker.bootstrap, topic_prefix))
    assert seen == Counter(event.event_id for event in events)


async def test_nobody_s_offset_is_not_the_own(
    broker: KafkaServer, tmp_path: Path, topic_prefix: str
) -> None:
    """Kafka has forgotten the group, as after a week: both go on, under two names."""
    # Kafka is waited for: whoever gave it up would open it again, and find nothing either.
    async with (
        ForkedRelay(tmp_path / "a", broker.bootstrap, topic_prefix) as first,
        ForkedRelay(tmp_path / "b", broker.bootstrap, topic_prefix) as second,
    ):
        await first.serving()
        events = await take(first, 1, 4)
        await first.drained()
        name = first.said("serving")[-1]["journal"]
        kill(first.pid, signal.SIGSTOP)
        copy_journal(first.journal, second.journal)
        await second.serving()
        await until(lambda: connected(second), 30, "the copy has Kafka")
        events += await take(second, 2, 5)
        await second.drained()
        await asyncio.to_thread(forget, broker, name)
        kill(first.pid, signal.SIGCONT)
        events += await take(first, 3, 10)
        assert (await first.logged("journal_forgotten"))["journal"] == name
        await first.drained(60)
        events += await take(second, 4, 5)
        await second.drained(60)
        assert await first.stopped() == await second.stopped() == 0
        seen = Counter(one.event_id for one in await consume(broker.bootstrap, topic_prefix))
    assert seen == Counter(event.event_id for event in events)
    assert not second.said("journal_forgotten"), "nobody has fenced it"


def forget(broker: KafkaServer, journal: str) -> None:
    """Delete the journal's group, as its retention would."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for answer in admin.delete_consumer_groups([f"relay-{journal}"]).values():
        answer.result(30)
