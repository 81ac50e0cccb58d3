"""The broker of `relay dev` does what relay and its consumers rely on."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from relay.dev.broker import EmbeddedBroker
from relay.errors import BrokerError
from relay.tail import follow


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        yield embedded


@asynccontextmanager
async def transactional(broker: EmbeddedBroker, name: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=name)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def values(broker: EmbeddedBroker, topic: str, count: int) -> list[bytes | None]:
    options = {"bootstrap_servers": broker.bootstrap}
    async with asyncio.timeout(20), aclosing(follow(options, [topic], from_beginning=True)) as all_:
        return [(await anext(all_)).value for _ in range(count)]


async def test_topics_are_made_with_four_partitions_and_only_once(broker: EmbeddedBroker) -> None:
    broker.create_topics(["made", "made"])
    broker.create_topics(["made"])
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        assert "made" in await admin.list_topics()
        (described,) = await admin.describe_topics(["made"])
    finally:
        await admin.close()
    assert len(described["partitions"]) == 4


async def test_a_consumer_reads_what_transactions_committed(broker: EmbeddedBroker) -> None:
    async with transactional(broker, "one") as producer:
        for number in range(5):
            async with producer.transaction():
                await producer.send("committed", str(number).encode(), key=b"same")
    assert await values(broker, "committed", 5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_an_idempotent_producer_works(broker: EmbeddedBroker) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait("idempotent", b"value")
    finally:
        await producer.stop()
    assert await values(broker, "idempotent", 1) == [b"value"]


async def test_a_newer_producer_of_the_same_id_can_go_on(broker: EmbeddedBroker) -> None:
    for value in (b"first", b"second"):
        async with transactional(broker, "again") as producer, producer.transaction():
            await producer.send("resumed", value, key=b"same")
    assert await values(broker, "resumed", 2) == [b"first", b"second"]


def test_each_broker_is_one_of_its_own(broker: EmbeddedBroker) -> None:
    with EmbeddedBroker() as other:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", other.bootstrap)
        assert other.bootstrap != broker.bootstrap
    assert other.bootstrap == ""


def test_it_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with EmbeddedBroker():
        pass
    assert capfd.readouterr() == ("", "")


def test_without_its_package_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself: what is called relay on the package index is another project."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with (
        pytest.raises(BrokerError, match="RELAY_KAFKA__BOOTSTRAP_SERVERS") as raised,
        EmbeddedBroker(),
    ):
        pass
    assert re.search(r"pip install confluent-kafka\b", str(raised.value))


def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise confluent_kafka.KafkaException(confluent_kafka.KafkaError(-195))

    monkeypatch.setattr(confluent_kafka, "Producer", refuse)
    with pytest.raises(BrokerError, match="does not start"), EmbeddedBroker():
        pass
