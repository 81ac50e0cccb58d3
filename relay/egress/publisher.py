"""Brings batches of records into Kafka: exactly once by transactions, or at least once.

It never decides what to publish, and after any failure it is opened anew: no guess survives.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from relay.egress.kafka import offsets, transactions
from relay.egress.kafka.faults import translated
from relay.egress.kafka.packing import Packing
from relay.egress.kafka.producer import Producer
from relay.egress.kafka.topics import ensure, journal_topic
from relay.egress.kafka.transactions import End
from relay.egress.tenure import Place
from relay.errors import KafkaUnavailableError
from relay.events import Landing, Record
from relay.settings import Kafka


class Publisher(Protocol):
    """What the dispatcher needs; after an error it calls `close`, then `open`."""

    async def find(self, journal_id: str) -> Place | None:
        """Give what Kafka knows of a journal, and change nothing; None: it does not tell."""

    async def open(self, journal_id: str) -> Place | None:
        """Connect; this ends earlier ones of that journal. Give as `find` what they have left."""

    async def sign(self, place: Place) -> None:
        """Become the owner of the journal's offset, durably."""

    async def confirm(self, settled_seq: int) -> None:
        """Raise ProducerOustedError if another process has opened this journal; changes nothing."""

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> Sequence[Landing]:
        """Publish all records, in order per key; `last_seq` is the journal's place after them.

        Gives where each of them lies.
        """

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in."""


class _Session:
    """A producer and what both publishers do with it."""

    def __init__(self, settings: Kafka, topics: Sequence[str]) -> None:
        self._settings = settings
        self._topics = topics
        self._journal_topic = journal_topic(settings)
        self._packing = Packing()
        self._producer: Producer | None = None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        asked = self._settings.bootstrap_servers
        async with translated(asked), asyncio.timeout(self._settings.timeout):
            yield

    async def _start(self, transactional_id: str | None) -> None:
        """Make sure of the topics and connect a producer; with an id this fences earlier ones."""
        await ensure(self._settings, self._topics)
        self._producer = Producer.to(self._settings, transactional_id, self._packing)
        await self._producer.start()

    def _opened(self) -> Producer:
        if self._producer is None:
            raise KafkaUnavailableError("the publisher is not open")
        return self._producer

    async def close(self) -> None:
        """Throw the producer away."""
        producer, self._producer = self._producer, None
        if producer:
            await producer.discard()


class ExactlyOncePublisher(_Session):
    """A transaction a batch: the records, and in the same commit how far the journal is settled."""

    def __init__(self, settings: Kafka, topics: Sequence[str]) -> None:
        super().__init__(settings, topics)
        #: The group of the journal that is open, and what is written beside its offset.
        self._group = self._metadata = ""
        #: How the last transaction has ended, until every partition knows.
        self._last = End.UNKNOWN

    async def find(self, journal_id: str) -> Place | None:
        """Read the group's offset, and who has signed it.

        Not a stable one: it would wait for the end of a transaction that nobody may ever end. But
        that there is none is believed only if none is on its way; one that stays so is ended by
        `open`.
        """
        group = f"relay-{journal_id}"
        async with self._in_time():
            place = await self._read_back(group, stable=False)
            if place.owner:
                return place
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeout / 2):
                    return await self._read_back(group, stable=True)
        return None

    async def open(self, journal_id: str) -> Place:
        """Fence and finish what an earlier process left, then read back how far it came.

        The order matters: the offset is final only after the producer has its new epoch, and is
        told as it is only after a write.
        """
        group = f"relay-{journal_id}"
        if group != self._group:
            self._group, self._last = group, End.UNKNOWN
        async with self._in_time():
            last = await transactions.last(self._settings, group)
        async with self._in_time():
            await self._start(group)
        if self._last is End.UNKNOWN:
            self._last = last.fenced_by(self._opened().identity)
        await self._finish(self._last)
        self._last = End.UNKNOWN
        async with self._in_time():
            return await self._read_back(group, stable=True)

    async def _finish(self, end: End) -> None:
        """End the last transaction once more, in every partition that it can have touched.

        Where a broker has not, its records would appear beside those that we publish in their
        place, or disappear, as our next one ends. And a coordinator that has just come up tells
        offsets of some seconds ago, until something is written to it.
        """
        async with self._transaction() as producer:
            if end is not End.UNKNOWN:
                await producer.include(self._topics)
            if end is End.COMMITTED:
                await producer.include_group(self._group)
                await producer.commit()
            else:
                await self._send_offset(producer, 0)
                await producer.abort()

    async def _read_back(self, group: str, *, stable: bool) -> Place:
        found = await offsets.read(self._settings, group, self._journal_topic, stable=stable)
        return Place.parse(found.offset, found.metadata)

    async def sign(self, place: Place) -> None:
        """Commit the offset as it is, with our signature."""
        self._metadata = place.metadata()
        async with self._transaction() as producer:
            await self._send_offset(producer, place.offset)
            await producer.commit()

    async def _send_offset(self, producer: Producer, offset: int) -> None:
        await producer.carry_offset(self._group, self._journal_topic, offset, self._metadata)

    async def confirm(self, settled_seq: int) -> None:
        """Begin a transaction, ask for the journal's place in it, and abort it."""
        async with self._transaction() as producer:
            await self._send_offset(producer, settled_seq + 1)
            await producer.abort()

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> list[Landing]:
        """Commit the records and `last_seq` + 1 as one; on any other error nothing is known."""
        async with self._transaction() as producer:
            landings = await producer.send(records)
            await self._send_offset(producer, last_seq + 1)
            await producer.commit()
        return landings

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Producer]:
        producer = self._opened()
        async with self._in_time():
            await producer.begin()
            yield producer


class AtLeastOncePublisher(_Session):
    """No transactions: less latency, and a repeat after a crash between Kafka and the journal."""

    async def find(self, journal_id: str) -> None:
        """Kafka knows nothing of how far the journal came."""

    async def open(self, journal_id: str) -> None:
        """Connect."""
        del journal_id
        async with self._in_time():
            await self._start(None)

    async def sign(self, place: Place) -> None:
        """There is no offset."""

    async def confirm(self, settled_seq: int) -> None:
        """Kafka cannot tell: nothing fences without transactions."""

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> list[Landing]:
        """Publish the records; they are on all in-sync replicas when this returns."""
        del last_seq
        async with self._in_time():
            return await self._opened().send(records)
