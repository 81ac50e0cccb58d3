"""A tail sees what a read-committed consumer sees, from where it was told to start."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from rich.console import Console

from relay.dev.broker import EmbeddedBroker
from relay.errors import KafkaUnavailableError
from relay.tail import Seen, Tail, follow, show
from tests.kafka_server import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as embedded:
        yield embedded


@pytest.fixture
def options(broker: EmbeddedBroker) -> dict[str, Any]:
    return {"bootstrap_servers": broker.bootstrap}


@asynccontextmanager
async def producing(options: dict[str, Any], **more: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=options["bootstrap_servers"], **more)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def take(records: AsyncGenerator[Seen, None], count: int) -> list[bytes]:
    async with asyncio.timeout(20):
        return [(await anext(records)).value or b"" for _ in range(count)]


async def test_it_reads_from_the_beginning(options: dict[str, Any], topic_prefix: str) -> None:
    topic = topic_prefix + "old"
    async with producing(options) as producer:
        for value in (b"1", b"2", b"3"):
            await producer.send_and_wait(topic, value, key=b"k", headers=[("h", b"x")])
    async with aclosing(follow(options, [topic], from_beginning=True)) as records:
        assert await take(records, 3) == [b"1", b"2", b"3"]


async def test_it_reads_only_what_comes_after_its_start(
    options: dict[str, Any], topic_prefix: str
) -> None:
    """From the moment its context is entered, not from its first record."""
    topic = topic_prefix + "live"
    async with producing(options) as producer:
        await producer.send_and_wait(topic, b"before", key=b"k")
        async with Tail(options, [topic], from_beginning=False) as tail:
            await producer.send_and_wait(topic, b"after", key=b"k")
            async with aclosing(tail.records()) as records:
                assert await take(records, 1) == [b"after"]


async def test_a_topic_that_comes_later_is_read_whole_and_disturbs_no_other(
    options: dict[str, Any], topic_prefix: str
) -> None:
    first, later = topic_prefix + "first", topic_prefix + "later"
    async with producing(options) as producer:
        await producer.send_and_wait(first, b"before", key=b"k")
        async with Tail(options, [first, later], from_beginning=False) as tail:
            for topic, value in ((first, b"a"), (later, b"b"), (first, b"c")):
                await producer.send_and_wait(topic, value, key=b"k")
            async with aclosing(tail.records()) as records:
                assert sorted(await take(records, 3)) == [b"a", b"b", b"c"]
                await producer.send_and_wait(first, b"d", key=b"k")
                assert await take(records, 1) == [b"d"]


async def test_it_waits_for_its_first_topic_without_making_it(
    options: dict[str, Any], topic_prefix: str
) -> None:
    topic = topic_prefix + "none-yet"
    admin = AIOKafkaAdminClient(bootstrap_servers=options["bootstrap_servers"])
    await admin.start()
    async with aclosing(follow(options, [topic], from_beginning=False)) as records:
        coming = asyncio.create_task(take(records, 1))
        await asyncio.sleep(1.2)
        assert topic not in await admin.list_topics()
        async with producing(options) as producer:
            await producer.send_and_wait(topic, b"value")
        assert await coming == [b"value"]
    await admin.close()


async def test_it_does_not_show_what_was_aborted(kafka: Broker, topic_prefix: str) -> None:
    """On a real Kafka; the embedded one shows it."""
    options, topic = {"bootstrap_servers": kafka.bootstrap}, topic_prefix + "aborted"
    admin = AIOKafkaAdminClient(**options)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with producing(options, transactional_id=topic) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", key=b"k")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send(topic, b"committed", key=b"k")
    async with aclosing(follow(options, [topic], from_beginning=True)) as records:
        assert await take(records, 1) == [b"committed"]


async def test_it_outlives_a_broker_that_answers_no_more(
    options: dict[str, Any], topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_prefix + "outage"
    async with Tail(options, [topic], from_beginning=False) as tail:

        async def refuse() -> None:
            raise KafkaError

        with monkeypatch.context() as outage:
            outage.setattr(tail._client, "fetch_all_metadata", refuse)
            await tail._look()
        await tail._look()


async def test_no_broker_is_one_sentence() -> None:
    options = {"bootstrap_servers": "127.0.0.1:1"}
    with pytest.raises(KafkaUnavailableError, match=r"no broker answers at 127\.0\.0\.1:1"):
        await anext(follow(options, ["t"], from_beginning=False))


@pytest.mark.parametrize("as_json", [True, False])
async def test_it_shows_records_until_it_is_stopped(
    options: dict[str, Any], topic_prefix: str, *, as_json: bool
) -> None:
    topic, written = topic_prefix + "shown", asyncio.Event()

    class Out(io.StringIO):
        def flush(self) -> None:
            if self.getvalue():
                written.set()

    async with producing(options) as producer:
        await producer.send_and_wait(topic, b'{"a":1}', key=b"k")
    records = follow(options, [topic], from_beginning=True)
    out = Out()
    console = Console(file=out, width=120)
    showing = asyncio.create_task(show(console, records, prefix=topic_prefix, as_json=as_json))
    await asyncio.wait_for(written.wait(), 20)
    showing.cancel()
    await showing
    (line,) = out.getvalue().splitlines()
    if as_json:
        assert json.loads(line)["value"] == {"a": 1}
    else:
        assert line.split()[1] == "shown"
