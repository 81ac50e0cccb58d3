"""One connected producer: transactions, batches of records, offsets.

Whatever fails, it is thrown away: a producer that failed, timed out or was fenced is in no state
to be used again.
"""

import asyncio
import time
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import OffsetAndMetadata

from relay.egress.kafka.client import client_options
from relay.events import Record
from relay.settings import Kafka

#: Bytes of one produce batch; a larger record travels alone, so that it can be refused alone.
BATCH_BYTES = 256 * 1024
#: Seconds to wait for a producer that is thrown away.
DISCARD_TIMEOUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the brokers said of one produce batch."""

    #: Which of the records that were sent are in it.
    positions: Sequence[int]
    #: None if they took it.
    error: BaseException | None

    @property
    def too_large(self) -> bool:
        """Whether it was refused for its size."""
        return isinstance(self.error, MessageSizeTooLargeError | RecordListTooLargeError)


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


class Producer:
    """What aiokafka's producer does for relay, and how it is got rid of."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    @classmethod
    def to(
        cls, settings: Kafka, transactional_id: str | None, batch_bytes: int = BATCH_BYTES
    ) -> Self:
        """Make one, not yet connected. Without an id it is idempotent only."""
        return cls(
            AIOKafkaProducer(
                **client_options(settings),
                acks="all",
                enable_idempotence=True,
                transactional_id=transactional_id,
                # Longer than any exchange may take.
                transaction_timeout_ms=int(settings.timeout * 2000),
                max_batch_size=batch_bytes,
                request_timeout_ms=int(settings.timeout * 1000),
            )
        )

    async def start(self) -> None:
        """Connect; with a transactional id this fences earlier ones, and ends what they left."""
        await self._producer.start()

    async def begin(self) -> None:
        """Begin a transaction."""
        await self._producer.begin_transaction()

    async def carry_offset(self, group: str, topic: str, offset: int, metadata: str = "") -> None:
        """Make the group's offset in the topic's partition 0 a part of the transaction."""
        place = {TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata)}
        await self._producer.send_offsets_to_transaction(place, group)

    async def commit(self) -> None:
        """End the transaction: all of it is there for consumers, or nothing is known."""
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        """End the transaction: nothing of it ever was."""
        await self._producer.abort_transaction()

    async def send(self, records: AsyncIterable[Record]) -> list[Delivery]:
        """Pack the records as they come, send them, and wait for the brokers' word on each."""
        producer = self._producer
        open_batches: dict[tuple[str, int], _Batch] = {}
        sent: list[tuple[asyncio.Future[Any], list[int]]] = []

        async def send(target: tuple[str, int], batch: _Batch) -> None:
            topic, partition = target
            future = await producer.send_batch(batch.builder, topic, partition=partition)
            future.add_done_callback(_notice)
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
        return await self._delivered(sent)

    async def _delivered(
        self, sent: Sequence[tuple[asyncio.Future[Any], list[int]]]
    ) -> list[Delivery]:
        results = await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        return [
            Delivery(
                positions=positions, error=result if isinstance(result, BaseException) else None
            )
            for result, (_, positions) in zip(results, sent, strict=True)
        ]

    async def discard(self) -> None:
        """Throw it away. aiokafka's `stop` would wait for brokers that may never answer."""
        producer = self._producer
        with suppress(Exception):
            async with asyncio.timeout(DISCARD_TIMEOUT):
                producer._closed = True  # what `stop` does, without its flush
                await producer.client.close()
                await producer._sender.close()
                # Meanwhile the sender may have connected again.
                await producer.client.close()
                _forget_failure(producer)


def _now() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def _forget_failure(producer: AIOKafkaProducer) -> None:
    """Take notice of the errors with which a transaction and batches have ended inside aiokafka."""
    transactions = producer._txn_manager
    if transactions and (waiter := transactions._transaction_waiter):
        _notice(waiter)
    unsent = producer._message_accumulator
    for batch in chain(*unsent._batches.values(), unsent._pending_batches):
        _notice(batch.future)
        _notice(batch._drain_waiter)


def _notice(future: asyncio.Future[Any]) -> None:
    """Look at a future's error, so that the loop does not complain that nobody has."""
    if future.done() and not future.cancelled():
        future.exception()


@lru_cache(maxsize=4096)
def _partition(key: bytes, count: int) -> int:
    """Choose the partition that Java's default partitioner would: consumers rely on it."""
    partitions = list(range(count))
    return int(DefaultPartitioner()(key, partitions, partitions))
