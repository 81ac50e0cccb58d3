"""A copy of a journal, in one file, also while a relay owns it; as it is at the copy's end.

What was settled does not change, so it is copied in short reads, between which the log may end;
one more, at the end, has what is new, and which endings have come meanwhile. What the clean-up
deletes while it runs may be in the copy: it remembers that for longer.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from relay.errors import JournalError, JournalNoSpaceError
from relay.journal import file
from relay.journal.disk import faults, volume

#: Rows of one read.
BITE = 2_000
#: A copy on the volume that it saves leaves as much free as it takes.
_LEFT_FREE = 2

_NEXT = "SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
_REST = "SELECT * FROM events WHERE seq > ? ORDER BY seq"
_LIVES = "SELECT * FROM lives WHERE seq > ? AND seq <= ?"
_LIFE = "SELECT * FROM lives WHERE seq = ?"
_NO_LIVES = "DELETE FROM lives WHERE seq NOT IN (SELECT seq FROM events)"
_PENDING = "SELECT seq FROM events WHERE outcome IS NULL"
_ENDING = "SELECT outcome, reason, settled_at, seq FROM events WHERE seq = ?"
_END = "UPDATE events SET outcome = ?, reason = ?, settled_at = ? WHERE seq = ?"
_LAST = "SELECT coalesce(max(seq), 0) FROM events"
#: All but the events, however many there will be.
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('events', 'lives')"


def write(journal: Path, target: Path, progress: Callable[[float], None] = lambda _: None) -> int:
    """Copy a journal to a file that is not there yet; give how many events it has.

    Raises JournalError, or OSError for the target's directory.
    """
    if target.exists():
        raise JournalError(f"{target}: is there already; name another file")
    file.check_header(journal)
    draft = target.with_name(target.name + ".part")
    with faults.told(journal), closing(_connected(journal)) as source:
        _refuse_without_room(journal, target, file.used_bytes(source))
        file.draft(draft)
        with faults.told(draft, "cannot be written"), closing(_opened(draft)) as copy:
            _copy_events(source, copy, progress)
            _copy_end(source, copy)
            count = int(copy.execute("SELECT count(*) FROM events").fetchone()[0])
            copy.execute("PRAGMA journal_mode = WAL")
    with draft.open("rb") as made:
        os.fsync(made.fileno())
    draft.rename(target)
    file.sync_directory(target.parent)
    return count


def _connected(journal: Path) -> sqlite3.Connection:
    connection = file.connect(journal, readonly=True, patience=file.PATIENCE)
    if file.version(connection) != file.SCHEMA_VERSION:
        connection.close()
        raise JournalError(f"{journal}: is of another version of relay; use that one's command")
    return connection


def _opened(draft: Path) -> sqlite3.Connection:
    """Open the copy; it is worth nothing until it is whole, so nothing guards it before."""
    connection = sqlite3.connect(draft, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _refuse_without_room(journal: Path, target: Path, needed: int) -> None:
    free = volume.free_bytes(target.parent)
    same = target.parent.stat().st_dev == journal.stat().st_dev
    if free < needed * (_LEFT_FREE if same else 1) + volume.RESERVED:
        where = "on the volume that it saves; name a file on another one" if same else "there"
        raise JournalNoSpaceError(
            f"{target}: a copy takes {needed:,} bytes, and there is no room for it {where}"
        )


def _copy_events(
    source: sqlite3.Connection, copy: sqlite3.Connection, progress: Callable[[float], None]
) -> None:
    """Copy the events in short reads, until few are left."""
    last = file.last_seq(source)
    done = 0
    while True:
        first = done
        source.execute("BEGIN")
        _put(copy, source.execute(_NEXT, (done, BITE)))
        done = int(copy.execute(_LAST).fetchone()[0])
        _put(copy, source.execute(_LIVES, (first, done)), "lives")
        source.execute("COMMIT")
        progress(min(1.0, done / max(last, 1)))
        # The ids have gaps: what counts is whether there is as much again.
        if done == first or file.last_seq(source) - done < BITE:
            return


def _copy_end(source: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Copy what has changed meanwhile, and who the journal is, as all of it is at one moment."""
    (done,) = copy.execute(_LAST).fetchone()
    source.execute("BEGIN")
    _put(copy, source.execute(_REST, (done,)))
    settled = set(copy.execute(_PENDING)) - set(source.execute(_PENDING))
    endings = {seq: source.execute(_ENDING, seq).fetchone() for seq in settled}
    copy.execute("BEGIN")
    copy.executemany(_END, [ending for ending in endings.values() if ending])
    copy.executemany("DELETE FROM events WHERE seq = ?", [s for s, e in endings.items() if not e])
    _put(copy, source.execute(_LIVES, (done, file.last_seq(source))), "lives")
    for (seq,) in settled:
        _put(copy, source.execute(_LIFE, (seq,)), "lives")
    copy.execute(_NO_LIVES)
    for (name,) in source.execute(_TABLES).fetchall():
        copy.execute(f"DELETE FROM {name}")  # noqa: S608 - a name of the schema
        _put(copy, source.execute(f"SELECT * FROM {name}"), name)  # noqa: S608 - the same
    copy.execute("COMMIT")
    source.execute("COMMIT")


def _put(copy: sqlite3.Connection, rows: sqlite3.Cursor, table: str = "events") -> None:
    """Put rows into a table; of two with one event's id (it was replayed) the later one counts."""
    names = [column[0] for column in rows.description]
    columns, marks = ", ".join(names), ", ".join("?" * len(names))
    outside = not copy.in_transaction
    if outside:
        copy.execute("BEGIN")
    copy.executemany(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608 - the schema's names
    if outside:
        copy.execute("COMMIT")
