"""Brings batches of records into Kafka: exactly once by transactions, or at least once.

It never decides what to publish, and after any failure it is opened anew: no guess survives.
"""

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, Self

from relay.egress.kafka import offsets
from relay.egress.kafka.faults import translated
from relay.egress.kafka.producer import BATCH_BYTES, Producer
from relay.egress.kafka.topics import ensure, journal_topic
from relay.errors import (
    FencedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RecordTooLargeError,
)
from relay.events import Record
from relay.settings import Kafka

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


class _Session:
    """A producer and what both publishers do with it."""

    def __init__(self, settings: Kafka, topics: Sequence[str]) -> None:
        self._settings = settings
        self._topics = topics
        self._journal_topic = journal_topic(settings)
        self._batch_bytes = BATCH_BYTES
        self._producer: Producer | None = None

    async def _start(self, transactional_id: str | None) -> None:
        """Make sure of the topics and connect a producer; with an id this fences earlier ones."""
        await ensure(self._settings, self._topics)
        self._producer = Producer.to(self._settings, transactional_id, self._batch_bytes)
        await self._producer.start()

    def _opened(self) -> Producer:
        if self._producer is None:
            raise KafkaUnavailableError("the publisher is not open")
        return self._producer

    async def _send(self, producer: Producer, records: AsyncIterable[Record]) -> None:
        """Send the records; raise what went wrong with the first batch that was not taken."""
        for delivery in await producer.send(records):
            if delivery.too_large:
                self._too_large(delivery.positions)
            if delivery.error:
                raise delivery.error

    def _too_large(self, positions: Sequence[int]) -> None:
        if len(positions) == 1:
            raise RecordTooLargeError(positions[0])
        self._batch_bytes = max(1, self._batch_bytes // 4)
        message = f"the broker takes no batch of {len(positions)} records; trying smaller ones"
        raise KafkaUnavailableError(message)

    async def close(self) -> None:
        """Throw the producer away."""
        producer, self._producer = self._producer, None
        if producer:
            await producer.discard()


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
        async with translated(), asyncio.timeout(self._settings.timeout):
            if group == self._group:
                await self._find_successor()
            await self._start(group)
            if group == self._group:
                # One that has signed in between opens its producer once more.
                await self._find_successor()
            place = await self._read_back(group, stable=True)
            self._group, self._predecessor = group, place.owner
            self._metadata = place.metadata_after(self._signature, known_seq)
            await self._sign(place.offset)
        return place.offset

    async def _find_successor(self) -> None:
        """Raise FencedError if another has signed; an offset that has expired has no signature."""
        # Not a stable one: it would wait for the end of a transaction that nobody may ever end.
        place = await self._read_back(self._group, stable=False)
        if place.owner not in {self._signature, self._predecessor, ""}:
            message = "another process publishes under this journal's id; only one may"
            raise FencedError(message, place.own_from.get(self._signature))

    async def _read_back(self, group: str, *, stable: bool) -> _Place:
        """Give the group's offset, 0 where there is none, and who has signed it."""
        found = await offsets.read(self._settings, group, self._journal_topic, stable=stable)
        return _Place.parse(found.offset, found.metadata)

    async def _sign(self, offset: int) -> None:
        producer = self._opened()
        await producer.begin()
        await self._send_offset(producer, offset)
        await producer.commit()

    async def _send_offset(self, producer: Producer, offset: int) -> None:
        await producer.carry_offset(self._group, self._journal_topic, offset, self._metadata)

    async def confirm(self, settled_seq: int) -> None:
        """Begin a transaction, ask for the journal's place in it, and abort it."""
        async with self._transaction() as producer:
            await self._send_offset(producer, settled_seq + 1)
            await producer.abort()

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        """Commit the records and `last_seq` + 1 as one; on any other error nothing is known."""
        async with self._transaction() as producer:
            await self._send(producer, records)
            await self._send_offset(producer, last_seq + 1)
            await producer.commit()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Producer]:
        """Begin one; tell a process that was replaced from one that was too slow."""
        producer = self._opened()
        async with translated():
            try:
                async with translated(), asyncio.timeout(self._settings.timeout):
                    await producer.begin()
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
        async with translated(), asyncio.timeout(self._settings.timeout):
            await self._start(None)

    async def confirm(self, settled_seq: int) -> None:
        """Kafka cannot tell: nothing fences without transactions."""

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        """Publish the records; they are on all in-sync replicas when this returns."""
        del last_seq
        async with translated(), asyncio.timeout(self._settings.timeout):
            await self._send(self._opened(), records)
