"""Kafkas without transactions, or without idempotent producers: at least once works on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from relay.cli.check import findings
from relay.egress.kafka import sessions
from relay.egress.kafka.client import client_options
from relay.egress.publisher import AtLeastOncePublisher, ExactlyOncePublisher
from relay.errors import KafkaRefusedError
from relay.events import Outcome, Record
from relay.settings import Kafka, Settings, load
from relay.tail import Tail
from tests.lesser_kafka import LesserKafka

#: InitProducerId; with the others, what transactions are made of.
IDEMPOTENCE, TRANSACTIONS = {22}, {24, 25, 26, 28}
LESSER = [TRANSACTIONS, IDEMPOTENCE | TRANSACTIONS]

Without = Callable[..., Awaitable[LesserKafka]]


@pytest.fixture
async def without(embedded_kafka: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Without]:
    """Make a Kafka without some requests, to which every connection goes."""
    async with AsyncExitStack() as stack:

        async def lesser(hidden: set[int], unnumbered: int = 0) -> LesserKafka:
            kafka = LesserKafka(int(embedded_kafka.rpartition(":")[2]), hidden, unnumbered)
            await kafka.start()
            stack.push_async_callback(kafka.stop)
            connect = sessions.Session.connect

            async def connected(session: Any) -> Any:
                session._port = kafka.port
                return await connect(session)

            monkeypatch.setattr(sessions.Session, "connect", connected)
            return kafka

        yield lesser


@pytest.fixture
def look(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Settings]:
    """Give settings with a delivery."""

    def load_with(delivery: str) -> Settings:
        for name, value in {
            "APPS__DEFAULT__VERIFICATION_TOKEN": "t",
            "KAFKA__BOOTSTRAP_SERVERS": embedded_kafka,
            "KAFKA__TOPIC_PREFIX": topic_prefix,
            "KAFKA__DELIVERY": delivery,
            "JOURNAL__PATH": str(tmp_path / "journal.db"),
        }.items():
            monkeypatch.setenv(f"RELAY_{name}", value)
        return load()

    return load_with


def options(bootstrap: str, prefix: str, **changes: Any) -> Kafka:
    return Kafka.model_validate(
        {"bootstrap_servers": bootstrap, "topic_prefix": prefix, "timeout": 10, **changes}
    )


async def numbered(topic: str, first: int) -> AsyncIterator[Record]:
    for number in range(first, first + 50):
        yield Record(
            outcome=Outcome.PUBLISHED,
            topic=topic,
            key=b"k",
            value=str(number).encode(),
            headers=[],
            timestamp=1,
        )


@pytest.mark.parametrize(
    ("hidden", "unnumbered"),
    # UNSUPPORTED_VERSION, CLUSTER_AUTHORIZATION_FAILED.
    [*((one, 0) for one in LESSER), (set[int](), 35), (set[int](), 31)],
    ids=["no transactions", "no idempotence", "not this version", "no right to it"],
)
async def test_at_least_once_needs_neither(
    hidden: set[int], unnumbered: int, without: Without, embedded_kafka: str, topic_prefix: str
) -> None:
    """Each key's records are in order; no topic of the journal's is made, no request refused."""
    kafka = await without(hidden, unnumbered)
    settings = options(embedded_kafka, topic_prefix, delivery="at-least-once")
    topic = f"{topic_prefix}t"
    publisher = AtLeastOncePublisher(settings, [topic])
    await publisher.open("j")
    for first in (0, 50, 100):
        await publisher.publish(numbered(topic, first), first)
    await publisher.close()
    async with asyncio.timeout(20):
        async with Tail(client_options(settings), [topic], from_beginning=True) as tail:
            seen: list[bytes | None] = []
            async for record in tail.records():
                seen.append(record.value)
                if len(seen) == 150:
                    break
            metadata = await tail._client.fetch_all_metadata()
    assert seen == [str(number).encode() for number in range(150)]
    assert kafka.refused == 0
    assert f"{topic_prefix}relay_journal" not in metadata.topics()


async def test_exactly_once_is_refused_where_there_are_no_transactions(
    without: Without, embedded_kafka: str, topic_prefix: str
) -> None:
    await without(IDEMPOTENCE | TRANSACTIONS)
    publisher = ExactlyOncePublisher(options(embedded_kafka, topic_prefix), [f"{topic_prefix}t"])
    with pytest.raises(KafkaRefusedError):
        await publisher.open("j")
    await publisher.close()


@pytest.mark.parametrize(
    ("hidden", "delivery", "said"),
    [
        (set[int](), "exactly-once", "1 broker(s), which can do exactly-once"),
        (set[int](), "at-least-once", "1 broker(s), which can do exactly-once"),
        (TRANSACTIONS, "at-least-once", "at-least-once: they know no transactions"),
        (
            IDEMPOTENCE | TRANSACTIONS,
            "at-least-once",
            "at-least-once: they know no idempotent producer either",
        ),
        (TRANSACTIONS, "exactly-once", 'no transactions; set kafka.delivery = "at-least-once"'),
    ],
)
async def test_check_says_what_this_kafka_can_do(
    hidden: set[int],
    delivery: str,
    said: str,
    without: Without,
    look: Callable[[str], Settings],
) -> None:
    await without(hidden)
    seen = {one.subject: one async for one in findings(look(delivery))}["kafka"]
    assert said in seen.sentence
    assert seen.passed is ("; set" not in said)
