"""What relay does to aiokafka behind its back, on a real broker: each of it must still work.

`relay/egress/kafka/` uses attributes that aiokafka does not promise. `discard` keeps its errors to
itself, so without these tests a release that renames one of them would show by leaked connections.
"""

import asyncio
import contextlib
import gc
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from aiokafka import errors
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.metadata import MetadataRequest

from relay.egress.kafka import durability, offsets, sessions, topics
from relay.egress.kafka.client import admin_client, client_options
from relay.egress.kafka.faults import translated
from relay.egress.kafka.packing import Packing
from relay.egress.kafka.producer import Producer
from relay.errors import KafkaRefusedError, ProducerOustedError
from relay.events import Outcome, Record
from relay.observe import clock
from relay.settings import Delivery, Kafka
from relay.tail import Tail
from tests.fakes import until
from tests.kafka_server import Broker
from tests.lab.proxy import Proxy
from tests.ports import free_port

T = TypeVar("T")


@pytest.fixture
def settings(any_kafka: Broker, topic_prefix: str) -> Kafka:
    return _settings(any_kafka, topic_prefix)


@pytest.fixture
def newest(kafka: Broker, topic_prefix: str) -> Kafka:
    """Where the broker's version plays no part."""
    return _settings(kafka, topic_prefix)


def _settings(broker: Broker, topic_prefix: str) -> Kafka:
    return Kafka.model_validate(
        {"bootstrap_servers": broker.bootstrap, "topic_prefix": topic_prefix, "timeout": 15}
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
    producer = Producer.to(settings, name, Packing())
    async with asyncio.timeout(30):
        while True:
            try:
                await producer.start()
            except errors.KafkaError:
                await asyncio.sleep(0.1)
            else:
                return producer


@pytest.fixture
async def box(
    newest: Kafka, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[float], Awaitable[Proxy]]]:
    """Put a box between every client and the broker, which forgets what is quiet for so long."""
    async with contextlib.AsyncExitStack() as stack:

        async def forgetting(seconds: float) -> Proxy:
            (broker,) = newest.brokers
            proxy = Proxy(free_port(), broker.port, forgets_after=seconds)
            await proxy.start()
            stack.push_async_callback(proxy.stop)
            connect = sessions.Session.connect

            async def connected(session: Any) -> Any:
                session._port = proxy.port
                return await connect(session)

            monkeypatch.setattr(sessions.Session, "connect", connected)
            return proxy

        yield forgetting


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
    found = await offsets.read(settings, group, place, stable=True)
    assert (found.offset, found.metadata) == (9, "whole")
    del producer, again


@pytest.mark.parametrize("last", ["records", "offset"])
async def test_end_of_a_fenced_producer_is_noticed_once(
    last: str, settings: Kafka, complaints: list[dict[str, Any]]
) -> None:
    """By who sends; the futures inside, which nobody waits for, complain to nobody."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    group, place = f"relay-{uuid.uuid4()}", topics.journal_topic(settings)
    earlier = await _started(settings, group)
    await earlier.begin()
    later = await _started(settings, group)
    if last == "records":
        with pytest.raises(ProducerOustedError):
            async with translated():
                await earlier.send(_one(f"{settings.topic_prefix}t"))
    else:
        with pytest.raises(ProducerOustedError):
            async with translated():
                await earlier.carry_offset(group, place, 1)
    for producer in (earlier, later):
        await producer.discard()
        assert _closed(producer)
    del earlier, later, producer


async def _published(producer: Producer, settings: Kafka, group: str, offset: int) -> None:
    """One transaction over every connection: topic, coordinators."""
    async with asyncio.timeout(settings.timeout * 0.6):
        await producer.begin()
        await producer.send(_one(f"{settings.topic_prefix}t"))
        await producer.carry_offset(group, topics.journal_topic(settings), offset)
        await producer.commit()


def _connections(producer: Producer) -> list[sessions.Session]:
    return list(producer._producer.client._conns.values())


async def test_no_connection_is_idle_for_longer_than_it_may(
    newest: Kafka, box: Callable[[float], Awaitable[Proxy]]
) -> None:
    """So a box that forgets later has nothing to forget; what comes then takes new ones."""
    proxy = await box(8)
    settings = newest.model_copy(update={"idle_timeout": 1.0})
    group = f"relay-{uuid.uuid4()}"
    producer = await _started(settings, group)
    await _published(producer, settings, group, 1)
    before = _connections(producer)
    assert len(before) > 1
    await until(lambda: not any(connection.connected() for connection in before))
    await _published(producer, settings, group, 2)
    assert proxy.forgotten == 0
    await producer.discard()


async def test_dead_connection_is_found_out_before_it_is_used(
    newest: Kafka,
    box: Callable[[float], Awaitable[Proxy]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A box has forgotten all of them; what comes then waits for one answer, not for the end."""
    monkeypatch.setattr(sessions, "QUIET", 0.5)
    proxy = await box(1)
    group = f"relay-{uuid.uuid4()}"
    producer = await _started(newest, group)
    for offset in (1, 2, 3):
        await _published(producer, newest, group, offset)
        await asyncio.sleep(1.1)
    assert proxy.forgotten >= 2
    await producer.discard()


async def test_connection_is_not_used_after_a_sleep(
    newest: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the machine: its timers stand still meanwhile, and everybody has forgotten it."""
    group = f"relay-{uuid.uuid4()}"
    producer = await _started(newest, group)
    await _published(producer, newest, group, 1)
    before, boot = _connections(producer), clock.boot
    monkeypatch.setattr(clock, "boot", lambda: boot() + 1000)
    await _published(producer, newest, group, 2)
    assert not any(connection.connected() for connection in before)
    await producer.discard()


async def test_kernel_looks_after_each_connection(newest: Kafka) -> None:
    """It asks a quiet peer, and gives up on one that receives nothing, long before `timeout`."""
    producer = await _started(newest, f"relay-{uuid.uuid4()}")
    for connection in _connections(producer):
        end = connection._writer.get_extra_info("socket")
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
    await producer.discard()


async def test_broker_that_says_nothing_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that does not come about takes seconds, not all the time that there is."""
    monkeypatch.setattr(sessions, "SETUP_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError):
                await sessions.create("127.0.0.1", port, request_timeout_ms=60_000)


async def test_connection_of_a_start_that_is_given_up_is_closed(
    embedded_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka keeps the first one to itself until the cluster has told of its brokers."""
    made: list[sessions.Session] = []
    connect, send = sessions.Session.connect, sessions.Session.send

    async def connected(session: Any) -> Any:
        made.append(session)
        return await connect(session)

    def given_up(session: Any, request: Any, *more: Any) -> Any:
        answer = send(session, request, *more)
        if isinstance(request, MetadataRequest):
            giving_up.cancel()
        return answer

    async def start() -> None:
        async with admin_client(Kafka(bootstrap_servers=embedded_kafka)):
            pass

    monkeypatch.setattr(sessions.Session, "connect", connected)
    monkeypatch.setattr(sessions.Session, "send", given_up)
    giving_up = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    assert made
    assert not any(connection.connected() for connection in made)


async def test_group_that_kafka_has_never_heard_of_has_no_offset(settings: Kafka) -> None:
    """Which is told from a coordinator that does not answer."""
    await topics.ensure(settings, [])
    place = topics.journal_topic(settings)
    found = await offsets.read(settings, f"relay-{uuid.uuid4()}", place, stable=True)
    assert (found.offset, found.metadata) == (-1, "")


async def test_stable_offset_waits_for_the_end_of_its_transaction(settings: Kafka) -> None:
    """However long that takes; the last one that is applied is told at once, as before."""
    group, place = f"relay-{uuid.uuid4()}", topics.journal_topic(settings)
    producer = await _started(settings, group)
    for offset in (3, 5):
        await producer.begin()
        await producer.carry_offset(group, place, offset, f"at {offset}")
        question = asyncio.create_task(offsets.read(settings, group, place, stable=True))
        before = await offsets.read(settings, group, place, stable=False)
        assert (before.offset, before.metadata) == ((-1, "") if offset == 3 else (3, "at 3"))
        done, _ = await asyncio.wait([question], timeout=0.3)
        assert not done
        await producer.commit()
        found = await question
        assert (found.offset, found.metadata) == (offset, f"at {offset}")
    await producer.discard()


async def test_offset_right_after_its_commit_is_the_one_committed(settings: Kafka) -> None:
    """Before Kafka 4.0 it is applied after the commit was answered; the promise rests on it."""
    group, place = f"relay-{uuid.uuid4()}", topics.journal_topic(settings)
    producer = await _started(settings, group)
    for offset in range(1, 60):
        await producer.begin()
        await producer.carry_offset(group, place, offset)
        await producer.commit()
        found = await offsets.read(settings, group, place, stable=True)
        assert found.offset == offset
    await producer.discard()


async def test_topics_are_made_as_they_are_asked_for_and_looked_at(settings: Kafka) -> None:
    """What is in force is read back; one broker has one copy of each, and of Kafka's own."""
    config = {"min.insync.replicas": "1", "retention.ms": "3600000"}
    asked = settings.model_copy(update={"topic_config": config})
    topic = f"{settings.topic_prefix}t"
    await topics.ensure(asked, [topic])
    await (await _started(settings, f"relay-{uuid.uuid4()}")).discard()
    found = {one.topic: one for one in await durability.copies(settings, [topic, "not-there"])}
    assert found.keys() >= {topic, topics.journal_topic(settings), "__transaction_state"}
    assert "not-there" not in found
    assert found[topic] == durability.Copies(topic=topic, count=1, least=1)
    assert f"one copy only of {', '.join(sorted(found))}" in durability.frail(found.values())
    once = settings.model_copy(update={"delivery": Delivery.AT_LEAST_ONCE})
    assert "__transaction_state" not in [
        one.topic for one in await durability.copies(once, [topic])
    ]
    async with admin_client(settings) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (told,) = await admin.describe_configs([resource])
    values = {name: value for *_, entries in told.resources for name, value, *_ in entries}
    assert values["retention.ms"] == "3600000"


async def test_setting_that_kafka_does_not_know_is_named(settings: Kafka) -> None:
    asked = settings.model_copy(update={"topic_config": {"no.such.thing": "1"}})
    with pytest.raises(KafkaRefusedError, match=r"InvalidConfigurationError.*no\.such\.thing"):
        await topics.ensure(asked, [])


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_records_are_compressed_as_asked_and_read_again(
    compression: str, newest: Kafka
) -> None:
    """By `relay tail`, as by any consumer; fewer bytes stand for the same records."""
    asked = newest.model_copy(update={"compression": compression})
    topic = f"{newest.topic_prefix}t"
    records = [
        Record(
            outcome=Outcome.PUBLISHED,
            topic=topic,
            key=b"k",
            value=f'{{"number": {number}, "text": "the same again"}}'.encode() * 20,
            headers=[],
            timestamp=1,
        )
        for number in range(40)
    ]

    async def all_of_them() -> AsyncIterator[Record]:
        for record in records:
            yield record

    producer = await _started(asked, f"relay-{uuid.uuid4()}")
    built = producer._producer.create_batch()
    for place, record in enumerate(records):
        built.append(timestamp=place, key=record.key, value=record.value, headers=[])
    least = sum(len(record.value or b"") for record in records)
    assert (len(built._build()) < least / 5) is (compression != "none")
    await producer.begin()
    await producer.send(all_of_them())
    await producer.commit()
    await producer.discard()
    async with asyncio.timeout(30):
        async with Tail(client_options(asked), [topic], from_beginning=True) as tail:
            seen = [one async for one in islice_of(tail.records(), len(records))]
    assert [one.value for one in seen] == [record.value for record in records]


async def islice_of(items: AsyncIterator[T], count: int) -> AsyncIterator[T]:
    """Give the first so many."""
    async for item in items:
        yield item
        count -= 1
        if not count:
            return
