"""New events into the file, many at once: what is there already is left alone."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from relay.events import Callback

#: Rows in one INSERT. SQLite's steps run without the interpreter's lock, and getting it back for
#: each row would cost more than the row.
INSERT_ROWS = 64
_INSERT = (
    "INSERT INTO events"
    " (app, event_id, event_type, transport, received_at, body, traceparent) VALUES "
)
_NEW = "SELECT app, event_id, seq FROM events WHERE seq > ?"


def insert(
    connection: sqlite3.Connection, callbacks: list[Callback], last_seq: int
) -> Sequence[int | None]:
    """Store the callbacks that are new, and give the place of each; None if it is not."""
    stored = 0
    for first in range(0, len(callbacks), INSERT_ROWS):
        stored += _insert_rows(connection, callbacks[first : first + INSERT_ROWS])
    if stored == len(callbacks):
        return range(last_seq + 1, last_seq + 1 + stored)
    rows = connection.execute(_NEW, (last_seq,))
    new: dict[tuple[str, str], int] = {(app, event_id): seq for app, event_id, seq in rows}
    # The first of a pair is the stored one.
    return [new.pop((callback.app, callback.event_id), None) for callback in callbacks]


def _insert_rows(connection: sqlite3.Connection, callbacks: list[Callback]) -> int:
    """Store what is new of a few callbacks; give how many were.

    sqlite3 takes a str, an int and a bytearray as they are; for a value of any other type it
    looks for an adapter each time, which costs more than a copy.
    """
    values: list[Any] = []
    for one in callbacks:
        values += (
            one.app,
            one.event_id,
            one.event_type,
            str(one.transport),
            one.received_at,
            bytearray(one.body),
            one.traceparent,
        )
    return connection.execute(_statement(len(callbacks)), values).rowcount


@lru_cache(maxsize=INSERT_ROWS)
def _statement(rows: int) -> str:
    """Insert so many rows at once."""
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * rows)
    return _INSERT + values + " ON CONFLICT DO NOTHING"
