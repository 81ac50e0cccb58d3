"""Brings batches of records into Kafka: exactly once by transactions, or at least once.

It never decides what to publish, and after any failure it is opened anew: no guess survives.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import OffsetAndMetadata

from relay.egress import kafka
from relay.errors import (
    FencedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RecordTooLargeError,
)
from relay.events import Record
from relay.settings import Kafka

#: Bytes of one produce batch; a larger record travels alone, so that it can be refused alone.
BATCH_BYTES = 256 * 1024
#: Seconds to wait for a producer that is thrown away.
DISCARD_TIMEOUT = 5
#: Earlier processes of a journal that an offset's metadata names: Kafka takes 4,096 bytes of it.
TENURES = 32


class Publisher(Protocol):
    """What the dispatcher needs; after an error it calls `close`, then `open`."""

    async def open(self, journal_id: str, known_seq: int = 0) -> int | None:
        """Connect; give the offset below which Kafka has this journal, None if it does not know.

        `known_seq` is the last seq that was in the journal's file when it was opened.
        """

    async def confirm(self, settled_seq: int) -> None:
        """Raise FencedError if another process has opened this journal; changes nothing."""

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        """Publish all records, in order per key; `last_seq` is the journal's place after them."""

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in."""


class _Batch:
    """A batch for one partition, and which of the records to publish are in it."""

    __slots__ = ("_latest", "builder", "positions")

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.positions: list[int] = []
        self._latest = _now()

    def append(self, record: Record, position: int) -> bool:
        """Add a record, unless the batch is full."""
        appended = self.builder.append(
            # Kafka refuses a time that is more than an hour ahead: a clock may have been.
            timestamp=min(record.timestamp, self._latest),
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
        if appended is None:
            return False
        self.positions.append(position)
        return True


class _Session:
    """A producer and what both publishers do with it."""

    def __init__(self, settings: Kafka, topics: Sequence[str]) -> None:
        self._settings = settings
        self._topics = topics
        self._journal_topic = kafka.journal_topic(settings)
        self._batch_bytes = BATCH_BYTES
        self._producer: AIOKafkaProducer | None = None

    async def _start(self, transactional_id: str | None) -> AIOKafkaProducer:
        """Make sure of the topics and connect a producer; with an id this fences earlier ones."""
        async with kafka.admin_client(self._settings) as admin:
            await kafka.ensure_topics(admin, self._settings, self._topics)
        self._producer = AIOKafkaProducer(
            **kafka.client_options(self._settings),
            acks="all",
            enable_idempotence=True,
            transactional_id=transactional_id,
            # Longer than any exchange may take.
            transaction_timeout_ms=int(self._settings.timeout * 2000),
            max_batch_size=self._batch_bytes,
            request_timeout_ms=int(self._settings.timeout * 1000),
        )
        await self._producer.start()
        return self._producer

    def _opened(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise KafkaUnavailableError("the publisher is not open")
        return self._producer

    async def _send(self, producer: AIOKafkaProducer, records: AsyncIterable[Record]) -> None:
        """Pack the records as they come, send them, and wait for the brokers' word on each."""
        open_batches: dict[tuple[str, int], _Batch] = {}
        sent: list[tuple[asyncio.Future[Any], list[int]]] = []

        async def send(target: tuple[str, int], batch: _Batch) -> None:
            topic, partition = target
            future = await producer.send_batch(batch.builder, topic, partition=partition)
            sent.append((future, batch.positions))

        partitions: dict[str, int] = {}
        position = 0
        async for record in records:
            count = partitions.get(record.topic)
            if count is None:
                count = len(await producer.partitions_for(record.topic))
                partitions[record.topic] = count
            target = (record.topic, _partition(record.key, count))
            batch = open_batches.get(target) or _Batch(producer.create_batch())
            if not batch.append(record, position):
                await send(target, batch)
                batch = _Batch(producer.create_batch())
                batch.append(record, position)
            open_batches[target] = batch
            position += 1
        for target, batch in open_batches.items():
            await send(target, batch)
        await self._delivered(sent)

    async def _delivered(self, sent: Sequence[tuple[asyncio.Future[Any], list[int]]]) -> None:
        """Wait for every batch; raise what went wrong with the first that did."""
        results = await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        for result, (_, positions) in zip(results, sent, strict=True):
            if isinstance(result, MessageSizeTooLargeError | RecordListTooLargeError):
                self._too_large(positions)
            if isinstance(result, BaseException):
                raise result

    def _too_large(self, positions: Sequence[int]) -> None:
        if len(positions) == 1:
            raise RecordTooLargeError(positions[0])
        self._batch_bytes = max(1, self._batch_bytes // 4)
        message = f"the broker takes no batch of {len(positions)} records; trying smaller ones"
        raise KafkaUnavailableError(message)

    async def close(self) -> None:
        """Throw the producer away. `stop` would wait for brokers that may never answer."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        with suppress(Exception):
            async with asyncio.timeout(DISCARD_TIMEOUT):
                producer._closed = True  # noqa: SLF001 - what `stop` does, without its flush
                await producer.client.close()
                await producer._sender.close()  # noqa: SLF001
                # Meanwhile the sender may have connected again.
                await producer.client.close()
                _forget_failure(producer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A journal's offset, whose it is, and what the processes before that one had to themselves."""

    offset: int
    #: Signature of the process that has opened the journal last; empty if there is no offset.
    owner: str
    #: From which seq on, by signature, the latest first.
    own_from: Mapping[str, int]

    @classmethod
    def parse(cls, offset: int, metadata: str) -> Self:
        """Read what `metadata_after` has written."""
        owner, *tenures = metadata.split() or [""]
        parts = (tenure.partition("@") for tenure in tenures)
        own_from = {name: int(seq) for name, _, seq in parts}
        return cls(offset=max(offset, 0), owner=owner, own_from=own_from)

    def metadata_after(self, signature: str, known_seq: int) -> str:
        """Sign for a process that goes on from here, with a file that ends at `known_seq`."""
        own_from = dict(self.own_from)
        if self.owner not in {"", signature}:
            own_from.pop(self.owner, None)
            own_from = {self.owner: max(self.offset, known_seq + 1), **own_from}
        tenures = [f"{name}@{seq}" for name, seq in own_from.items()]
        return " ".join([signature, *tenures[:TENURES]])


class ExactlyOncePublisher(_Session):
    """A transaction a batch: the records, and in the same commit how far the journal is settled."""

    def __init__(self, settings: Kafka, topics: Sequence[str]) -> None:
        super().__init__(settings, topics)
        self._place = TopicPartition(self._journal_topic, 0)
        #: This process, as it signs its offsets; whoever opens the journal after it signs anew.
        self._signature = uuid.uuid4().hex
        self._metadata = ""
        #: The group of the journal that this process has opened, and whose signature it found.
        self._group = self._predecessor = ""

    async def open(self, journal_id: str, known_seq: int = 0) -> int:
        """Fence and finish what an earlier process left, then read back how far it came.

        The order matters: the offset is final only after the producer has its new epoch. But who
        has opened it before and finds another's signature was replaced, and must not take the place
        back: FencedError.
        """
        group = f"relay-{journal_id}"
        async with kafka.translated(), asyncio.timeout(self._settings.timeout):
            if group == self._group:
                await self._find_successor()
            await self._start(group)
            if group == self._group:
                # One that has signed in between opens its producer once more.
                await self._find_successor()
            place = await self._read_back(group)
            self._group, self._predecessor = group, place.owner
            self._metadata = place.metadata_after(self._signature, known_seq)
            await self._sign(place.offset)
        return place.offset

    async def _find_successor(self) -> None:
        """Raise FencedError if another has signed; an offset that has expired has no signature."""
        place = await self._read_back(self._group)
        if place.owner not in {self._signature, self._predecessor, ""}:
            message = "another process publishes under this journal's id; only one may"
            raise FencedError(message, place.own_from.get(self._signature))

    async def _read_back(self, group: str) -> _Place:
        """Give the group's offset, 0 where there is none, and who has signed it."""
        async with kafka.admin_client(self._settings) as admin:
            offsets = await admin.list_consumer_group_offsets(group, partitions=[self._place])
        if self._place not in offsets:
            # aiokafka drops the group's error code: an answer without our partition is a failure.
            message = "Kafka is not available: the group's coordinator did not answer"
            raise KafkaUnavailableError(message)
        found = offsets[self._place]
        return _Place.parse(int(found.offset), str(found.metadata or ""))

    async def _sign(self, offset: int) -> None:
        producer = self._opened()
        await producer.begin_transaction()
        await self._send_offset(producer, offset)
        await producer.commit_transaction()

    async def _send_offset(self, producer: AIOKafkaProducer, offset: int) -> None:
        signed = OffsetAndMetadata(offset, self._metadata)
        await producer.send_offsets_to_transaction({self._place: signed}, self._group)

    async def confirm(self, settled_seq: int) -> None:
        """Begin a transaction, ask for the journal's place in it, and abort it."""
        async with self._transaction() as producer:
            await self._send_offset(producer, settled_seq + 1)
            await producer.abort_transaction()

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        """Commit the records and `last_seq` + 1 as one; on any other error nothing is known."""
        async with self._transaction() as producer:
            await self._send(producer, records)
            await self._send_offset(producer, last_seq + 1)
            await producer.commit_transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AIOKafkaProducer]:
        """Begin one; tell a process that was replaced from one that was too slow."""
        producer = self._opened()
        async with kafka.translated():
            try:
                async with kafka.translated(), asyncio.timeout(self._settings.timeout):
                    await producer.begin_transaction()
                    yield producer
            except ProducerOustedError:
                async with asyncio.timeout(self._settings.timeout):
                    await self._find_successor()
                raise


class AtLeastOncePublisher(_Session):
    """No transactions: less latency, and a repeat after a crash between Kafka and the journal."""

    async def open(self, journal_id: str, known_seq: int = 0) -> None:
        """Connect; Kafka knows nothing of how far the journal came."""
        del journal_id, known_seq
        async with kafka.translated(), asyncio.timeout(self._settings.timeout):
            await self._start(None)

    async def confirm(self, settled_seq: int) -> None:
        """Kafka cannot tell: nothing fences without transactions."""

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        """Publish the records; they are on all in-sync replicas when this returns."""
        del last_seq
        async with kafka.translated(), asyncio.timeout(self._settings.timeout):
            await self._send(self._opened(), records)


def _now() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def _forget_failure(producer: AIOKafkaProducer) -> None:
    """Take notice of the error that a transaction nobody waits for any more has ended with."""
    transactions = producer._txn_manager  # noqa: SLF001 - it is never given out
    waiter = transactions and transactions._transaction_waiter  # noqa: SLF001
    if waiter and waiter.done() and not waiter.cancelled():
        waiter.exception()


@lru_cache(maxsize=4096)
def _partition(key: bytes, count: int) -> int:
    """Choose the partition that Java's default partitioner would: consumers rely on it."""
    partitions = list(range(count))
    return int(DefaultPartitioner()(key, partitions, partitions))
