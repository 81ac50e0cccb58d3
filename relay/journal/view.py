"""An operator's look into a journal, also while a relay owns it: list, show, replay, discard.

It opens its own connection; what it changes is one short transaction, which the relay notices.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from relay.errors import EventNotFoundError, EventNotReplayableError
from relay.events import (
    Callback,
    DeadLetterReason,
    Outcome,
    StoredEvent,
    Transport,
    refusal,
    withheld,
)
from relay.journal import file
from relay.journal.disk import faults
from relay.journal.retention import Retention
from relay.journal.rows import claimed, lives

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
_SLICE = "FROM events WHERE seq BETWEEN ? AND ?"
#: By the name of each app in turn: the index of event ids begins with it.
_FIND = (
    "WITH RECURSIVE names (app) AS ("  # noqa: S608 - constants
    "SELECT min(app) FROM events UNION ALL"
    " SELECT (SELECT min(app) FROM events WHERE app > names.app) FROM names WHERE app IS NOT NULL"
    f") SELECT {_COLUMNS}, body FROM names CROSS JOIN events USING (app)"
    " WHERE event_id = ? AND app = coalesce(?, app)"
)
#: A plus keeps SQLite from the index, which would look up each row of the app.
_LATEST = f"SELECT event_type, max(received_at) {_SLICE} AND +app = ? GROUP BY event_type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the journal, without its body."""

    seq: int
    app: str
    event_id: str
    event_type: str
    transport: Transport
    #: Unix time in milliseconds, as `settled_at`.
    received_at: int
    #: `pending`, or an Outcome's value.
    outcome: str
    reason: str | None
    settled_at: int | None
    #: Bytes; 0 after a full journal has let go of the body.
    size: int
    replayed: bool


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

    def entries(self, outcome: str | None, limit: int) -> list[Entry]:
        """List events, the latest first; `outcome` is `pending` or an Outcome's value."""
        condition = ""
        arguments: tuple[str, ...] = ()
        if outcome == PENDING:
            condition = "AND outcome IS NULL"
        elif outcome:
            condition, arguments = "AND outcome = ?", (outcome,)
        # Upwards, as they lie on the disk: downwards the kernel reads nothing ahead.
        sql = f"SELECT {_COLUMNS} {_SLICE} {condition} ORDER BY seq"
        found: list[Entry] = []
        for part in self._slices():
            rows = self._connection.execute(sql, (*part, *arguments)).fetchall()
            found += map(_entry, reversed(rows))
            if len(found) >= limit:
                break
        return found[:limit]

    def find(self, event_id: str, app: str | None = None) -> tuple[Entry, bytes]:
        """Give an event and its body. Raises EventNotFoundError."""
        row = self._connection.execute(_FIND, (event_id, app)).fetchone()
        if row is None:
            raise EventNotFoundError(f"the journal has no event {event_id}")
        return _entry(row[:-1]), row[-1]

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

        def work() -> None:
            entry, body = self.find(event_id, app)
            if entry.outcome == PENDING:
                raise EventNotReplayableError(f"event {event_id} is still pending")
            if withheld(entry.event_type):
                raise EventNotReplayableError(f"event {event_id} is an app's ticket: for no topic")
            if not body:
                raise EventNotReplayableError(f"the full journal let go of the body of {event_id}")
            row = self._connection.execute(_COPY, (entry.seq,)).fetchone()
            self._connection.execute("DELETE FROM events WHERE seq = ?", (entry.seq,))
            lives.forget(self._connection, entry.seq, entry.seq)
            self._connection.execute(_REPLAY, row)

        file.begin_if_idle(self._path, self._connection)
        file.transaction(self._connection, work)

    def discard(self, event_id: str, app: str | None = None) -> None:
        """Decide that a kept dead letter may go when the dedupe window has passed."""

        def work() -> None:
            entry, _ = self.find(event_id, app)
            if entry.reason not in tuple(DeadLetterReason):
                raise EventNotReplayableError(f"event {event_id} is no dead letter")
            self._connection.execute(
                "UPDATE events SET reason = 'discarded' WHERE seq = ?", (entry.seq,)
            )
            self._note(entry)

        file.transaction(self._connection, work)

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

    def _note(self, entry: Entry) -> None:
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


def as_stored(entry: Entry, body: bytes) -> StoredEvent:
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


def _entry(row: tuple[Any, ...]) -> Entry:
    names = [field.name for field in fields(Entry)]
    values = dict(zip(names, row, strict=True))
    values |= {"transport": Transport(values["transport"]), "replayed": bool(values["replayed"])}
    return Entry(**values)
