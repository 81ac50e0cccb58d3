"""What the dispatcher relies on: the same of the fake, the embedded broker and a real Kafka."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import CloseReason
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import admin as confluent
from pydantic import SecretStr

from relay.cli import check
from relay.contract.normalize import Router
from relay.egress.kafka import faults, offsets, packing, topics
from relay.egress.kafka.client import admin_client
from relay.egress.publisher import AtLeastOncePublisher, ExactlyOncePublisher, Publisher
from relay.egress.tenure import Place as Tenured
from relay.errors import (
    BatchRefusedError,
    KafkaRefusedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RecordRefusedError,
    RecordTooLargeError,
)
from relay.events import Landing, Outcome, Record
from relay.settings import Kafka, Settings
from tests.conftest import need_kafka
from tests.fakes import MemoryKafka, MemoryPublisher, until
from tests.kafka_security import PASSWORD, USERNAME, Security, brief, secure_listeners
from tests.kafka_server import AUTHORIZER, Broker, KafkaServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A record as a consumer that reads committed sees it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int
    partition: int
    offset: int


@dataclass(slots=True, kw_only=True)
class Place:
    """One kind of publisher on one kind of broker."""

    topic: str
    make: Callable[[], Publisher]
    see: Callable[[int], Awaitable[list[Seen]]]
    #: An offset goes with the records, and an aborted transaction leaves nothing.
    transactions: bool
    #: The broker refuses large records.
    limits: bool
    #: The offset of a journal that Kafka has never heard of; None where it keeps none.
    fresh: int | None
    journal_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def options(bootstrap: str, prefix: str, **changes: Any) -> Kafka:
    return Kafka.model_validate(
        {"bootstrap_servers": bootstrap, "topic_prefix": prefix, "timeout": 15, **changes}
    )


async def committed(bootstrap: str, topic: str, count: int) -> list[Seen]:
    """Read so many records of a topic, partition by partition in the order they have there."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        check_crcs=False,
    )
    await consumer.start()
    found: list[Seen] = []
    try:
        await consumer._client.force_metadata_update()
        partitions = await consumer._client._wait_on_metadata(topic)
        consumer.assign([TopicPartition(topic, partition) for partition in partitions])
        async with asyncio.timeout(20):
            while len(found) < count:
                batches = await consumer.getmany(timeout_ms=200)
                found += [_seen(record) for batch in batches.values() for record in batch]
    finally:
        await consumer.stop()
    return found


async def unverified(bootstrap: str) -> None:
    """Let the broker take records without asking whether their transaction is known."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = {"transaction.partition.verification.enable": "false"}
        answers = await admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", names)])
        assert [code for answer in answers for code, *_ in answer.resources] == [0]
    finally:
        await admin.close()


def _seen(record: Any) -> Seen:
    return Seen(
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        timestamp=record.timestamp,
        partition=record.partition,
        offset=record.offset,
    )


def memory_place() -> Place:
    kafka = MemoryKafka()

    async def see(count: int) -> list[Seen]:
        assert len(kafka.records) >= count
        return [
            Seen(
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
                timestamp=record.timestamp,
                partition=0,
                offset=offset,
            )
            for offset, record in enumerate(kafka.records)
        ]

    return Place(
        topic="t",
        make=lambda: MemoryPublisher(kafka),
        see=see,
        transactions=True,
        limits=True,
        fresh=0,
    )


def broker_place(bootstrap: str, prefix: str, kind: str, *, real: bool) -> Place:
    publisher = ExactlyOncePublisher if kind == "exactly once" else AtLeastOncePublisher
    topic = f"{prefix}records"
    return Place(
        topic=topic,
        make=lambda: publisher(options(bootstrap, prefix), [topic]),
        see=lambda count: committed(bootstrap, topic, count),
        transactions=real and kind == "exactly once",
        limits=real,
        fresh=0 if kind == "exactly once" else None,
    )


PLACES = [
    "memory",
    "embedded, exactly once",
    "embedded, at least once",
    "real, exactly once",
    "real, at least once",
    "old, exactly once",
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, topic_prefix: str) -> Place:
    """Each kind of publisher; the real Kafka is started only where it is asked for."""
    broker, _, kind = request.param.partition(", ")
    if broker == "memory":
        return memory_place()
    if broker == "embedded":
        bootstrap = request.getfixturevalue("embedded_kafka")
        return broker_place(bootstrap, topic_prefix, kind, real=False)
    kafka: Broker = request.getfixturevalue("old_kafka" if broker == "old" else "kafka")
    return broker_place(kafka.bootstrap, topic_prefix, kind, real=True)


def record(
    topic: str,
    key: str,
    value: bytes | None,
    *headers: tuple[str, bytes],
    timestamp: int = 1_767_323_045_678,
) -> Record:
    return Record(
        outcome=Outcome.PUBLISHED,
        topic=topic,
        key=key.encode(),
        value=value,
        headers=list(headers),
        timestamp=timestamp,
    )


async def stream(records: Sequence[Record]) -> AsyncIterator[Record]:
    for one in records:
        yield one


async def opened(publisher: Publisher, journal_id: str) -> int | None:
    """Open and sign as a recovery does: a fresh Kafka has no coordinators at first."""
    async with asyncio.timeout(30):
        while True:
            try:
                place = await publisher.open(journal_id)
                if place:
                    await publisher.sign(replace(place, owner=f"{id(publisher):x}"))
            except KafkaUnavailableError:
                await publisher.close()
                await asyncio.sleep(0.05)
            else:
                return place.offset if place else None


async def publish(publisher: Publisher, records: Sequence[Record], last_seq: int) -> None:
    await publisher.publish(stream(records), last_seq)


async def test_record_arrives_as_it_was_given(place: Place) -> None:
    """Key, value, headers and timestamp; a dead letter without its value too."""
    headers = (("ce_id", b"e-1"), ("empty", b""), ("bytes", b"\xff\x00"))
    records = [
        record(place.topic, "k", "值".encode(), *headers),
        record(place.topic, "k", None),
        record(place.topic, "k", b""),
    ]
    publisher = place.make()
    try:
        await opened(publisher, place.journal_id)
        await publish(publisher, records, 3)
        found = await place.see(3)
    finally:
        await publisher.close()
    assert [(one.key, one.value, tuple(one.headers), one.timestamp) for one in records] == [
        (one.key, one.value, one.headers, one.timestamp) for one in found
    ]


async def test_where_each_record_lies_is_told(place: Place) -> None:
    """As a consumer reads it, over several transactions; each of them leaves a mark between."""
    publisher = place.make()
    landed: dict[bytes | None, Landing] = {}
    records = [record(place.topic, f"k-{n % 5}", b"%d" % n + b"x" * 9_000) for n in range(90)]
    try:
        await opened(publisher, place.journal_id)
        for first in range(0, 90, 30):
            some = records[first : first + 30]
            landings = await publisher.publish(stream(some), first + 30)
            landed |= {one.value: where for one, where in zip(some, landings, strict=True)}
        found = await place.see(90)
    finally:
        await publisher.close()
    assert landed == {one.value: (one.partition, one.offset) for one in found}


async def test_order_per_key_is_kept_over_batches(place: Place) -> None:
    """More than fits into one produce batch, in several publications; each record once."""
    publisher = place.make()
    values = [b"%04d" % n + b"x" * 5000 for n in range(300)]
    records = [record(place.topic, f"k-{n % 7}", value) for n, value in enumerate(values)]
    try:
        await opened(publisher, place.journal_id)
        for first in range(0, 300, 100):
            await publish(publisher, records[first : first + 100], first + 100)
        found = await place.see(300)
    finally:
        await publisher.close()
    for key in range(7):
        name = f"k-{key}".encode()
        assert values[key::7] == [one.value for one in found if one.key == name]


async def test_new_journal_starts_at_nothing(place: Place) -> None:
    """An answer, 0, where Kafka keeps offsets; none where it does not."""
    publisher = place.make()
    try:
        assert place.fresh == await opened(publisher, place.journal_id)
    finally:
        await publisher.close()


async def test_close_is_always_allowed(place: Place) -> None:
    """Before an open, twice, and after it another open works."""
    publisher = place.make()
    await publisher.close()
    await opened(publisher, place.journal_id)
    await publisher.close()
    await publisher.close()
    await opened(publisher, place.journal_id)
    await publish(publisher, [record(place.topic, "k", b"v")], 1)
    await publisher.close()
    assert [one.value for one in await place.see(1)] == [b"v"]


async def test_publication_without_open_is_transient(place: Place) -> None:
    """The dispatcher opens and tries again."""
    publisher = place.make()
    with pytest.raises(KafkaUnavailableError):
        await publish(publisher, [record(place.topic, "k", b"v")], 1)


async def test_offset_is_committed_with_the_records(place: Place) -> None:
    """What a recovery rests on: last seq + 1, readable by the next producer of this journal."""
    if not place.transactions:
        pytest.skip("no offset is kept here (design section 9)")
    for last_seq in (5, 9):
        publisher = place.make()
        try:
            offset = await opened(publisher, place.journal_id)
            assert offset == (0 if last_seq == 5 else 6)
            await publish(publisher, [record(place.topic, "k", b"%d" % last_seq)], last_seq)
        finally:
            await publisher.close()
    assert [one.value for one in await place.see(2)] == [b"5", b"9"]


async def test_earlier_publisher_is_ousted(place: Place) -> None:
    """Two processes on one identity: the later one wins; the signature tells the other by whom."""
    if not place.transactions:
        pytest.skip("nothing fences without transactions")
    earlier, later = place.make(), place.make()
    try:
        await opened(earlier, place.journal_id)
        await publish(earlier, [record(place.topic, "k", b"1")], 1)
        assert await opened(later, place.journal_id) == 2
        with pytest.raises(ProducerOustedError):
            await publish(earlier, [record(place.topic, "k", b"zombie")], 2)
        found = await earlier.find(place.journal_id)
        assert found == Tenured(offset=2, owner=f"{id(later):x}")
        await publish(later, [record(place.topic, "k", b"2")], 2)
        assert [one.value for one in await place.see(2)] == [b"1", b"2"]
    finally:
        await earlier.close()
        await later.close()


async def test_signature_and_names_come_back(place: Place) -> None:
    """Whoever looks, before and after a publication; looking ends nobody."""
    if not place.transactions:
        pytest.skip("no offset is kept here")
    publisher, other = place.make(), place.make()
    signed = Tenured(offset=7, owner="a" * 32, alone_from={"b" * 32: 3, "c" * 32: 1})
    try:
        await opened(publisher, place.journal_id)
        await publisher.sign(signed)
        assert await other.find(place.journal_id) == signed
        await publish(publisher, [record(place.topic, "k", b"1")], 8)
        # Its offset may be a moment old, before Kafka 4.0; whose it is, not.
        found = await other.find(place.journal_id)
        assert found
        assert found.owner == signed.owner
        assert await other.open(place.journal_id) == replace(signed, offset=9)
        with pytest.raises(ProducerOustedError):
            await publisher.sign(signed)
        assert await other.find(str(uuid.uuid4())) == Tenured()
    finally:
        await publisher.close()
        await other.close()


@pytest.mark.parametrize("ended", ["left open", "aborted", "committed"])
async def test_end_that_kafka_told_no_topic_is_told(
    any_kafka: Broker, topic_prefix: str, ended: str
) -> None:
    """A coordinator has noted how a transaction ended, and the topics were not told.

    Seen on 4.4.0, as a broker came back: they had no leader at that moment.
    """
    await unverified(any_kafka.bootstrap)
    journal_id, topic, keys = str(uuid.uuid4()), f"{topic_prefix}t", "abcdefgh"
    settings = options(any_kafka.bootstrap, topic_prefix, partitions=3)
    earlier, later = (ExactlyOncePublisher(settings, [topic]) for _ in range(2))
    try:
        await opened(earlier, journal_id)
        await publish(earlier, [record(topic, key, b"1") for key in keys], 1)
        # Its end is in the topic now, so that what follows is no part of it.
        await committed(any_kafka.bootstrap, topic, 8)
        producer = earlier._opened()
        await producer.begin()
        manager = producer._producer._txn_manager
        manager._txn_partitions.update(TopicPartition(topic, number) for number in range(3))
        await producer.send(stream([record(topic, key, b"2") for key in keys]))
        await earlier._send_offset(producer, 3)
        if ended == "committed":
            await producer.commit()
        elif ended == "aborted":
            await producer.abort()
        assert await opened(later, journal_id) == (3 if ended == "committed" else 2)
        await publish(later, [record(topic, key, b"3") for key in keys], 3)
        shown = [b"1", b"2", b"3"] if ended == "committed" else [b"1", b"3"]
        seen = [one.value for one in await committed(any_kafka.bootstrap, topic, 8 * len(shown))]
        assert sorted(value for value in seen if value) == [one for one in shown for _ in keys]
    finally:
        await earlier.close()
        await later.close()


async def test_transaction_that_timed_out_is_transient(kafka: Broker, topic_prefix: str) -> None:
    """The broker says the same as of a replaced producer; the signature tells them apart."""
    patient = options(kafka.bootstrap, topic_prefix, timeout=30)
    topic, journal_id = f"{topic_prefix}t", str(uuid.uuid4())
    publisher = ExactlyOncePublisher(options(kafka.bootstrap, topic_prefix, timeout=2), [topic])

    async def slowly() -> AsyncIterator[Record]:
        # Two that do not fit into one produce batch, so that the first one is sent.
        yield record(topic, "k", b"1" * 200_000)
        yield record(topic, "k", b"2" * 200_000)
        await asyncio.sleep(7)

    try:
        await opened(publisher, journal_id)
        # A suspended process does not notice its own limit; the broker's, twice as long, goes on.
        publisher._settings = patient
        with pytest.raises(KafkaUnavailableError):
            await publisher.publish(slowly(), 2)
        await publisher.close()
        assert await opened(publisher, journal_id) == 0
        await publish(publisher, [record(topic, "k", b"1")], 2)
    finally:
        await publisher.close()
    assert [one.value for one in await committed(kafka.bootstrap, topic, 1)] == [b"1"]


async def test_confirmation_changes_nothing_and_finds_a_successor(place: Place) -> None:
    """Without a record, and before any is sent."""
    if not place.transactions:
        pytest.skip("nothing fences without transactions")
    earlier, later = place.make(), place.make()
    try:
        await opened(earlier, place.journal_id)
        await publish(earlier, [record(place.topic, "k", b"1")], 5)
        await earlier.confirm(99)
        await publish(earlier, [record(place.topic, "k", b"2")], 6)
        await earlier.confirm(99)
        assert await opened(later, place.journal_id) == 7
        with pytest.raises(ProducerOustedError):
            await earlier.confirm(6)
        await publish(later, [record(place.topic, "k", b"3")], 7)
        assert [one.value for one in await place.see(3)] == [b"1", b"2", b"3"]
    finally:
        await earlier.close()
        await later.close()


async def test_too_large_record_is_named_and_nothing_stays(place: Place) -> None:
    """Alone, whatever is around it; after a reopen the others go out, each seen once."""
    if not place.limits:
        pytest.skip("this broker takes everything")
    small = [record(place.topic, "k", b"%d" % n) for n in range(3)]
    large = record(place.topic, "k", b"x" * 1_200_000)
    publisher = place.make()
    try:
        await opened(publisher, place.journal_id)
        with pytest.raises(RecordTooLargeError) as caught:
            await publish(publisher, [small[0], small[1], large, small[2]], 4)
        assert caught.value.positions == (2,)
        await publisher.close()
        assert place.fresh == await opened(publisher, place.journal_id)
        marker = record(place.topic, "k", b"marker")
        await publish(publisher, [*small, marker], 4)
        if place.transactions:
            found = await place.see(4)
            assert [one.value for one in found] == [b"0", b"1", b"2", b"marker"]
    finally:
        await publisher.close()


async def sent(publisher: Publisher, records: Sequence[Record], last_seq: int) -> int:
    """Publish as the dispatcher does; give how often the broker has refused a batch before."""
    refusals = 0
    while True:
        try:
            await opened(publisher, "sent")
            await publish(publisher, records, last_seq)
        except BatchRefusedError:
            refusals += 1
        else:
            return refusals
        finally:
            await publisher.close()


async def topic_with(broker: Broker, prefix: str, **limits: str) -> str:
    """Make a topic of one partition with settings of its own."""
    topic = f"{prefix}records"
    settings = {name.replace("_", "."): value for name, value in limits.items()}
    async with admin_client(options(broker.bootstrap, prefix)) as admin:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    return topic


@pytest.mark.parametrize("kind", [ExactlyOncePublisher, AtLeastOncePublisher])
async def test_record_from_the_future_holds_up_nothing(
    kind: type[ExactlyOncePublisher],
    any_kafka: Broker,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does a clock that is two hours ahead: what Kafka refuses then goes out without a time."""
    topic = await topic_with(any_kafka, topic_prefix, message_timestamp_after_max_ms="3600000")
    now = int(time.time() * 1000)
    ahead = record(topic, "k", b"1", timestamp=now + 2 * 3_600_000)
    publisher = kind(options(any_kafka.bootstrap, topic_prefix), [topic])
    try:
        with monkeypatch.context() as patched:
            patched.setattr(packing, "_now", lambda: now + 2 * 3_600_000)
            assert await sent(publisher, [ahead], 1) == 1
            assert await sent(publisher, [ahead], 2) == 0
        publisher = kind(options(any_kafka.bootstrap, topic_prefix), [topic])
        assert await sent(publisher, [ahead], 3) == 0
        one, two, three = await committed(any_kafka.bootstrap, topic, 3)
        assert (one.timestamp, two.timestamp) == (-1, -1)
        assert now <= three.timestamp < now + 60_000
    finally:
        await publisher.close()


@pytest.mark.parametrize("hours", [[49] * 21, [49, 0, 0, 30, 2], [0] * 5 + [400 * 24]])
async def test_old_records_are_dated_now_where_the_topic_bounds_their_time(
    hours: list[int], any_kafka: Broker, topic_prefix: str
) -> None:
    """They would stop all publishing; young ones keep their time, and the order stays."""
    topic = await topic_with(any_kafka, topic_prefix, message_timestamp_before_max_ms="3600000")
    now = int(time.time() * 1000)
    records = [
        record(topic, "k", b"%d" % n, timestamp=now - age * 3_600_000)
        for n, age in enumerate(hours)
    ]
    publisher = ExactlyOncePublisher(options(any_kafka.bootstrap, topic_prefix), [topic])
    try:
        assert 0 < await sent(publisher, records, len(records)) <= 8
        assert await sent(publisher, records, 2 * len(records)) == 0, "it has learnt"
    finally:
        await publisher.close()
    found = await committed(any_kafka.bootstrap, topic, 2 * len(records))
    assert [one.value for one in records * 2] == [one.value for one in found]
    for age, one in zip(hours * 2, found, strict=True):
        assert (one.timestamp == now - age * 3_600_000) == (age == 0)
        assert now - 3_600_000 < one.timestamp < now + 60_000


async def test_record_that_the_broker_refuses_is_named_and_the_rest_goes_out(
    any_kafka: Broker, topic_prefix: str
) -> None:
    """By its validation: here, a compacted topic takes no record without a key."""
    topic = await topic_with(any_kafka, topic_prefix, cleanup_policy="compact")
    publisher = ExactlyOncePublisher(options(any_kafka.bootstrap, topic_prefix), [topic])
    records = [record(topic, f"k-{n}", b"%d" % n) for n in range(60)]
    bad, none = {17, 42}, cast("bytes", None)
    for n in bad:
        records[n] = replace(records[n], key=none)
    try:
        with pytest.raises(RecordRefusedError, match="InvalidRecord") as caught:
            await sent(publisher, records, 60)
        assert set(caught.value.positions) == bad
        good = [one for n, one in enumerate(records) if n not in bad]
        assert await sent(publisher, good, 60) == 0
    finally:
        await publisher.close()
    found = await committed(any_kafka.bootstrap, topic, 58)
    assert [one.value for one in good] == [one.value for one in found]


async def test_batch_beyond_the_topics_limit_is_made_smaller(
    kafka: Broker, topic_prefix: str
) -> None:
    """A topic that takes less than our batches, but each record: transient, then it fits."""
    topic = f"{topic_prefix}narrow"
    config = options(kafka.bootstrap, topic_prefix)
    async with admin_client(config) as admin:
        limit = {"max.message.bytes": "20000"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=limit)])
    publisher = ExactlyOncePublisher(config, [topic])
    records = [record(topic, "k", b"x" * 5000) for _ in range(40)]
    attempts = 0
    try:
        while True:
            attempts += 1
            try:
                await opened(publisher, "narrow")
                await publish(publisher, records, 40)
                break
            except BatchRefusedError:
                await publisher.close()
        assert 1 < attempts < 5
        assert len(await committed(kafka.bootstrap, topic, 40)) == 40
    finally:
        await publisher.close()


async def test_missing_topics_are_named_where_creation_is_off(
    kafka: Broker, topic_prefix: str
) -> None:
    config = options(kafka.bootstrap, topic_prefix, create_topics=False)
    publisher = ExactlyOncePublisher(config, [f"{topic_prefix}a", f"{topic_prefix}b"])
    expected = f"missing in Kafka: {topic_prefix}a, {topic_prefix}b, {topic_prefix}relay_journal"
    with pytest.raises(KafkaRefusedError, match=expected):
        await publisher.open("j")
    await publisher.close()


async def test_topics_are_made_as_the_settings_say(kafka: Broker, topic_prefix: str) -> None:
    """Partitions for events, one for the journal's offset; the broker's own replication factor."""
    config = options(kafka.bootstrap, topic_prefix, partitions=5)
    publisher = ExactlyOncePublisher(config, [f"{topic_prefix}a"])
    await opened(publisher, "j")
    await publisher.close()
    async with admin_client(config) as admin:
        names = [f"{topic_prefix}a", f"{topic_prefix}relay_journal"]
        described = {one["topic"]: one["partitions"] for one in await admin.describe_topics(names)}
    assert [len(described[name]) for name in names] == [5, 1]
    again = ExactlyOncePublisher(
        options(kafka.bootstrap, topic_prefix, create_topics=False), [f"{topic_prefix}a"]
    )
    assert await opened(again, "j") == 0
    await again.close()


async def test_replication_that_the_cluster_cannot_give_is_refused(
    kafka: Broker, topic_prefix: str
) -> None:
    config = options(kafka.bootstrap, topic_prefix, replication_factor=9)
    publisher = AtLeastOncePublisher(config, [f"{topic_prefix}a"])
    with pytest.raises(KafkaRefusedError, match=r"a \(creating it failed: InvalidReplication"):
        await publisher.open("j")
    await publisher.close()


#: From Kafka's own test of its murmur2 (UtilsTest).
JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


async def test_partition_is_the_one_java_would_choose(kafka: Broker, topic_prefix: str) -> None:
    """A consumer that joins our topics with those of a Java producer relies on it."""
    topic = f"{topic_prefix}records"
    publisher = ExactlyOncePublisher(options(kafka.bootstrap, topic_prefix, partitions=12), [topic])
    keys = [*JAVA_HASHES, *(f"键-{n}" for n in range(50))]
    await opened(publisher, "j")
    await publish(publisher, [record(topic, key, b"v") for key in keys], len(keys))
    await publisher.close()
    found = {one.key: one.partition for one in await committed(kafka.bootstrap, topic, len(keys))}
    for key, murmur2 in JAVA_HASHES.items():
        assert (murmur2 & 0x7FFFFFFF) % 12 == found[key.encode()]
    every, partitioner = list(range(12)), DefaultPartitioner()
    assert {key.encode(): partitioner(key.encode(), every, every) for key in keys} == found


async def test_broker_that_is_away_is_transient() -> None:
    """And is named as such within the timeout."""
    publisher = ExactlyOncePublisher(options("127.0.0.1:1", "x.", timeout=1), ["x.a"])
    with pytest.raises(KafkaUnavailableError, match="Kafka is not available"):
        await publisher.open("j")
    await publisher.close()


async def test_broker_that_hangs_up_after_its_greeting_is_transient(embedded_kafka: str) -> None:
    """As a load balancer before brokers that are away: no password is wrong."""
    ended: list[asyncio.StreamWriter] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = embedded_kafka.rpartition(":")
        theirs, ours = await asyncio.open_connection(host, int(port))
        for source, target in ((reader, ours), (theirs, writer)):
            size = await source.readexactly(4)
            target.write(size + await source.readexactly(int.from_bytes(size, "big")))
        await reader.read(1)
        for connection in (ours, writer):
            connection.close()
            with suppress(OSError):
                await connection.wait_closed()
        ended.append(writer)

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    publisher = ExactlyOncePublisher(options(f"127.0.0.1:{port}", "x.", timeout=5), ["x.a"])
    with pytest.raises(KafkaUnavailableError, match="Kafka is not available"):
        await publisher.open("j")
    await publisher.close()
    await until(lambda: len(ended) == 2)
    server.close()
    await server.wait_closed()


async def test_broker_that_hangs_is_transient(unused_tcp_port_factory: Callable[[], int]) -> None:
    """It accepts the connection and says nothing."""
    port = unused_tcp_port_factory()
    connected: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", port)
    publisher = ExactlyOncePublisher(options(f"127.0.0.1:{port}", "x.", timeout=0.5), ["x.a"])
    with pytest.raises(KafkaUnavailableError):
        await publisher.open("j")
    await publisher.close()
    assert connected
    for writer in connected:
        writer.close()
    server.close()
    await server.wait_closed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A Kafka where `relay` may do everything and `guest` nothing."""

    server: KafkaServer
    security: Security


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    need_kafka()
    security = secure_listeners(tmp_path_factory.mktemp("certificates"))
    allowed = f"User:ANONYMOUS;User:{USERNAME};User:CN={USERNAME}"
    with KafkaServer(
        listeners=[*security.listeners, *(brief(one, 1500) for one in security.listeners[:2])],
        scram_users={**security.scram_users, "guest": PASSWORD},
        properties={
            **AUTHORIZER,
            "super.users": allowed,
            "transaction.max.timeout.ms": "40000",
        },
    ) as server:
        yield Guarded(server=server, security=security)


def secured(guarded: Guarded, prefix: str, listener: str, **changes: Any) -> Kafka:
    security = guarded.security
    login = {"sasl_username": USERNAME, "sasl_password": SecretStr(PASSWORD)}
    ways: dict[str, dict[str, Any]] = {
        "PLAIN": {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **login},
        "SCRAM": {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "ca_file": security.ca_file,
            **login,
        },
        "MTLS": {
            "security_protocol": "SSL",
            "ca_file": security.ca_file,
            "cert_file": security.cert_file,
            "key_file": security.key_file,
        },
    }
    way = ways[listener.removeprefix("BRIEF")]
    return options(guarded.server.address(listener), prefix, **{**way, **changes})


@pytest.mark.parametrize("listener", ["PLAIN", "SCRAM", "MTLS"])
async def test_publishes_with_a_password_or_a_certificate(
    listener: str, guarded: Guarded, topic_prefix: str
) -> None:
    """Exactly once over each, offset and all."""
    topic = f"{topic_prefix}records"
    publisher = ExactlyOncePublisher(secured(guarded, topic_prefix, listener), [topic])
    try:
        assert await opened(publisher, topic_prefix) == 0
        await publish(publisher, [record(topic, "k", b"v")], 7)
        await publisher.close()
        assert await opened(publisher, topic_prefix) == 8
    finally:
        await publisher.close()
    assert [one.value for one in await committed(guarded.server.bootstrap, topic, 1)] == [b"v"]


@pytest.mark.parametrize("listener", ["BRIEFPLAIN", "BRIEFSCRAM"])
async def test_connections_are_renewed_before_the_broker_cuts_them(
    listener: str, guarded: Guarded, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login holds for 1.5 s there: no request meets its end, and none waits."""
    ends: list[CloseReason] = []
    on_close = AIOKafkaClient._on_connection_closed

    def noted(self: AIOKafkaClient, connection: object, reason: CloseReason) -> None:
        ends.append(reason)
        on_close(self, connection, reason)

    monkeypatch.setattr(AIOKafkaClient, "_on_connection_closed", noted)
    topic, took, seq = f"{topic_prefix}records", list[float](), 0
    publisher = ExactlyOncePublisher(secured(guarded, topic_prefix, listener), [topic])
    try:
        await opened(publisher, topic_prefix)
        end = time.monotonic() + 5
        while (now := time.monotonic()) < end:
            seq += 1
            await publish(publisher, [record(topic, "k", b"%d" % seq)], seq)
            took.append(time.monotonic() - now)
            await asyncio.sleep(0.02)
    finally:
        await publisher.close()
    found = await committed(guarded.server.bootstrap, topic, seq)
    assert [b"%d" % n for n in range(1, seq + 1)] == [one.value for one in found]
    assert CloseReason.CONNECTION_BROKEN not in ends
    assert ends.count(CloseReason.IDLE_DROP) >= 6, ends
    assert max(took) < 1


@pytest.mark.parametrize("listener", ["PLAIN", "SCRAM"])
async def test_wrong_password_is_refused(
    listener: str, guarded: Guarded, topic_prefix: str
) -> None:
    """Not transient: an operator must repair it. The message says no secret."""
    wrong = secured(guarded, topic_prefix, listener, sasl_password=SecretStr("hunter2"))
    publisher = ExactlyOncePublisher(wrong, [f"{topic_prefix}a"])
    try:
        with pytest.raises(KafkaRefusedError) as caught:
            await publisher.open("j")
    finally:
        await publisher.close()
    assert "hunter2" not in str(caught.value)


async def test_transactions_that_the_broker_lets_take_no_so_long_are_refused_by_name(
    guarded: Guarded, topic_prefix: str
) -> None:
    """With both settings in the sentence, and by `relay check` too."""
    for timeout, allowed in ((20, True), (20.5, False), (300, False)):
        config = options(guarded.server.bootstrap, topic_prefix, timeout=timeout)
        publisher = ExactlyOncePublisher(config, [f"{topic_prefix}a"])
        if allowed:
            await opened(publisher, "j")
        else:
            asked = f"transaction.max.timeout.ms .* below the {timeout * 2000:.0f} .* kafka.timeout"
            with pytest.raises(KafkaRefusedError, match=asked):
                await publisher.open("j")
            with pytest.raises(KafkaRefusedError, match=asked):
                await check._transactions(Settings.model_construct(apps={}, kafka=config))
        await publisher.close()


@pytest.mark.parametrize("there", [False, True], ids=["topics missing", "topics there"])
async def test_missing_rights_are_refused(
    there: bool,  # noqa: FBT001 - a parameter of the test
    guarded: Guarded,
    topic_prefix: str,
) -> None:
    """Whoever may log in but not write."""
    topic = f"{topic_prefix}a"
    if there:
        maker = ExactlyOncePublisher(options(guarded.server.bootstrap, topic_prefix), [topic])
        await opened(maker, "j")
        await maker.close()
    guest = secured(guarded, topic_prefix, "SCRAM", sasl_username="guest")
    publisher = ExactlyOncePublisher(guest, [topic])
    with pytest.raises(KafkaRefusedError):
        await publisher.open("j")
    await publisher.close()


#: It exports them without saying so.
ACL: Any = confluent
WRITE, READ, DESCRIBE = (getattr(ACL.AclOperation, name) for name in ("WRITE", "READ", "DESCRIBE"))


@pytest.fixture
def allow(guarded: Guarded) -> Iterator[Callable[..., None]]:
    """Give `guest` a right for the time of a test."""
    client = ACL.AdminClient({"bootstrap.servers": guarded.server.bootstrap})
    kinds, forms, permissions = ACL.ResourceType, ACL.ResourcePatternType, ACL.AclPermissionType

    def allow(*rights: tuple[str, str, Any]) -> None:
        bindings = [
            ACL.AclBinding(
                kinds[kind], name, forms.PREFIXED, "User:guest", "*", right, permissions.ALLOW
            )
            for kind, name, right in rights
        ]
        for done in client.create_acls(bindings).values():
            done.result(20)

    yield allow
    whose = (kinds.ANY, None, forms.ANY, "User:guest", None, ACL.AclOperation.ANY, permissions.ANY)
    for done in client.delete_acls([ACL.AclBindingFilter(*whose)]).values():
        done.result(20)


async def said_at_last(loaded: Settings, wanted: str) -> str:
    """Give what `relay check` says: a broker learns of a new right a moment after it was given."""
    end = time.monotonic() + 30
    while True:
        try:
            said = await check._transactions(loaded)
        except KafkaRefusedError as error:
            said = str(error)
        if said == wanted or time.monotonic() > end:
            return said
        await asyncio.sleep(0.1)


async def test_right_to_write_is_tried_without_a_trace(
    guarded: Guarded, topic_prefix: str, allow: Callable[..., None]
) -> None:
    """By `relay check`, for each topic: nothing is sent, and no offset moves."""
    name = f"{topic_prefix}relay_journal"
    config = secured(guarded, topic_prefix, "SCRAM", sasl_username="guest")
    first, *others = wanted = sorted(Router(*config.routes).topics)
    await topics.ensure(options(guarded.server.bootstrap, topic_prefix), wanted)
    allow(
        *(("TOPIC", one, WRITE) for one in others),
        ("TOPIC", first, DESCRIBE),
        ("TOPIC", name, READ),
        ("TRANSACTIONAL_ID", "relay-check-", WRITE),
        ("GROUP", "relay-check-", READ),
    )
    loaded = Settings.model_construct(apps={}, kafka=config)
    refused = f"Kafka refuses: no right to write to {first}"
    assert await said_at_last(loaded, refused) == refused
    allow(("TOPIC", first, WRITE))
    allowed = "can start, write to the topics, carry an offset"
    assert await said_at_last(loaded, allowed) == allowed
    consumer = AIOKafkaConsumer(bootstrap_servers=guarded.server.bootstrap)
    await consumer.start()
    try:
        places = [TopicPartition(topic, 0) for topic in wanted]
        assert set((await consumer.end_offsets(places)).values()) == {0}
    finally:
        await consumer.stop()


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "rubbish"])
async def test_unusable_certificate_is_refused_by_name(
    content: bytes | None, tmp_path: Path
) -> None:
    """Before anything is sent; it holds until the file is repaired."""
    file = tmp_path / "ca.pem"
    if content:
        file.write_bytes(content)
    config = options("127.0.0.1:1", "x.", security_protocol="SSL", ca_file=file)
    publisher = ExactlyOncePublisher(config, ["x.a"])
    with pytest.raises(KafkaRefusedError, match=f"the TLS files {file} cannot be used"):
        await publisher.open("j")
    await publisher.close()


async def test_unknown_authority_is_not_trusted(
    guarded: Guarded, topic_prefix: str, tmp_path: Path
) -> None:
    """A broker that the CA file does not vouch for gets no password."""
    other = secure_listeners(tmp_path)
    config = secured(guarded, topic_prefix, "SCRAM", ca_file=other.ca_file)
    publisher = ExactlyOncePublisher(config, [f"{topic_prefix}a"])
    with pytest.raises(KafkaUnavailableError):
        await publisher.open("j")
    await publisher.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.KafkaError("no\n leader"), "KafkaError: no leader"),
        (ValueError(), "ValueError"),
        (OSError("OSError: again"), "OSError: again"),
    ],
)
def test_error_is_said_in_one_line(error: Exception, expected: str) -> None:
    assert expected == faults.describe(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ProducerFenced(), ProducerOustedError),
        (errors.InvalidProducerEpoch(), ProducerOustedError),
        (errors.TopicAuthorizationFailedError(), KafkaRefusedError),
        (errors.SaslAuthenticationFailed(), KafkaRefusedError),
        (errors.NotLeaderForPartitionError(), KafkaUnavailableError),
        (TimeoutError(), KafkaUnavailableError),
        (ConnectionResetError(), KafkaUnavailableError),
        (RecordTooLargeError(3), RecordTooLargeError),
    ],
)
async def test_error_is_told_in_relays_terms(error: Exception, expected: type[Exception]) -> None:
    """What ends the process, what holds, what is tried again."""
    with pytest.raises(expected):
        async with faults.translated():
            raise error


async def test_offset_that_is_not_told_is_a_failure(
    embedded_kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must never be taken for `nothing is settled`."""

    def silent(_: object) -> None:
        raise KafkaUnavailableError("the group's coordinator did not answer")

    publisher = ExactlyOncePublisher(options(embedded_kafka, topic_prefix), [f"{topic_prefix}a"])
    with monkeypatch.context() as patched:
        patched.setattr(offsets, "told", silent)
        with pytest.raises(KafkaUnavailableError, match="coordinator did not answer"):
            await publisher.open("j")
    await publisher.close()
    assert await opened(publisher, "j") == 0
    await publisher.close()


class SilentAdmin(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka has no types
    """An admin client of a cluster that tells of itself what is given, and no more."""

    def __init__(self, **defaults: str) -> None:
        """Connect to nothing."""
        self._defaults = {name.replace("_", "."): value for name, value in defaults.items()}
        self.made: list[NewTopic] = []

    async def describe_cluster(self) -> dict[str, Any]:
        """Give one broker."""
        return {"brokers": [{"node_id": 1}]}

    async def describe_configs(self, *_: object) -> list[Any]:
        """Give the broker's."""
        entries = [(name, value, False) for name, value in self._defaults.items()]
        return [SimpleNamespace(resources=[(0, "", 4, "1", entries)])]

    async def create_topics(self, new_topics: list[NewTopic], *_: object) -> Any:
        """Note what was asked for."""
        self.made += new_topics
        return SimpleNamespace(topic_errors=[(topic.name, 0, None) for topic in new_topics])


async def test_unknown_replication_factor_must_be_set() -> None:
    with pytest.raises(KafkaRefusedError, match="set it"):
        await topics._create(SilentAdmin(), options("x:1", "x."), {"t": 1})


@pytest.mark.parametrize(
    ("factor", "config", "defaults", "expected"),
    [
        (-1, {}, {"default_replication_factor": "3"}, (3, {"min.insync.replicas": "2"})),
        (0, {}, {"default_replication_factor": "4"}, (4, {"min.insync.replicas": "2"})),
        (-1, {}, {"default_replication_factor": "2"}, (2, {})),
        (-1, {}, {"default_replication_factor": "1"}, (1, {})),
        # Nothing can be read: what is set is enough.
        (3, {}, {}, (3, {"min.insync.replicas": "2"})),
        (2, {}, {}, (2, {})),
        # Brokers that are as careful, or more, stay as they are.
        (3, {}, {"min_insync_replicas": "2"}, (3, {})),
        (5, {}, {"min_insync_replicas": "3"}, (5, {})),
        (5, {}, {"min_insync_replicas": "1"}, (5, {"min.insync.replicas": "2"})),
        # An operator has said otherwise.
        (3, {"min.insync.replicas": 1}, {}, (3, {"min.insync.replicas": "1"})),
        (
            3,
            {"retention": {"ms": 5}},
            {},
            (3, {"min.insync.replicas": "2", "retention.ms": "5"}),
        ),
    ],
)
async def test_new_topic_rests_on_two_disks_where_it_can(
    factor: int, config: dict[str, object], defaults: dict[str, str], expected: tuple[int, object]
) -> None:
    """A broker's default is one: then `acks=all` is the word of one of three."""
    admin = SilentAdmin(**defaults)
    wanted = options("x:1", "x.", replication_factor=factor, topic_config=config)
    await topics._create(admin, wanted, {"t": 12, "relay_journal": 1})
    assert [topic.name for topic in admin.made] == ["t", "relay_journal"]
    for topic in admin.made:
        assert expected == (topic.replication_factor, topic.topic_configs)
