"""Moves the pending events of a replica that will not come back into another one's journal.

`write` takes them out of a stopped journal, `read` puts them into another, running or not. The
events are in one place or the other at every moment, or in the file between the two, and the id of
the journal they come from goes along: claims that it has made are honoured.
"""

import os
import sqlite3
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from relay.errors import HandoverError
from relay.events import EXPORTED, Outcome, Settlement, Transport, withheld
from relay.journal import file as journalfile
from relay.journal.disk import faults
from relay.journal.rows import identity, lives
from relay.journal.rows.lives import Lives
from relay.observe import traces

#: The first line's version, and rows of one transaction.
VERSION, ROWS = 1, 500

_FIELDS = (
    "app",
    "event_id",
    "event_type",
    "transport",
    "received_at",
    "replayed",
    "reason",
    "traceparent",
)
_PENDING = (
    f"SELECT seq, {', '.join(_FIELDS)}, origin, body FROM events"  # noqa: S608 - constants
    " WHERE outcome IS NULL ORDER BY seq"
)
_SEQS = "SELECT seq FROM events WHERE outcome IS NULL AND seq <= ? ORDER BY seq"
_COUNT_PENDING = "SELECT count(*) FROM events WHERE outcome IS NULL"
_EXPORTED = (
    "UPDATE events SET outcome = ?, reason = ?, settled_at = ? WHERE outcome IS NULL AND seq <= ?"
)
_KNOWN = "SELECT seq, outcome, origin FROM events WHERE app = ? AND event_id = ?"
_ADD = (
    f"INSERT INTO events ({', '.join(_FIELDS)}, origin, body)"  # noqa: S608 - constants
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of the events of a file."""

    added: int
    #: The journal had them already.
    known: int
    #: Pending here on their own account: what becomes of them, and so of the file's, is open.
    open: int


def write(journal: Path, target: Path) -> int:
    """Take the pending events out of a journal that the caller has locked; give how many.

    First the whole file is on disk, then the journal lets go, then the file gets its name: after a
    crash the same call goes on. Raises HandoverError, also if the file is whole by that and more
    has come since; or OSError.
    """
    if target.exists():
        raise HandoverError(f"{target}: is there already; name another file")
    draft = target.with_name(target.name + ".part")
    with faults.told(journal), closing(_connected(journal)) as connection:
        finished = _finished(connection, draft)
        if finished is None:
            count, last_seq = _write_draft(connection, draft)
            journalfile.sync_directory(draft.parent)
            journalfile.transaction(connection, lambda: _let_go(connection, last_seq))
        draft.rename(target)
        journalfile.sync_directory(target.parent)
        if finished is None:
            return count
        more = connection.execute(_COUNT_PENDING).fetchone()[0]
    if more:
        message = (
            f"{target}: has the {finished} events of an export that had broken off; the journal"
        )
        raise HandoverError(f"{message} has {more} more since then: export again, to another file")
    return finished


def _let_go(connection: sqlite3.Connection, last_seq: int) -> None:
    """Settle what the file has."""
    notes = Lives()
    pending = connection.execute(_SEQS, (last_seq,))
    while rows := pending.fetchmany(ROWS):
        ends = [Settlement(seq=seq, outcome=Outcome.DUPLICATE, reason=EXPORTED) for (seq,) in rows]
        notes.write(connection, ends)
    values = (Outcome.DUPLICATE, EXPORTED, int(time.time() * 1000), last_seq)
    connection.execute(_EXPORTED, values)


def _connected(journal: Path) -> sqlite3.Connection:
    return journalfile.connect(journal, patience=journalfile.PATIENCE)


def _write_draft(connection: sqlite3.Connection, draft: Path) -> tuple[int, int]:
    """Write header, events and end; give how many events, and the last one's seq."""
    count = last_seq = 0
    draft.unlink(missing_ok=True)
    draft.touch(journalfile.PRIVATE)
    with draft.open("wb") as file:
        journal = identity.read(connection)
        file.write(_line({"relay_export": VERSION, "journal": journal.id}))
        for last_seq, *values, origin, body in connection.execute(_PENDING):
            fields = dict(zip(_FIELDS, values, strict=True))
            if last_seq <= journal.former_seq:
                origin = " ".join(filter(None, (origin, journal.former_ids)))  # noqa: PLW2901
            if withheld(fields["event_type"]):
                # An earlier version has stored it whole, and nobody needs it.
                body = b""  # noqa: PLW2901
            file.write(_line(fields | {"origin": origin, "body": b64encode(body).decode()}))
            count += 1
        file.write(_line({"end": count}))
        file.flush()
        os.fsync(file.fileno())
    return count, last_seq


def _finished(connection: sqlite3.Connection, draft: Path) -> int | None:
    """Give the events of a draft that the journal has already let go of; None: there is none."""
    try:
        origin, events = _parsed(draft)
    except (HandoverError, OSError):
        return None
    if origin != _id(connection) or not events:
        return None
    sql = "SELECT reason FROM events WHERE app = ? AND event_id = ?"
    place = (events[0]["app"], events[0]["event_id"])
    return len(events) if connection.execute(sql, place).fetchone() == (EXPORTED,) else None


def read(source: Path, journal: Path) -> Taken:
    """Put the events of a file into a journal, which a relay may own; a second time adds none.

    What is `open` calls for a second time, after it is settled: only then it is known whether our
    copy was published, or left to the one that the file has. Raises HandoverError, JournalError or
    OSError.
    """
    origin, events = _parsed(source)
    if not journal.exists():
        with journalfile.lock(journal):
            journalfile.prepare(journal)
    journalfile.check_header(journal)
    with faults.told(journal), closing(_connected(journal)) as connection:
        if origin == _id(connection):
            raise HandoverError(f"{journal}: is the journal that {source} was taken from")
        journalfile.begin_if_idle(journal, connection)
        added = pending = 0
        for first in range(0, len(events), ROWS):
            work = partial(_add, connection, origin, events[first : first + ROWS])
            more_added, more_pending = journalfile.transaction(connection, work)
            added += more_added
            pending += more_pending
    return Taken(added=added, known=len(events) - added - pending, open=pending)


def _add(
    connection: sqlite3.Connection, origin: str, events: list[dict[str, Any]]
) -> tuple[int, int]:
    """Put events behind all others; what is on its way or published here stays as it is.

    Gives how many were added, and how many are on their way here on their own account.
    """
    added = pending = 0
    for event in events:
        # Each journal that it has passed through may have claimed it.
        comes_from = " ".join(filter(None, (event["origin"], origin)))
        known = connection.execute(_KNOWN, (event["app"], event["event_id"])).fetchone()
        if known and known[1] is None and known[2] != comes_from:
            pending += 1
            continue
        if known and not _was_left_to(comes_from, known, replayed=bool(event["replayed"])):
            continue
        if known:
            connection.execute("DELETE FROM events WHERE seq = ?", known[:1])
            lives.forget(connection, known[0], known[0])
        values = [event[name] for name in _FIELDS]
        connection.execute(_ADD, (*values, comes_from, b64decode(event["body"])))
        added += 1
    return added, pending


def _was_left_to(origin: str, known: tuple[int, str | None, str | None], *, replayed: bool) -> bool:
    """Whether our copy has ended because another replica was to publish the event."""
    _, outcome, known_origin = known
    if outcome == Outcome.DUPLICATE:
        return True
    # An operator wanted it once more, there; once more from there is enough.
    return replayed and outcome is not None and known_origin != origin


def _parsed(source: Path) -> tuple[str, list[dict[str, Any]]]:
    """Read a whole file: the journal it is of, and its events."""
    try:
        header, *events, end = map(orjson.loads, _lines(source))
        if header["relay_export"] != VERSION or end != {"end": len(events)}:
            raise HandoverError(f"{source}: is of another version of relay, or not whole")
        for number, event in enumerate(events, 2):
            if fault := _fault(event):
                raise HandoverError(f"{source}: line {number}: {fault}; nothing was imported")
        return str(header["journal"]), events
    except (ValueError, KeyError, TypeError) as error:
        message = f"{source}: is not what `relay events export` writes, or not whole"
        raise HandoverError(message) from error


def _fault(event: dict[str, Any]) -> str:
    """Say why a journal could not hold this event, or not be read with it."""
    missing = {*_FIELDS, "origin", "body"} - event.keys()
    if missing:
        return f"an event lacks {', '.join(sorted(missing))}"
    wrong = [name for name, known in _KNOWN_AS.items() if not known(event[name])]
    return f"no journal can hold its {', '.join(wrong)}" if wrong else ""


#: The end of the year 9999.
_LAST_MOMENT = 253_402_300_799_999


def _text(value: object) -> bool:
    return isinstance(value, str)


def _text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _moment(value: object) -> bool:
    """Whether it is Unix milliseconds of a year that can be written, which Kafka takes too."""
    return type(value) is int and 0 <= value <= _LAST_MOMENT


def _trace(value: object) -> bool:
    return value is None or (isinstance(value, str) and traces.parse(value) == value)


def _base64(value: object) -> bool:
    try:
        b64decode(str(value), validate=True)
    except ValueError:
        return False
    return isinstance(value, str)


#: What the columns of a journal take, and those who read them.
_KNOWN_AS: dict[str, Callable[[Any], bool]] = {
    "app": _text,
    "event_id": _text,
    "event_type": _text,
    "transport": lambda value: value in set(Transport),
    "received_at": _moment,
    "replayed": lambda value: value in {0, 1},
    "reason": _text_or_none,
    "traceparent": _trace,
    "origin": _text_or_none,
    "body": _base64,
}


def _lines(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        yield from file


def _line(value: dict[str, object]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _id(connection: sqlite3.Connection) -> str:
    return identity.read(connection).id
