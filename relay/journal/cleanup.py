"""What the journal lets go of: events that are old, and short of space the bodies of settled ones.

In steps of a few rows, oldest first; the writer takes one when no ack waits for it.
"""

import json
import sqlite3
import time

import structlog

from relay.events import DeadLetterReason
from relay.journal import file
from relay.journal.retention import Retention
from relay.journal.rows import lives

log = structlog.get_logger()

#: The next rows by age.
_NEXT = "SELECT seq FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
#: Dead letters that wait for an operator stay, as long as they have what he can decide upon.
_TIDY = (
    "DELETE FROM events WHERE seq BETWEEN ? AND ? AND (length(body) = 0"
    " OR coalesce(reason, '') NOT IN (SELECT value FROM json_each(?)))"
)
_SETTLED = (
    "SELECT seq, reason, length(body) FROM events"
    " WHERE seq > ? AND seq < (SELECT coalesce(min(seq), 9e18) FROM events WHERE outcome IS NULL)"
    " ORDER BY seq LIMIT ?"
)
#: What a full journal needs of a settled event is its id alone.
_SHELL = (
    "SELECT seq, app, event_id, event_type, transport, received_at, replayed, origin, outcome,"
    " reason, settled_at, x'', traceparent FROM events WHERE seq = ?"
)
_DELETE = "DELETE FROM events WHERE seq = ?"
_PUT_BACK = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class CleanUp:
    """Walks over a journal's rows; its writer's thread alone may ask."""

    def __init__(self, connection: sqlite3.Connection, retention: Retention, share: int) -> None:
        """`share` is for the bodies of dead letters that are nowhere else, in bytes."""
        self._connection = connection
        self._retention = retention
        self._share = share
        self._alone = frozenset(map(str, retention.alone))
        self._undecided = json.dumps([*self._alone, DeadLetterReason.INTERNAL_ERROR])
        self._began = time.monotonic()
        self._passed_seq = self._stripped_seq = self._kept = 0

    def delete_old(self, rows: int, again: float) -> int:
        """Walk on over the oldest rows, as far as they were settled a window ago.

        Returns how many they were; those that must stay are passed too. After `again` seconds
        the walk begins anew: an operator may have decided.
        """
        if time.monotonic() > self._began + again:
            self._began = time.monotonic()
            self._passed_seq = self._stripped_seq = self._kept = 0
        last = self._retention.passed(self._connection)
        old = self._connection.execute(_NEXT, (self._passed_seq, last, rows)).fetchall()
        if old:
            self._delete(old[0][0], old[-1][0])
            self._passed_seq = old[-1][0]
        return len(old)

    def _delete(self, first: int, last: int) -> None:
        def work() -> None:
            self._connection.execute(_TIDY, (first, last, self._undecided))
            lives.forget(self._connection, first, last)

        file.transaction(self._connection, work)

    def strip(self, rows: int) -> int:
        """Walk on over settled rows, and let go of their bodies; give how many rows they were.

        A body that is on a topic goes, be it an event's or a dead letter's. Of those that only the
        journal has, the first stay, up to their share.
        """
        found = self._connection.execute(_SETTLED, (self._stripped_seq, rows)).fetchall()
        kept, lost = self._kept, 0
        bare: list[int] = []
        for seq, reason, size in found:
            if reason in self._alone and (not kept or kept + size <= self._share):
                kept += size
            elif size:
                bare.append(seq)
                lost += reason in self._alone
        file.transaction(self._connection, lambda: self._make_shells(bare))
        if lost:
            log.error("dead_letters_let_go", events=lost)
        self._kept = kept
        self._stripped_seq = found[-1][0] if found else self._stripped_seq
        return len(found)

    def _make_shells(self, seqs: list[int]) -> None:
        """SQLite joins half-empty pages at a DELETE only."""
        shells = [self._connection.execute(_SHELL, (seq,)).fetchone() for seq in seqs]
        self._connection.executemany(_DELETE, [(seq,) for seq in seqs])
        self._connection.executemany(_PUT_BACK, shells)
