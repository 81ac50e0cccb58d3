"""How pending events end, in the file: each run of events with the same ending in one statement."""

import sqlite3
from collections.abc import Sequence
from itertools import groupby

from relay.events import Settlement

_SETTLE = (
    "UPDATE events SET outcome = ?, reason = ?, settled_at = ?"
    " WHERE seq BETWEEN ? AND ? AND outcome IS NULL"
)


def settle(
    connection: sqlite3.Connection, settlements: Sequence[Settlement], settled_at: int
) -> None:
    """Mark them as ended; in a transaction. `settled_at` is Unix time in milliseconds."""
    for ending, run in groupby(settlements, key=lambda one: (one.outcome, one.reason)):
        seqs = [one.seq for one in run]
        connection.execute(_SETTLE, (*ending, settled_at, seqs[0], seqs[-1]))
