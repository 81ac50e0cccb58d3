"""An operator's look into a journal, also while a relay owns it: list, show, replay, discard.

It opens its own connection; what it changes is one short transaction, which the relay notices.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from relay.errors import EventNotFoundError, EventNotReplayableError
from relay.events import (
    Callback,
    DeadLetterReason,
    Outcome,
    StoredEvent,
    refusal,
    withheld,
)
from relay.journal import file
from relay.journal.disk import faults
from relay.journal.retention import Retention
from relay.journal.rows import claimed, lives
from relay.journal.rows.lives import Life
from relay.journal.rows.looks import NAMES

#: How `relay events list` names an event that has no outcome yet.
PENDING = "pending"
#: Reasons of dead letters of which the journal has the only usable copy.
UNDECIDED: Sequence[DeadLetterReason] = (
    DeadLetterReason.TOO_LARGE,
    DeadLetterReason.REFUSED,
    DeadLetterReason.INTERNAL_ERROR,
)

#: Seqs that one look covers, twice as many each time: a command holds no read open for long, and
#: tells how far it is.
FIRST_SLICE, SLICE = 128, 16_384
#: Events that one transaction changes.
STEP = 32

_ADD = (
    "INSERT INTO events (app, event_id, event_type, transport, received_at, body)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_COPIED = "app, event_id, event_type, transport, received_at, body, traceparent"
_COPY = f"SELECT {_COPIED} FROM events WHERE seq = ?"  # noqa: S608 - constants
_REPLAY = f"INSERT INTO events ({_COPIED}, replayed) VALUES (?, ?, ?, ?, ?, ?, ?, 1)"  # noqa: S608 - constants
#: A dead letter without its body is decided upon.
_ERASE = (
    "UPDATE events SET body = x'', reason = iif(outcome = 'dead_letter', 'discarded', reason)"
    " WHERE seq = ?"
)
_COLUMNS = (
    "seq, app, event_id, event_type, transport, received_at, coalesce(outcome, 'pending'),"
    " reason, settled_at, length(body), replayed"
)
_ROW = f"SELECT {_COLUMNS}, body FROM events WHERE seq = ?"  # noqa: S608 - constants
_SLICE = "FROM events WHERE seq BETWEEN ? AND ?"
_FIND = (
    f"{NAMES} SELECT {_COLUMNS}, body FROM names CROSS JOIN events USING (app)"  # noqa: S608 - constants
    " WHERE event_id = ? AND app = coalesce(?, app)"
)
#: A plus keeps SQLite from the index, which would look up each row of the app.
_LATEST = f"SELECT event_type, max(received_at) {_SLICE} AND +app = ? GROUP BY event_type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of some events that were to be changed."""

    done: int
    #: How many were left as they are, by what is to be said of each.
    left: dict[str, int]


class JournalView:
    """The rows of a journal file, newest first.

    What no index finds is looked for in slices, and `progress` is told which part is done.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._connection = connection
        self._progress = progress

    def find(self, event_id: str, app: str | None = None) -> tuple[Life, bytes]:
        """Give an event and its body. Raises EventNotFoundError."""
        row = self._connection.execute(_FIND, (event_id, app)).fetchone()
        if row is None:
            raise EventNotFoundError(f"the journal has no event {event_id}")
        return lives.life(row[:-1]), row[-1]

    def waited_for(self, replica: str) -> float:
        """Give the seconds for which the journal has waited for a replica's past; 0 if not at all.

        Of a journal that no relay of this version has opened nobody knows.
        """
        if file.version(self._connection) < file.SCHEMA_VERSION:
            return 0
        noted, retention = claimed.read(self._connection), Retention(0)
        retention.restore(self._connection)
        if noted.awaited != replica or noted.awaited_since is None:
            return 0
        return (retention.open_for - noted.awaited_since) / 1000

    def undecided(self, reasons: Sequence[DeadLetterReason] = UNDECIDED) -> int:
        """Count the dead letters that are kept for a decision."""
        marks = ", ".join("?" * len(reasons))
        sql = f"SELECT count(*) {_SLICE} AND reason IN ({marks})"
        counts = (self._connection.execute(sql, (*part, *reasons)) for part in self._slices())
        return sum(int(count.fetchone()[0]) for count in counts)

    def latest(self, app: str) -> dict[str, int]:
        """Give when an event of each type last came, Unix time in milliseconds."""
        latest: dict[str, int] = {}
        for part in self._slices():
            for event_type, at in self._connection.execute(_LATEST, (*part, app)):
                latest[event_type] = max(at, latest.get(event_type, at))
        return latest

    def bodies(self, app: str, event_types: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Give type and body of the events of some types, one by one."""
        marks = ", ".join("?" * len(event_types))
        sql = f"SELECT event_type, body {_SLICE} AND +app = ? AND event_type IN ({marks})"
        for part in self._slices():
            yield from self._connection.execute(sql, (*part, app, *event_types))

    def newest(self, limit: int) -> Iterator[tuple[str, bytes]]:
        """Give type and body of so many events, the latest first."""
        sql = f"SELECT event_type, body {_SLICE} ORDER BY seq DESC LIMIT ?"
        for part in self._slices():
            rows = self._connection.execute(sql, (*part, limit)).fetchall()
            yield from rows
            limit -= len(rows)
            if limit <= 0:
                return

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Give the ranges of seqs that hold all rows, the latest first."""
        first, last = self._connection.execute(
            "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)"
        ).fetchone()
        high, size = last, FIRST_SLICE
        while high is not None:
            low, size = high - size + 1, min(size * 2, SLICE)
            yield low, high
            self._progress((last - max(low, first) + 1) / (last - first + 1))
            below = "SELECT max(seq) FROM events WHERE seq < ?"
            high = self._connection.execute(below, (low,)).fetchone()[0]

    def add(self, callback: Callback) -> bool:
        """Put an event behind all others, unless there is one of its id; give whether it is new."""
        values = (
            callback.app,
            callback.event_id,
            callback.event_type,
            callback.transport,
            callback.received_at,
            callback.body,
        )
        file.begin_if_idle(self._path, self._connection)
        cursor = file.transaction(self._connection, lambda: self._connection.execute(_ADD, values))
        return cursor.rowcount > 0

    def replay(self, event_id: str, app: str | None = None) -> None:
        """Make a settled event pending again, behind all others.

        Raises EventNotFoundError or EventNotReplayableError.
        """
        file.begin_if_idle(self._path, self._connection)
        self._change(self._replayed, event_id, app)

    def discard(self, event_id: str, app: str | None = None) -> None:
        """Decide that a kept dead letter may go when the dedupe window has passed.

        Raises EventNotFoundError or EventNotReplayableError.
        """
        self._change(self._discarded, event_id, app)

    def replay_seqs(self, seqs: Sequence[int]) -> Done:
        """Replay what can be of some events, in the order in which they came."""
        file.begin_if_idle(self._path, self._connection)
        return self._change_all(self._replayed, seqs)

    def discard_seqs(self, seqs: Sequence[int]) -> Done:
        """Discard what can be of some events."""
        return self._change_all(self._discarded, seqs)

    def _change(
        self, change: Callable[[Life, bytes], str | None], event_id: str, app: str | None
    ) -> None:
        def work() -> None:
            why = change(*self.find(event_id, app))
            if why:
                raise EventNotReplayableError(f"event {event_id} {why}")

        file.transaction(self._connection, work)

    def _change_all(self, change: Callable[[Life, bytes], str | None], seqs: Sequence[int]) -> Done:
        """In short transactions: a running relay waits for each."""
        left: Counter[str] = Counter()

        def work(some: Sequence[int]) -> list[str]:
            rows = (self._connection.execute(_ROW, (seq,)).fetchone() for seq in some)
            ends = (change(lives.life(row[:-1]), row[-1]) if row else "is gone" for row in rows)
            return [why for why in ends if why]

        ordered = sorted(seqs)
        for first in range(0, len(ordered), STEP):
            some = ordered[first : first + STEP]
            left.update(file.transaction(self._connection, partial(work, some)))
            self._progress((first + len(some)) / len(ordered))
        return Done(done=len(ordered) - left.total(), left=dict(left))

    def _replayed(self, entry: Life, body: bytes) -> str | None:
        """Put an event behind all others; or say why it cannot be."""
        if entry.outcome == PENDING:
            return "is still pending"
        if withheld(entry.event_type):
            return "is an app's ticket: for no topic"
        if not body:
            return "has no body any more: a full journal let go of the body, or it was erased"
        row = self._connection.execute(_COPY, (entry.seq,)).fetchone()
        self._connection.execute("DELETE FROM events WHERE seq = ?", (entry.seq,))
        lives.forget(self._connection, entry.seq, entry.seq)
        self._connection.execute(_REPLAY, row)
        return None

    def _discarded(self, entry: Life, _: bytes) -> str | None:
        """Let a kept dead letter go in its time; or say why it cannot be."""
        if entry.reason not in tuple(DeadLetterReason):
            return "is no dead letter that waits for a decision"
        self._connection.execute(
            "UPDATE events SET reason = 'discarded' WHERE seq = ?", (entry.seq,)
        )
        self._note(entry)
        return None

    def erase(self, event_id: str, app: str | None = None) -> None:
        """Let go of a settled event's body; its id stays, so that a repeat is still one.

        Raises EventNotFoundError or EventNotReplayableError.
        """

        def work() -> None:
            entry, _ = self.find(event_id, app)
            if entry.outcome == PENDING:
                raise EventNotReplayableError(f"event {event_id} is still pending")
            self._connection.execute(_ERASE, (entry.seq,))
            self._note(entry)
            if self._has_lives():
                lives.erase(self._connection, entry.seq)

        file.transaction(self._connection, work)

    def _note(self, entry: Life) -> None:
        """Let a dead letter that is decided upon be found as such."""
        if entry.outcome == Outcome.DEAD_LETTER and self._has_lives():
            lives.decided(self._connection, entry.seq, "discarded")

    def _has_lives(self) -> bool:
        return file.version(self._connection) >= lives.SINCE


@contextmanager
def opened(path: Path, progress: Callable[[float], None] = lambda _: None) -> Iterator[JournalView]:
    """Open a journal that exists. Raises JournalError."""
    file.check_header(path)
    with faults.told(path), closing(file.connect(path, patience=file.PATIENCE)) as connection:
        yield JournalView(path, connection, progress)


def as_stored(entry: Life, body: bytes) -> StoredEvent:
    """Give the event as the dispatcher sees it."""
    return StoredEvent(
        seq=entry.seq,
        app=entry.app,
        transport=entry.transport,
        received_at=entry.received_at,
        event_id=entry.event_id,
        event_type=entry.event_type,
        body=body,
        replayed=entry.replayed,
        refused=refusal(entry.reason),
    )
