"""What is looked for in a journal, in SQL: a range of seqs at a time.

`lives` is asked where it has all that is settled; the bodies of `events` are read for the rest.
"""

import sqlite3
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from relay.journal.rows.lives import KINDS, LONGEST, Life, packed

if TYPE_CHECKING:
    from relay.journal.search import Filter

Value = str | int | bytes | None

#: The name of each app: the index of event ids begins with it.
NAMES = (
    "WITH RECURSIVE names (app) AS ("
    "SELECT min(app) FROM events UNION ALL"
    " SELECT (SELECT min(app) FROM events WHERE app > names.app) FROM names WHERE app IS NOT NULL)"
)
_BY_ID = f"{NAMES} SELECT seq FROM names CROSS JOIN events USING (app) WHERE event_id = ?"  # noqa: S608 - constants


def by_id(connection: sqlite3.Connection, event_id: str) -> list[int]:
    """Give the events of an id, of whatever app."""
    return [seq for (seq,) in connection.execute(_BY_ID, (event_id,))]


class Look:
    """One filter, asked of one journal."""

    def __init__(self, connection: sqlite3.Connection, wanted: "Filter", *, old: bool) -> None:
        """`old`: the journal is of a version that notes no lives."""
        self._connection, self._wanted = connection, wanted
        event_id = wanted.event_id or wanted.text
        self._by_id = by_id(connection, event_id) if event_id else []
        self._from = sys.maxsize
        self._noted: _Sql | None = None
        if not old:
            (self._from,) = connection.execute("SELECT lives_from FROM journal").fetchone()
            self._noted = _noted(connection, wanted)
        self._rows = _rows(wanted)

    def seqs(self, low: int, high: int, limit: int) -> tuple[list[int], int]:
        """Give candidates in a range of seqs, the latest first, and how far down that was."""
        found = {seq for seq in self._by_id if low <= seq <= high}
        if self._wanted.event_id is None:
            found.update(*self._looked(low, high, limit))
        seqs = sorted(found, reverse=True)
        return (seqs[:limit], seqs[limit - 1]) if len(seqs) >= limit else (seqs, low)

    def _looked(self, low: int, high: int, limit: int) -> Iterator[list[int]]:
        settled = max(low, self._from)
        if settled <= high:
            if self._noted:
                yield self._ask(self._noted, settled, high, limit)
            if self._wanted.outcome in {None, "pending"}:
                yield self._ask(self._rows.pending(), settled, high, limit)
        if low < self._from:
            yield self._ask(self._rows, low, min(high, self._from - 1), limit)

    def _ask(self, sql: "_Sql", low: int, high: int, limit: int) -> list[int]:
        rows = self._connection.execute(sql.text, (low, high, *sql.values, limit))
        return [seq for (seq,) in rows]

    def matches(self, life: Life) -> bool:
        """Whether a candidate is what is looked for."""
        wanted = self._wanted
        asked = (
            (wanted.event_type, life.event_type),
            (wanted.app, life.app),
            (wanted.transport, life.transport),
            (wanted.outcome, life.outcome),
            (wanted.reason, life.reason),
            (wanted.event_id, life.event_id),
            (_cut(wanted.ticket), _cut(life.ticket)),
            (_cut(wanted.message_id), _cut(life.message_id)),
        )
        if any(one is not None and one != has for one, has in asked):
            return False
        names = {life.event_id, _cut(life.ticket), _cut(life.message_id)}
        if wanted.text is not None and not {wanted.text, _cut(wanted.text)} & names:
            return False
        return (wanted.since or 0) <= life.received_at < (wanted.until or sys.maxsize)


class _Sql(NamedTuple):
    """A statement that gives seqs of a range, down from its end."""

    table: str
    conditions: tuple[str, ...]
    values: tuple[Value, ...]

    def pending(self) -> "_Sql":
        """Ask for what has no ending."""
        table = "events INDEXED BY events_pending"
        return _Sql(table, ("outcome IS NULL", *self.conditions), self.values)

    @property
    def text(self) -> str:
        """Give the statement; its last parameter is how many."""
        where = " AND ".join(("seq BETWEEN ? AND ?", *self.conditions))
        return f"SELECT seq FROM {self.table} WHERE {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - constants


def _sql(table: str, asked: dict[str, Value]) -> _Sql:
    found = {condition: value for condition, value in asked.items() if value is not None}
    return _Sql(table, tuple(found), tuple(found.values()))


def _noted(connection: sqlite3.Connection, wanted: "Filter") -> _Sql | None:
    """Ask `lives`; None: nothing among them is of such a kind."""
    kinds, all_kinds = _kinds(connection, wanted)
    if not kinds:
        return None
    asked = _sql(
        "lives",
        {
            **_bounds(wanted),
            "ticket = ?": packed(wanted.ticket),
            "message_id = ?": _cut(wanted.message_id),
        },
    )
    if wanted.text is not None:
        either, values = "(ticket = ? OR message_id = ?)", (packed(wanted.text), _cut(wanted.text))
        asked = _Sql(asked.table, (*asked.conditions, either), (*asked.values, *values))
    if len(kinds) < all_kinds:
        kind = f"kind IN ({', '.join(map(str, kinds))})"
        asked = asked._replace(conditions=(kind, *asked.conditions))
    if max(kinds) < 0:
        rare = "lives INDEXED BY lives_rare"
        asked = asked._replace(table=rare, conditions=("kind < 0", *asked.conditions))
    return asked


def _kinds(connection: sqlite3.Connection, wanted: "Filter") -> tuple[list[int], int]:
    """Give the kinds that may be what is looked for, and how many there are.

    A type that is not kept may be any.
    """
    found, count = [], 0
    for kind, app, event_type, transport, outcome, reason in connection.execute(KINDS):
        asked = (
            (wanted.app, app),
            (wanted.event_type if event_type is not None else None, event_type),
            (wanted.transport, transport),
            (wanted.outcome, outcome),
            (wanted.reason, reason),
        )
        count += 1
        if all(one is None or one == has for one, has in asked):
            found.append(kind)
    return found, count


def _rows(wanted: "Filter") -> _Sql:
    """Ask `events`; of ids only whether they stand in the body at all."""
    asked: dict[str, Value] = {
        "event_type = ?": wanted.event_type,
        # A plus keeps SQLite from the index of event ids.
        "+app = ?": wanted.app,
        "transport = ?": wanted.transport,
        "coalesce(outcome, 'pending') = ?": wanted.outcome,
        "reason = ?": wanted.reason,
        **_bounds(wanted),
        # The same question, in three spellings: each of them is the place of one value.
        "instr(body, ?)": _bytes(wanted.ticket),
        "instr(body, ?) > 0": _bytes(wanted.message_id),
        "0 < instr(body, ?)": _bytes(wanted.text),
    }
    return _sql("events", asked)


def _bounds(wanted: "Filter") -> dict[str, Value]:
    return {"received_at >= ?": wanted.since, "received_at < ?": wanted.until}


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="replace")


def _cut(text: str | None) -> str | None:
    """Give as much of an id as is kept."""
    return None if text is None else text[:LONGEST]
