"""The journal: what an answer of 200 rests on. A SQLite file with one writer and one order.

It never resolves an add before its commit has been fsynced, and it never reads Kafka or settings.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from relay.errors import JournalNoSpaceError, RejectedError, RejectReason, StoppedWorkingError
from relay.events import (
    Callback,
    DeadLetterReason,
    Landing,
    Outcome,
    Settlement,
    StoredEvent,
    Transport,
)
from relay.fairness import Turns
from relay.journal import file as journalfile
from relay.journal.backlog import Backlog
from relay.journal.disk import faults, volume
from relay.journal.disk.volume import Room
from relay.journal.jobs import Add, Call, Commit
from relay.journal.retention import Retention
from relay.journal.rows import claimed
from relay.journal.rows.claimed import Claimed
from relay.journal.rows.identity import Identity, write
from relay.journal.rows.lives import Lives
from relay.journal.rows.settling import settle
from relay.journal.rows.stored import COLUMNS, from_callback, from_row
from relay.journal.writer import WRITER, Writer
from relay.observe.metrics import Metrics

log = structlog.get_logger()

#: Bytes of bodies that may wait for a commit; past it new ones get 503.
MAX_WAITING_BYTES = 64 * 2**20
#: Rows that are read at once.
READ_BITE = 32
#: Pending events whose body is kept parsed, some 5 kB each.
PARSED = 256

_PENDING = f"SELECT {COLUMNS} FROM events WHERE outcome IS NULL ORDER BY seq LIMIT ?"  # noqa: S608 - constants
#: Left to itself, SQLite takes the index of event ids, and looks up every row there is.
_BACKLOG = (
    "SELECT app, transport, count(*) FROM events INDEXED BY events_pending"
    " WHERE outcome IS NULL GROUP BY app, transport"
)
_PAST = (
    "SELECT outcome IN ('published', 'dead_letter'), seq, app, transport, received_at, event_id,"
    " event_type, x'', 0, NULL, origin, NULL FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
)
_OLDEST = (
    "SELECT received_at FROM events WHERE outcome IS NULL AND NOT replayed ORDER BY seq LIMIT 1"
)


class Journal:
    """The journal of one process; its coroutines belong to the event loop that opened it."""

    def __init__(
        self,
        path: Path,
        metrics: Metrics,
        *,
        max_bytes: int,
        max_waiting: int,
        window: float,
        letters_alone: bool = False,
    ) -> None:
        self._path = path
        self._metrics = metrics
        self._max_waiting = max_waiting
        metrics.journal_max_bytes.set(max_bytes)
        #: What is remembered, and for how long.
        self.retention = Retention(window, letters_alone=letters_alone)
        self._waiting = self._waiting_bytes = 0
        self._writable, self._full, self._cramped = True, False, False
        self._backlog = Backlog()
        #: The writer's thread alone may ask.
        self._lives = Lives()
        self._loop = asyncio.get_running_loop()
        #: Set whenever there is something new to dispatch.
        self.arrived = asyncio.Event()
        self._dead: asyncio.Future[str] = self._loop.create_future()
        self._lock = journalfile.lock(path)
        try:
            self._room = Room(path)
            self._open_in_need(max_bytes)
        except BaseException:
            self._lock.close()
            raise
        self._writer.start()

    def _open_in_need(self, max_bytes: int) -> None:
        """Open the file; on a full volume, with the space that an earlier process has reserved."""
        try:
            with faults.told(self._path):
                self._open(max_bytes)
            self._room.reserve()
        except JournalNoSpaceError:
            self._room.let_go()
            with faults.told(self._path):
                self._open(max_bytes)

    def _open(self, max_bytes: int) -> None:
        journalfile.prepare(self._path)
        with closing(journalfile.connect(self._path, patience=journalfile.PATIENCE)) as connection:
            self.identity = journalfile.begin(connection)
            self._counted_seq = journalfile.last_seq(connection)
            #: What the claims store has of it.
            self.claimed = claimed.read(connection)
            # The loop asks it, and must not wait.
            self._reader = journalfile.connect(self._path, patience=0)
            self._writer = Writer(
                self._path,
                self._deliver,
                self._die,
                max_bytes=max_bytes,
                retention=self.retention,
                room=self._room,
            )
            # At last: what is counted is not counted again by another attempt to start.
            self._count_backlog(connection)
        self._metrics.identified(self.id)

    async def close(self) -> None:
        """Finish what is waiting, stop the threads and give the file free."""
        await self._loop.run_in_executor(None, self._writer.stop)
        self._reader.close()
        self._lock.close()

    @property
    def moved_at(self) -> float:
        """Monotonic time at which the writer last went on; it does so every second."""
        return self._writer.moved_at

    async def watch(self) -> None:
        """Wait for a thread of the journal's to die. Raises StoppedWorkingError, or waits on."""
        death = await asyncio.shield(self._dead)
        raise StoppedWorkingError(f"{death}; what was answered is on disk: start relay again")

    def _die(self, thread: str, error: BaseException) -> None:
        """Bring a thread's end into the loop; nobody may wait for it any more."""
        log.error("thread_died", thread=thread, error=f"{type(error).__name__}: {error}")
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._bury, thread, type(error).__name__)

    def _bury(self, thread: str, error: str) -> None:
        if not self._dead.done():
            self._dead.set_result(f"the thread {thread} died of {error}")
        if thread == WRITER:
            self._writer.refuse()

    def _refuse_if_dead(self) -> None:
        if self._dead.done():
            raise RejectedError(RejectReason.JOURNAL_UNAVAILABLE, "the journal cannot be written")

    async def add(self, callback: Callback) -> Outcome:
        """Store an event; returns after the fsync: ACCEPTED, DUPLICATE or DEAD_LETTER.

        Raises RejectedError (503) if the journal is full, overloaded or cannot write.
        """
        self._refuse_if_dead()
        if self._full:
            raise RejectedError(RejectReason.JOURNAL_FULL, "the journal has reached its size limit")
        if self._waiting >= self._max_waiting or self._waiting_bytes >= MAX_WAITING_BYTES:
            raise RejectedError(RejectReason.OVERLOADED, "too many requests wait for the journal")
        self._waiting += 1
        self._waiting_bytes += len(callback.body)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._writer.put(Add(callback=callback, token=future))
        return await future

    async def settle(
        self,
        settlements: Sequence[Settlement],
        settled_at: int,
        claimed_at: int | None = None,
        landings: Sequence[Landing] = (),
    ) -> None:
        """Mark pending events as ended, durably, and note what is known of their lives.

        Times are Unix time in milliseconds; `landings` are those of the
        settlements that have a topic.
        """
        ends, seqs = list(settlements), (settlements[0].seq, settlements[-1].seq)

        def work(connection: sqlite3.Connection) -> None:
            self._lives.write(connection, ends, claimed_at, landings)
            settle(connection, ends, settled_at)

        await self._call(work, seqs)
        ends.clear()  # The writer keeps its last work for a while: not a batch's bodies with it.
        self._backlog.settle(settlements[-1].seq)

    async def mark_refused(self, seqs: Sequence[int], reason: DeadLetterReason) -> None:
        """Note, durably, that the broker takes no record of these events: TOO_LARGE or REFUSED."""
        sql = "UPDATE events SET reason = ? WHERE seq = ?"
        await self._call(lambda c: c.executemany(sql, [(reason, seq) for seq in seqs]))
        self._backlog.forget()

    @property
    def id(self) -> str:
        """The name under which Kafka and the claims store know it."""
        return self.identity.id

    async def become(self, identity: Identity) -> None:
        """Put down, durably, who this journal is to Kafka from now on.

        Under a new name the claims store has no mark of it, which is not to be taken for a loss.
        """
        renamed = identity.id != self.id
        noted = replace(self.claimed, seeded=False, unclaimed_from=None) if renamed else None

        def work(connection: sqlite3.Connection) -> None:
            write(connection, identity)
            if noted:
                claimed.write(connection, noted)

        await self._call(work)
        self.identity = identity
        self.claimed = noted or self.claimed
        self._metrics.identified(identity.id)

    def last_seq(self) -> int:
        """Give the highest seq that was ever used."""
        with faults.told(self._path):
            return journalfile.last_seq(self._reader)

    async def note_claimed(self, noted: Claimed) -> None:
        """Note, durably, what the claims store has of this journal."""
        before, self.claimed = self.claimed, noted
        if noted != before:
            try:
                await self._call(lambda connection: claimed.write(connection, noted))
            except BaseException:
                self.claimed = before
                raise

    def published(self, after_seq: int, limit: int) -> tuple[list[StoredEvent], int]:
        """Give what this journal has put on Kafka of the next events, without their bodies.

        And the seq of the last one that was looked at; it is `after_seq` where there are no more.
        """
        with faults.told(self._path):
            rows = self._reader.execute(_PAST, (after_seq, limit)).fetchall()
        events = [from_row(row[1:]) for row in rows if row[0]]
        return events, rows[-1][1] if rows else after_seq

    async def probe(self) -> bool:
        """Whether the journal takes events; after a failure this tries a commit."""
        if self._cramped or not self._writable:
            with suppress(RejectedError):
                # An update to the same value would write no page.
                sql = f"PRAGMA user_version = {journalfile.SCHEMA_VERSION}"
                await self._call(lambda c: c.execute(sql))
        return self._writable and not self._full and not self._cramped

    async def pending(self, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Give the next pending events, in order; at least one, if there is any.

        Raises JournalError if the file cannot be read.
        """
        if self._backlog:
            return self._backlog.first(limit, max_bytes)
        with faults.told(self._path):
            events = await self._read(limit, max_bytes)
        self._count_replays(events)
        return events

    async def _read(self, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Read the next pending events from the file."""
        events: list[StoredEvent] = []
        size, turns = 0, Turns()
        with closing(self._reader.execute(_PENDING, (limit,))) as rows:
            while size < max_bytes and (bite := rows.fetchmany(READ_BITE)):
                events += map(from_row, bite)
                size += sum(len(event.body) for event in events[-len(bite) :])
                if turns.due():
                    await turns.give()
        if not events and limit:
            self._backlog.begin()
        else:
            self._backlog.forget()
        return events

    def oldest_pending(self) -> int | None:
        """Give `received_at` of the oldest pending event, Unix time in milliseconds."""
        with faults.told(self._path):
            row = self._reader.execute(_OLDEST).fetchone()
        return int(row[0]) if row else None

    def size(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        return volume.file_bytes(self._path) + self.log_size()

    def log_size(self) -> int:
        """Bytes on disk of the write-ahead log."""
        return volume.file_bytes(self._path.with_name(self._path.name + "-wal"))

    def volume_free(self) -> int:
        """Bytes that are free on its volume."""
        return volume.free_bytes(self._path)

    def used(self) -> int:
        """Bytes of pages in use: what `max_bytes` bounds."""
        with faults.told(self._path):
            return journalfile.used_bytes(self._reader)

    async def _call(
        self, work: Callable[[sqlite3.Connection], Any], seqs: tuple[int, int] | None = None
    ) -> None:
        self._refuse_if_dead()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._writer.put(Call(work, future, seqs))
        await future

    def _deliver(self, commit: Commit) -> None:
        """Bring a commit from the writer's thread into the loop (none is left at its end)."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._resolve, commit)

    def _resolve(self, commit: Commit) -> None:
        """Tell the waiters; what the account counts changes in this one step."""
        self._full, self._cramped = commit.full, commit.cramped
        if not (commit.adds or commit.calls):
            return
        self._waiting -= len(commit.adds)
        self._waiting_bytes -= sum(len(add.callback.body) for add in commit.adds)
        if commit.failure or commit.foreign:
            self._backlog.forget()
        if commit.failure:
            self._writable = False
            error = RejectedError(commit.failure, "the journal cannot be written")
            for token in (*(add.token for add in commit.adds), *(c.token for c in commit.calls)):
                _finish(token, error=error)
            return
        self._writable = True
        self._metrics.commit_seconds.observe(commit.seconds)
        self._count(commit)
        now = int(time.time() * 1000)
        for add, seq in zip(commit.adds, commit.seqs, strict=True):
            if seq is None:
                _finish(add.token, Outcome.DUPLICATE)
                continue
            parsed = len(self._backlog) < PARSED
            self._backlog.add(from_callback(add.callback, seq, now, parsed=parsed))
            _finish(add.token, _first_outcome(add.callback))
        for call in commit.calls:
            _finish(call.token)

    def _count_backlog(self, connection: sqlite3.Connection) -> None:
        """Count what an earlier process has left as received, so that the account balances."""
        for app, transport, count in connection.execute(_BACKLOG):
            self._metrics.ledger.received(app, Transport(transport), count)
            self.arrived.set()

    def _count_replays(self, events: Sequence[StoredEvent]) -> None:
        """Count, once, the rows that replay, import and backfill have put in since the start."""
        for event in events:
            foreign = event.replayed or event.origin or event.transport is Transport.BACKFILL
            if foreign and event.seq > self._counted_seq:
                self._counted_seq = event.seq
                self._metrics.ledger.received(event.app, event.transport)

    def _count(self, commit: Commit) -> None:
        counts: dict[tuple[str, Transport, bool], int] = {}
        for add, seq in zip(commit.adds, commit.seqs, strict=True):
            one = add.callback
            key = (one.app, one.transport, seq is None)
            counts[key] = counts.get(key, 0) + 1
        for (app, transport, duplicate), count in counts.items():
            if duplicate:
                self._metrics.ledger.repeated(app, transport, count)
            else:
                self._metrics.ledger.received(app, transport, count)
                self.arrived.set()


def _first_outcome(callback: Callback) -> Outcome:
    return Outcome.DEAD_LETTER if callback.dead_letter else Outcome.ACCEPTED


def _finish(future: asyncio.Future[Any], value: Any = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error:
        future.set_exception(error)
    else:
        future.set_result(value)
