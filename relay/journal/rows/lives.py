"""What is known of each settled event beside its body: narrow rows, quick to look through.

They are written in the commit that settles, and go when their event goes.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from relay.events import Landing, Outcome, Settlement, StoredEvent, Transport
from relay.journal.rows.stored import COLUMNS, from_row

#: The version of the schema that they came with.
SINCE = 4
#: Rows in one INSERT, as for events.
INSERT_ROWS = 64
#: Characters of an id that are kept; who looks for a longer one finds what begins alike.
LONGEST = 128
#: Kinds of known event type. A signer can make up names: the type of further ones is read from the
#: events themselves.
MOST_KINDS, LONGEST_TYPE = 1000, 256
#: Digits of the longest number that SQLite keeps as one.
_DIGITS = 19

_INSERT = (
    "INSERT INTO lives (seq, kind, received_at, stored_after, claimed_after,"
    ' "partition", "offset", ticket, message_id) VALUES '
)
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
_KIND = (
    "SELECT kind FROM kinds WHERE app = ? AND event_type IS ? AND transport = ? AND outcome = ?"
    " AND reason IS ? AND topic IS ?"
)
_NEW_KIND = (
    "INSERT INTO kinds (app, event_type, transport, outcome, reason, topic, kind)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_LAST = "SELECT coalesce(max(abs(kind)), 0) FROM kinds"
_EVENT = f"SELECT {COLUMNS} FROM events WHERE seq = ?"  # noqa: S608 - constants
_COUNT = "SELECT count(*) FROM kinds"
_READ = (
    "SELECT app, event_type, transport, outcome, reason, topic FROM lives JOIN kinds USING (kind)"
    " WHERE seq = ?"
)
_WRITE = "UPDATE lives SET kind = ? WHERE seq = ?"
_ERASE = "UPDATE lives SET ticket = NULL, message_id = NULL WHERE seq = ?"
#: Of a range of seqs, those whose events are gone.
_FORGET = (
    "DELETE FROM lives WHERE seq BETWEEN ? AND ?"
    " AND seq NOT IN (SELECT seq FROM events WHERE seq BETWEEN ? AND ?)"
)


#: All that may be known of events, by their seqs.
_LIFE = (
    "SELECT events.seq, events.app, event_id, events.event_type, events.transport,"
    " events.received_at, coalesce(events.outcome, 'pending'), events.reason, settled_at,"
    " length(body), replayed, events.received_at + stored_after,"
    ' events.received_at + claimed_after, ticket, message_id, topic, "partition", "offset",'
    " lives.seq IS NOT NULL"
    " FROM events LEFT JOIN lives USING (seq) LEFT JOIN kinds USING (kind) WHERE events.seq IN"
    " (SELECT value FROM json_each(?)) ORDER BY events.seq DESC"
)
_OLD_LIFE = (
    "SELECT seq, app, event_id, event_type, transport, received_at, coalesce(outcome, 'pending'),"
    " reason, settled_at, length(body), replayed, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0"
    " FROM events WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq DESC"
)
KINDS = "SELECT kind, app, event_type, transport, outcome, reason FROM kinds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What the journal knows of an event; None: it is not known, or never was."""

    seq: int
    app: str
    event_id: str
    event_type: str
    transport: Transport
    #: Unix time in milliseconds, as the other times.
    received_at: int
    #: `pending`, or an Outcome's value.
    outcome: str
    reason: str | None
    #: When Kafka had it.
    settled_at: int | None
    #: Bytes; 0 after the journal has let go of the body.
    size: int
    replayed: bool
    #: When it was on disk, and claimed.
    stored_at: int | None = None
    claimed_at: int | None = None
    #: The ticket's id, else the record's key; None if that is the event id.
    ticket: str | None = None
    message_id: str | None = None
    #: Where its record lies.
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


class Kind(NamedTuple):
    """What many events have in common."""

    app: str
    #: None: not kept here.
    event_type: str | None
    transport: str
    outcome: str
    reason: str | None
    topic: str | None


class Lives:
    """Writes the rows of one process; it knows the kinds that the file has."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, int] = {}

    def write(
        self,
        connection: sqlite3.Connection,
        settlements: Sequence[Settlement],
        claimed_at: int | None = None,
        landings: Sequence[Landing] = (),
    ) -> None:
        """Note what is known of events that are being settled; in a transaction.

        The landings are those of the ones that have a topic.
        """
        places = iter(landings)
        for first in range(0, len(settlements), INSERT_ROWS):
            some = settlements[first : first + INSERT_ROWS]
            events = [one.event or _read_event(connection, one.seq) for one in some]
            found = [next(places, None) if one.topic else None for one in some]
            rows = zip(
                [one.seq for one in some],
                self._numbers(connection, some, events),
                [event.received_at for event in events],
                [_between(event.received_at, event.stored_at) for event in events],
                [_between(event.received_at, claimed_at) for event in events],
                [place[0] if place else None for place in found],
                [place[1] if place else None for place in found],
                [packed(one.ticket) for one in some],
                [one.message_id and one.message_id[:LONGEST] for one in some],
                strict=True,
            )
            connection.execute(_statement(len(some)), [*chain.from_iterable(rows)])

    def _numbers(
        self,
        connection: sqlite3.Connection,
        settlements: Sequence[Settlement],
        events: Sequence[StoredEvent],
    ) -> Iterator[int]:
        """Give the kind of each; mostly it is that of the one before, of which little is asked."""
        event_type = topic = reason = app = transport = outcome = None
        number = 0
        for one, event in zip(settlements, events, strict=True):
            if (
                event.event_type != event_type
                or one.topic != topic
                or one.reason is not reason
                or event.transport is not transport
                or one.outcome is not outcome
                or event.app != app
            ):
                event_type, app, transport = event.event_type, event.app, event.transport
                topic, reason, outcome = one.topic, one.reason, one.outcome
                kept = event_type if len(event_type) <= LONGEST_TYPE else None
                kind = Kind(app, kept, transport, outcome, reason, topic)
                number = self._kinds.get(kind) or self._number(connection, kind)
            yield number

    def _number(self, connection: sqlite3.Connection, kind: Kind) -> int:
        """Give a kind's number; it is kept from the second time on, when it has been committed."""
        number = find(connection, kind)
        if number is None:
            return number_of(connection, kind)
        self._kinds[kind] = number
        return number


def _between(before: int, after: int | None) -> int | None:
    return None if after is None else after - before


def _read_event(connection: sqlite3.Connection, seq: int) -> StoredEvent:
    return from_row(connection.execute(_EVENT, (seq,)).fetchone())


@lru_cache(maxsize=INSERT_ROWS)
def _statement(rows: int) -> str:
    """Insert so many rows at once."""
    return _INSERT + ", ".join([_ROW] * rows) + " ON CONFLICT DO NOTHING"


def packed(text: str | None) -> str | int | None:
    """Give an id as it is kept: most tickets' are numbers of 19 digits, and take 8 bytes."""
    if text is None:
        return None
    if text.isdecimal() and text.isascii() and text[0] != "0" and len(text) <= _DIGITS:
        number = int(text)
        return number if number < 2**63 else text
    return text[:LONGEST]


def find(connection: sqlite3.Connection, kind: Kind) -> int | None:
    """Give the number of a kind that is known."""
    row = connection.execute(_KIND, kind).fetchone()
    return int(row[0]) if row else None


def number_of(connection: sqlite3.Connection, kind: Kind) -> int:
    """Give the number of a kind, a new one if need be; in a transaction."""
    if connection.execute(_COUNT).fetchone()[0] >= MOST_KINDS:
        kind = kind._replace(event_type=None)
    number = find(connection, kind)
    if number is None:
        number = 1 + int(connection.execute(_LAST).fetchone()[0])
        number = number if kind.outcome == Outcome.PUBLISHED else -number
        connection.execute(_NEW_KIND, (*kind, number))
    return number


def decided(connection: sqlite3.Connection, seq: int, reason: str) -> None:
    """Note that an operator has decided upon a dead letter; in a transaction."""
    row = connection.execute(_READ, (seq,)).fetchone()
    if row:
        kind = Kind(*row)._replace(reason=reason)
        connection.execute(_WRITE, (number_of(connection, kind), seq))


def erase(connection: sqlite3.Connection, seq: int) -> None:
    """Let go of whom it may be about: a key can be a person's id; in a transaction."""
    connection.execute(_ERASE, (seq,))


def forget(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Let go of what is known of events that are gone, of a range of seqs; in a transaction."""
    connection.execute(_FORGET, (first, last, first, last))


def read(
    connection: sqlite3.Connection, seqs: Sequence[int], *, old: bool
) -> list[tuple[Life, bool]]:
    """Give what is known of some events, the latest first, and whether it was noted at their end.

    `old`: the journal is of a version that notes nothing.
    """
    rows = connection.execute(_OLD_LIFE if old else _LIFE, (json.dumps(seqs),)).fetchall()
    return [(life(row[:-1]), bool(row[-1])) for row in rows]


def life(columns: Sequence[Any]) -> Life:
    """Make it of its columns in their order; those of an event's row alone will do."""
    values: dict[str, Any] = dict(zip(_NAMES, columns, strict=False))
    values |= {"transport": Transport(values["transport"]), "replayed": bool(values["replayed"])}
    if values.get("ticket") is not None:
        values["ticket"] = str(values["ticket"])
    return Life(**values)


_NAMES = [field.name for field in fields(Life)]
