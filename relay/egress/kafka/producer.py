"""One connected producer: transactions, batches of records, offsets.

Whatever fails, it is thrown away: a producer that failed, timed out or was fenced is in no state
to be used again.
"""

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    InvalidTransactionTimeout,
    NoError,
    NotCoordinatorError,
    OperationNotAttempted,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.sender import AddPartitionsToTxnHandler
from aiokafka.structs import OffsetAndMetadata

from relay.egress.kafka.client import client_options
from relay.egress.kafka.faults import complete, fate_of
from relay.egress.kafka.packing import Batch, Delivery, Packing
from relay.errors import KafkaRefusedError
from relay.events import Landing, Record
from relay.settings import Kafka

#: Seconds to wait for a producer that is thrown away.
DISCARD_TIMEOUT = 5
#: How a broker says that it numbers no producers, or that this user has not the right to a number.
_UNNUMBERED = (
    IncompatibleBrokerVersion,
    UnsupportedVersionError,
    ClusterAuthorizationFailedError,
)
#: No topic has so many partitions.
_NO_PARTITION = 2**31 - 1
#: What is said of a partition that there is not, and of all others with it.
_NOT_TAKEN = (UnknownTopicOrPartitionError, OperationNotAttempted)
#: The coordinator is about to be there.
_SOON = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)


class Producer:
    """What aiokafka's producer does for relay, and how it is got rid of."""

    def __init__(self, options: dict[str, Any], packing: Packing) -> None:
        self._options = options
        self._producer = AIOKafkaProducer(**options)
        self._packing = packing

    @classmethod
    def to(cls, settings: Kafka, transactional_id: str | None, packing: Packing) -> Self:
        """Make one, not yet connected. Without an id it is idempotent only."""
        complete()
        options = {
            **client_options(settings),
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "transactional_id": transactional_id,
            # Longer than any exchange may take.
            "transaction_timeout_ms": int(settings.timeout * 2000),
            "max_batch_size": packing.batch_bytes,
            "request_timeout_ms": int(settings.timeout * 1000),
        }
        return cls(options, packing)

    async def start(self) -> None:
        """Connect; with a transactional id this fences earlier ones, and ends what they left."""
        try:
            await self._start()
        except InvalidTransactionTimeout as error:
            asked = self._producer._txn_manager.transaction_timeout_ms
            message = (
                f"Kafka refuses: the brokers' transaction.max.timeout.ms is below the {asked} ms"
                " that relay asks for, which are twice kafka.timeout"
            )
            raise KafkaRefusedError(message) from error

    async def _start(self) -> None:
        """Without transactions, a broker that numbers no producers, or not this one, will do.

        There is one request at a time for a broker, so records stay in their order.
        """
        try:
            await self._producer.start()
        except _UNNUMBERED:
            if self._options["transactional_id"] is not None:
                raise
            await self.discard()
            self._producer = AIOKafkaProducer(**self._options | {"enable_idempotence": False})
            await self._producer.start()

    async def begin(self) -> None:
        """Begin a transaction."""
        await self._producer.begin_transaction()

    async def carry_offset(self, group: str, topic: str, offset: int, metadata: str = "") -> None:
        """Make the group's offset in the topic's partition 0 a part of the transaction."""
        place = {TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata)}
        await self._producer.send_offsets_to_transaction(place, group)

    async def include(self, topics: Iterable[str]) -> None:
        """Make every partition of the topics a part of the transaction, without a record."""
        for topic in topics:
            for partition in await self._producer.partitions_for(topic):
                place = TopicPartition(topic, partition)
                self._producer._txn_manager.maybe_add_partition_to_txn(place)

    async def include_group(self, group: str) -> None:
        """Make the group a part of the transaction, without an offset."""
        while not await self._producer._sender._do_add_offsets_to_txn(group):
            pass

    async def forbidden(self, topics: Iterable[str]) -> list[str]:
        """Name those of the topics to which this user may not write; in a transaction.

        The broker looks at the right to each topic first, and then refuses the request as a whole
        for a partition that there is not. So nothing becomes a part of the transaction, and its
        end leaves no mark. (Where a broker takes the others in all the same, the end is an abort.)
        """
        places = [
            TopicPartition(topic, number) for topic in topics for number in (0, _NO_PARTITION)
        ]
        question = _Question(self._producer._sender, places)
        while not await question.asked():
            pass
        return sorted(question.forbidden)

    @property
    def identity(self) -> tuple[int, int]:
        """Id and epoch that the coordinator has given."""
        manager = self._producer._txn_manager
        return manager.producer_id, manager.producer_epoch

    async def commit(self) -> None:
        """End the transaction: all of it is there for consumers, or nothing is known."""
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        """End the transaction: nothing of it ever was."""
        await self._producer.abort_transaction()

    async def send(self, records: AsyncIterable[Record]) -> list[Landing]:
        """Pack the records as they come, send them, and wait for the brokers' word on each.

        Gives where each of them lies, in their order. Raises what `Packing.learn` does if they did
        not take all of it.
        """
        producer, packing = self._producer, self._packing
        open_batches: dict[tuple[str, int], Batch] = {}
        sent: list[tuple[asyncio.Future[Any], Batch]] = []

        async def send(partition: int, batch: Batch) -> None:
            future = await producer.send_batch(batch.builder, batch.topic, partition=partition)
            sent.append((future, batch))

        partitions: dict[str, int] = {}
        position = 0
        async for record in records:
            topic = record.topic
            count = partitions.get(topic)
            if count is None:
                count = partitions[topic] = len(await producer.partitions_for(topic))
            target = (topic, _partition(record.key, count))
            batch = open_batches.get(target) or packing.batch(
                topic, producer.create_batch(), position
            )
            if not (packing.fits(batch, position) and batch.append(record, position)):
                await send(target[1], batch)
                batch = packing.batch(topic, producer.create_batch(), position)
                batch.append(record, position)
            open_batches[target] = batch
            position += 1
        for (_, partition), batch in open_batches.items():
            await send(partition, batch)
        return packing.learn(await self._delivered(sent))

    async def _delivered(self, sent: Sequence[tuple[asyncio.Future[Any], Batch]]) -> list[Delivery]:
        results = await asyncio.gather(*(future for future, _ in sent), return_exceptions=True)
        return [_delivery(batch, result) for result, (_, batch) in zip(results, sent, strict=True)]

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


class _Question(AddPartitionsToTxnHandler):  # type: ignore[misc]  # it has no types
    """A request whose answer is read for the rights alone."""

    def __init__(self, sender: Any, places: Sequence[TopicPartition]) -> None:
        super().__init__(sender, places)
        self.forbidden: set[str] = set()

    async def asked(self) -> bool:
        """Ask once; False if it has to be asked again."""
        manager = self._sender._txn_manager
        kind = CoordinationType.TRANSACTION
        node = await self._sender._find_coordinator(kind, manager.transactional_id)
        return bool(await self.do(node))

    def handle_response(self, answer: Any) -> float | None:
        """Note what each topic is refused for; give the seconds to wait if it is too early."""
        manager = self._sender._txn_manager
        for topic, partitions in answer.errors:
            for number, code in partitions:
                error = for_code(code)
                if error in _SOON:
                    self._sender._coordinator_dead(CoordinationType.TRANSACTION)
                    return float(self._default_backoff)
                if error is TopicAuthorizationFailedError:
                    self.forbidden.add(topic)
                elif error is NoError:
                    manager.maybe_add_partition_to_txn(TopicPartition(topic, number))
                    manager.partition_added(TopicPartition(topic, number))
                elif error not in _NOT_TAKEN:
                    raise error(manager.transactional_id)
        return None


def _delivery(batch: Batch, result: Any) -> Delivery:
    error = result if isinstance(result, BaseException) else None
    return Delivery(
        topic=batch.topic,
        partition=-1 if error else result.partition,
        offset=-1 if error else result.offset,
        positions=batch.positions,
        age=batch.age,
        fate=fate_of(error),
        error=error,
    )


@lru_cache(maxsize=4096)
def _partition(key: bytes, count: int) -> int:
    """Choose the partition that Java's default partitioner would: consumers rely on it."""
    partitions = list(range(count))
    return int(DefaultPartitioner()(key, partitions, partitions))
