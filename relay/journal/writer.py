"""The journal's writer: the one thread that changes the file, many waiters to one commit.

It knows no event loop: jobs come in by a queue, and each commit is handed to `deliver`.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread

import structlog

from relay.errors import JournalNoSpaceError, RejectReason
from relay.events import Callback
from relay.journal import file
from relay.journal.cleanup import CleanUp
from relay.journal.disk import faults
from relay.journal.disk.volume import Room
from relay.journal.jobs import Add, Call, Commit, Job, commit_of, undone
from relay.journal.retention import Retention
from relay.journal.rows.insertion import insert
from relay.observe.logs import Changes

log = structlog.get_logger()

#: The thread that answers wait for.
WRITER = "journal-writer"
#: Rows that one step of the clean-up deletes, so that an ack waits for a moment at most.
TIDY_ROWS = 32
#: Seconds between two looks for something to clean up; also the longest time without a step.
TIDY_INTERVAL = 1.0
#: Seconds after which what was left standing is looked at again: an operator may have decided.
TIDY_AGAIN = 3600.0
#: When so many jobs shared the last commit, the next one waits for as many, up to GATHER seconds,
#: and LOOKS so often: a commit costs about as much CPU as ten rows.
CROWD, GATHER, LOOKS = 8, 0.002, 8
#: WAL pages after which the writer finishes a checkpoint itself, so that the WAL starts over.
WAL_PAGES = 4_096
#: Bytes of the log's file that are kept when it starts over.
LOG_KEPT = WAL_PAGES * 4096
#: Seconds between two checkpoints beside the writer.
CHECKPOINT_INTERVAL = 1.0

#: KiB of pages for the index over event ids, which come in no order.
_CACHE = "PRAGMA cache_size = -1000"
#: The part of its limit from which on the journal lets go of settled bodies, before it must refuse.
SHORT = 7 / 8
#: One in so many bytes is for dead letters that only the journal has.
KEPT_SHARE = 4
#: Bytes of new bodies after which the journal's size is looked at again.
SIZE_LOOK = 2**20
#: The length of a body stands in the row's head: no body is read.
_BYTES = "SELECT coalesce(sum(length(body) + 4096), 0) FROM events WHERE seq BETWEEN ? AND ?"


class Writer:
    """Owns the writing connection, from `start` to `stop`."""

    def __init__(
        self,
        path: Path,
        deliver: Callable[[Commit], None],
        died: Callable[[str, BaseException], None],
        *,
        max_bytes: int,
        retention: Retention,
        room: Room,
    ) -> None:
        """`died` is called, once, by a thread that ends of an error."""
        self._path = path
        self._deliver = deliver
        self._died = died
        #: Monotonic time at which the writer's thread last went on.
        self.moved_at = time.monotonic()
        self._in_hand: list[Job] = []
        self._max_bytes = max_bytes
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._connection = file.connect(path)
        self._connection.execute(_CACHE)
        self._connection.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
        self._room = room
        self._cramped, self._refused_bytes = False, 0
        self._space = Changes(log, "journal_volume_has_space")
        self._retention = retention
        retention.restore(self._connection)
        self._stopping = Event()
        self._wal_is_long = Event()
        self._tidied_at = time.monotonic()
        self._untidy = False
        self._crowd = 0
        self._clean_up = CleanUp(self._connection, retention, max_bytes // KEPT_SHARE)
        self._last_seq = file.last_seq(self._connection)
        self._unsized = SIZE_LOOK
        self._full = self._short = False
        self._log = Changes(log, "journal_writable")
        self._threads = [
            Thread(target=self._watched, args=[work], name=name, daemon=True)
            for name, work in (
                (WRITER, self._run),
                ("journal-checkpoint", self._checkpoints),
            )
        ]

    def start(self) -> None:
        """Begin to take jobs."""
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Queue a job; its place in the queue is its place in the journal's order."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Do what is queued, then end. Blocks."""
        self._jobs.put(None)
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def _watched(self, work: Callable[[], None]) -> None:
        """Do a thread's work; if it dies, nobody waits for it for ever."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the end of the thread, whatever it is of
            self._died(current_thread().name, error)

    def refuse(self) -> None:
        """Answer the jobs that nobody will do any more; the thread is dead."""
        jobs, self._in_hand = self._in_hand, []
        with suppress(Empty):
            while job := self._jobs.get_nowait():
                jobs.append(job)
        self._deliver(undone(jobs))

    def _run(self) -> None:
        while (jobs := self._take()) is not None:
            self.moved_at = time.monotonic()
            self._in_hand = jobs
            if jobs:
                self._do(jobs)
            self._in_hand = []
            self._keep_house()
        with suppress(sqlite3.Error):
            self._retention.look()
            self._note()

    def _take(self) -> list[Job] | None:
        """Wait for work and take all of it; an empty list is a moment to clean up."""
        try:
            job = self._jobs.get(timeout=0 if self._untidy else TIDY_INTERVAL)
        except Empty:
            return []
        if self._crowd >= CROWD:
            self._gather()
        jobs: list[Job] = []
        while job is not None:
            jobs.append(job)
            try:
                job = self._jobs.get_nowait()
            except Empty:
                self._crowd = len(jobs)
                return jobs
        self._jobs.put(None)
        return jobs or None

    def _gather(self) -> None:
        """Wait for as many jobs as shared the last commit, but no longer than GATHER seconds."""
        for _ in range(LOOKS):
            if self._jobs.qsize() + 1 >= self._crowd:
                return
            time.sleep(GATHER / LOOKS)

    def _do(self, jobs: list[Job]) -> None:
        """Do what the volume has room for, and refuse the rest."""
        refused = self._without_room(jobs)
        if refused:
            self._in_hand = [] if refused is jobs else [j for j in jobs if isinstance(j, Call)]
            self._deliver(self._flagged(undone(refused)))
        if self._in_hand:
            self._deliver(self._commit(self._in_hand))

    def _without_room(self, jobs: list[Job]) -> Sequence[Job]:
        """Give the jobs that may not be done: events first, and in the end whatever writes."""
        adds = [job for job in jobs if isinstance(job, Add)]
        # Without an event: whether the last one that was refused would be taken now.
        more = sum(len(add.callback.body) for add in adds) if adds else self._refused_bytes
        try:
            self._cramped = not self._room.for_events(more, self._size)
            self._refused_bytes = more if self._cramped else 0
            if not self._cramped:
                self._space.working()
                return ()
            self._space.failing("journal_volume_full", "its volume has no room for more events")
            return adds if self._room.for_the_rest(self._rewritten(jobs), self._size) else jobs
        except (OSError, sqlite3.Error):
            return ()  # The commit will tell.

    def _rewritten(self, jobs: Sequence[Job]) -> int:
        """Bytes that the log takes up when events get their endings: their bodies, once more."""
        ranges = [job.seqs for job in jobs if isinstance(job, Call) and job.seqs]
        return sum(int(self._connection.execute(_BYTES, one).fetchone()[0]) for one in ranges)

    def _size(self) -> int:
        """Bytes of the file, once the log has been moved into it."""
        return file.whole_bytes(self._connection)

    def _flagged(self, commit: Commit) -> Commit:
        commit.full, commit.cramped = self._full, self._cramped
        return commit

    def _commit(self, jobs: Sequence[Job]) -> Commit:
        """Do the jobs in one transaction, fsynced; any failure undoes all of them."""
        commit = commit_of(jobs)
        started, last_seq = time.perf_counter(), self._last_seq
        try:
            file.transaction(self._connection, lambda: self._write(commit))
            self._log.working()
        except Exception as error:  # noqa: BLE001 - the thread outlives any fault of one batch
            commit.failure = RejectReason.JOURNAL_UNAVAILABLE
            self._last_seq = last_seq
            self._log.failing("journal_not_writable", str(error))
            self._relieve(error)
        commit.seconds = time.perf_counter() - started
        return self._flagged(commit)

    def _relieve(self, error: Exception) -> None:
        """Let go of the reserve if the volume is full: what is no event may then be written."""
        if isinstance(faults.meaning(self._path, error), JournalNoSpaceError):
            self._room.let_go()

    def _write(self, commit: Commit) -> None:
        last_seq = file.last_seq(self._connection)
        commit.foreign = last_seq != self._last_seq
        callbacks = [add.callback for add in commit.adds]
        commit.seqs = self._insert(callbacks, last_seq)
        self._unsized += sum(len(callback.body) for callback in callbacks)
        for call in commit.calls:
            call.work(self._connection)
        self._last_seq = file.last_seq(self._connection)
        self._look_at_size()

    def _insert(self, callbacks: list[Callback], last_seq: int) -> Sequence[int | None]:
        return insert(self._connection, callbacks, last_seq)

    def _look_at_size(self) -> None:
        """See whether the journal is at its limit, from time to time."""
        if self._short or self._unsized >= SIZE_LOOK:
            self._unsized = 0
            used = file.used_bytes(self._connection)
            self._full = used >= self._max_bytes
            self._short = used >= self._max_bytes * SHORT
            self._untidy |= self._short

    def _keep_house(self) -> None:
        """Do one small step of what no ack may wait for: when idle, or when it is long overdue."""
        try:
            if self._wal_is_long.is_set():
                self._wal_is_long.clear()
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            overdue = time.monotonic() > self._tidied_at + TIDY_INTERVAL
            if overdue or (self._untidy and self._jobs.empty()):
                self._tidied_at = time.monotonic()
                self._untidy = False
                if self._retention.look():
                    self._note()
                self._untidy = self._give_back() if self._cramped else self._tidy()
        except sqlite3.Error as error:
            self._log.failing("journal_not_writable", str(error))
            self._relieve(error)

    def _give_back(self) -> bool:
        """End the log, if no reader needs it, and give its space back to the volume."""
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(file.BUSY_TIMEOUT * 1000)}")
        self._without_room([])
        self._deliver(self._flagged(Commit(adds=[], calls=[])))
        return False

    def _note(self) -> None:
        file.transaction(self._connection, lambda: self._retention.note(self._connection))

    def _tidy(self) -> bool:
        """Delete a few events that are older than the window; short of space, bodies too.

        Returns whether there may be more of them.
        """
        freed = self._clean_up.delete_old(TIDY_ROWS, TIDY_AGAIN)
        if not freed and self._short:
            freed = self._clean_up.strip(TIDY_ROWS)
        if self._short and freed:
            self._look_at_size()
            self._deliver(self._flagged(Commit(adds=[], calls=[])))
        return freed > 0

    def _checkpoints(self) -> None:
        """Move committed pages from the WAL into the file, beside the writer."""
        connection = file.connect(self._path)
        changes = Changes(log, "journal_checkpoints_again")
        while not self._stopping.wait(CHECKPOINT_INTERVAL):
            try:
                row = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                changes.failing("journal_checkpoint_failed", str(error))
                self._relieve(error)
                continue
            if not row[0]:  # else the writer is at it
                changes.working()
            if row[1] > WAL_PAGES:
                self._wal_is_long.set()
        connection.close()
