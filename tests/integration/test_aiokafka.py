"""What relay does to aiokafka behind its back, on a real broker: each of it must still work.

`relay/egress/kafka/` uses attributes that aiokafka does not promise. `discard` keeps its errors to
itself, so without these tests a release that renames one of them would show by leaked connections.
"""

import asyncio
import contextlib
import gc
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiokafka import errors

from relay.egress.kafka import offsets, topics
from relay.egress.kafka.faults import translated
from relay.egress.kafka.producer import Producer
from relay.errors import ProducerOustedError
from relay.events import Outcome, Record
from relay.settings import Kafka
from tests.kafka_server import Broker


@pytest.fixture
def settings(kafka: Broker, topic_prefix: str) -> Kafka:
    return Kafka.model_validate(
        {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "timeout": 15}
    )


@pytest.fixture
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What the loop hears of futures and clients that nobody has looked after."""
    heard: list[dict[str, Any]] = []
    yield heard
    gc.collect()
    assert heard == []


async def _started(settings: Kafka, name: str) -> Producer:
    await topics.ensure(settings, [f"{settings.topic_prefix}t"])
    producer = Producer.to(settings, name)
    async with asyncio.timeout(30):
        while True:
            try:
                await producer.start()
            except errors.KafkaError:
                await asyncio.sleep(0.1)
            else:
                return producer


async def _one(topic: str) -> AsyncIterator[Record]:
    yield Record(
        outcome=Outcome.PUBLISHED, topic=topic, key=b"k", value=b"v", headers=[], timestamp=1
    )


def _closed(producer: Producer) -> bool:
    inner = producer._producer
    connections = inner.client._conns.values()
    return bool(
        inner._closed
        and inner._sender.sender_task.done()
        and inner.client._sync_task is None
        and not any(connection.connected() for connection in connections)
    )


async def test_discard_ends_a_producer_in_the_midst_of_a_transaction(
    settings: Kafka, complaints: list[dict[str, Any]]
) -> None:
    """Its tasks, its connections; its offset is not taken, and the next producer goes on."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    group, place = f"relay-{uuid.uuid4()}", topics.journal_topic(settings)
    producer = await _started(settings, group)
    await producer.begin()
    await producer.send(_one(f"{settings.topic_prefix}t"))
    await producer.carry_offset(group, place, 7, "half")
    assert not _closed(producer)
    commit = asyncio.create_task(producer.commit())
    commit.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await commit
    await producer.discard()
    assert _closed(producer)
    again = await _started(settings, group)
    await again.begin()
    await again.carry_offset(group, place, 9, "whole")
    await again.commit()
    await again.discard()
    assert _closed(again)
    found = await offsets.read(settings, group, place)
    assert (found.offset, found.metadata) == (9, "whole")
    del producer, again


async def test_end_of_a_fenced_producer_is_noticed_once(
    settings: Kafka, complaints: list[dict[str, Any]]
) -> None:
    """By who sends; the transaction's own future, which nobody has, complains to nobody."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    group, place = f"relay-{uuid.uuid4()}", topics.journal_topic(settings)
    earlier = await _started(settings, group)
    await earlier.begin()
    later = await _started(settings, group)
    with pytest.raises(ProducerOustedError):
        async with translated():
            await earlier.carry_offset(group, place, 1)
    for producer in (earlier, later):
        await producer.discard()
        assert _closed(producer)
    del earlier, later, producer


async def test_group_that_kafka_has_never_heard_of_has_no_offset(settings: Kafka) -> None:
    """Which is told from a coordinator that does not answer."""
    await topics.ensure(settings, [])
    found = await offsets.read(settings, f"relay-{uuid.uuid4()}", topics.journal_topic(settings))
    assert (found.offset, found.metadata) == (-1, "")
