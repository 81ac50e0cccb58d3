"""The journal's file: made once and whole, checked before it is used, owned by one process.

A file that is not a sound journal of this version is refused and not touched.
"""

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from threading import Event, Thread
from typing import TextIO, TypeVar

from relay.errors import JournalError, JournalForeignError, JournalLockedError
from relay.journal.disk import faults, volume
from relay.journal.rows import identity
from relay.journal.rows.identity import Identity

T = TypeVar("T")

#: "rely" in ASCII, in the header of every journal.
APPLICATION_ID = 0x72656C79
SCHEMA_VERSION = 4
#: What makes a journal of an earlier version one of the next.
_CHANGES = {
    1: ("ALTER TABLE events ADD COLUMN traceparent TEXT",),
    2: (
        "ALTER TABLE journal ADD COLUMN signature TEXT NOT NULL DEFAULT 'unwritten'",
        "ALTER TABLE journal ADD COLUMN predecessor TEXT",
        "ALTER TABLE journal ADD COLUMN predecessor_seq INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE journal ADD COLUMN former_ids TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE journal ADD COLUMN former_seq INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE journal ADD COLUMN open_for INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE journal ADD COLUMN unclaimed_from INTEGER",
        "ALTER TABLE journal ADD COLUMN awaited TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE journal ADD COLUMN awaited_since INTEGER",
        "CREATE TABLE marks (open_for INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT",
    ),
    3: (
        "ALTER TABLE journal ADD COLUMN lives_from INTEGER NOT NULL DEFAULT 0",
        (
            "UPDATE journal SET lives_from = 1 + coalesce("
            "(SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)"
        ),
        (
            "CREATE TABLE lives (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL,"
            " received_at INTEGER NOT NULL, stored_after INTEGER, claimed_after INTEGER,"
            ' "partition" INTEGER, "offset" INTEGER, ticket ANY, message_id ANY) STRICT'
        ),
        "CREATE INDEX lives_rare ON lives (kind) WHERE kind < 0",
        (
            "CREATE TABLE kinds (kind INTEGER PRIMARY KEY, app TEXT NOT NULL, event_type TEXT,"
            " transport TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT, topic TEXT) STRICT"
        ),
    ),
}
#: The mode of what is made: it holds, or lies beside, customers' words.
PRIVATE = 0o600
#: Seconds that the start may spend on looking for damage.
CHECK_BUDGET = 0.3
#: Seconds between two interruptions of a check that goes on.
INTERRUPT_AGAIN = 0.02
#: Seconds to wait for the lock, and between two tries.
LOCK_PATIENCE, LOCK_LOOK = 0.5, 0.02
#: Seconds that a running relay waits for another program's lock (`relay events replay`, a shell):
#: an add may find the writer waiting, twice, and Feishu waits for 3 s in all.
BUSY_TIMEOUT = 0.5
#: Seconds that a start or a command waits for it.
PATIENCE = 5.0

_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    # KiB of pages kept: who reads in order needs none twice. The writer takes more.
    "PRAGMA cache_size = -256",
    # A checkpoint would hold up a commit; journalwriter.py runs them beside it.
    "PRAGMA wal_autocheckpoint = 0",
    # Several rows in one statement need a statement journal: not as a file for each commit.
    "PRAGMA temp_store = MEMORY",
    # What is deleted is overwritten: some builds of SQLite do not by themselves.
    "PRAGMA secure_delete = ON",
)
#: Prepared statements that a connection keeps: one for each number of rows of an INSERT, and more.
STATEMENTS = 128


def lock(path: Path, *, patience: float = LOCK_PATIENCE) -> TextIO:
    """Own the journal for as long as the returned file stays open.

    Waits `patience` seconds for an owner that is about to end, or for `relay check`, before it
    raises JournalLockedError.
    """
    with faults.told_of_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        volume.lock_path(path).touch(PRIVATE)
        file = volume.lock_path(path).open("a")
    deadline = time.monotonic() + patience
    while not _owned(file):
        if time.monotonic() >= deadline:
            file.close()
            message = f"{path}: another relay process owns this journal; give each its own path"
            raise JournalLockedError(message)
        time.sleep(LOCK_LOOK)
    return file


def _owned(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def prepare(path: Path) -> None:
    """Make the journal if there is none; refuse a file that is not a sound one."""
    if not path.exists():
        _create(path)
    check_header(path)
    check_pages(path)
    with closing(connect(path, patience=PATIENCE)) as connection, faults.told(path):
        if version(connection) < SCHEMA_VERSION:
            make_private(path)
        carry_over(connection)


def make_private(path: Path) -> None:
    """Take from others the right to read a journal that an earlier version has made for all."""
    for name in ("", "-wal", "-shm", ".lock"):
        with suppress(OSError):  # another's file: its owner knows
            path.with_name(path.name + name).chmod(PRIVATE)


def connect(
    path: Path, *, readonly: bool = False, patience: float | None = None
) -> sqlite3.Connection:
    """Open a connection that any one thread may use, with explicit transactions.

    It waits `patience` seconds (BUSY_TIMEOUT) for another program's lock. Raises JournalError.
    """
    mode = "ro" if readonly else "rw"
    with faults.told(path, "cannot be opened"):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT if patience is None else patience,
            cached_statements=STATEMENTS,
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
        except sqlite3.Error:
            connection.close()
            raise
    return connection


def _create(path: Path) -> None:
    """Build the file beside its place and move it there: a crash leaves none or a whole one."""
    for leftover in (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")):
        if leftover.exists():
            message = f"{leftover}: is left of another journal, and is part of it; move it there"
            raise JournalError(message)
    new = path.with_name(path.name + ".new")
    try:
        with faults.told_of_files(path, "cannot be created"):
            draft(new)
            new.replace(path)
            sync_directory(path.parent)
    except JournalError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def draft(path: Path) -> None:
    """Make an empty journal, for its owner alone; what is there goes."""
    path.unlink(missing_ok=True)
    # SQLite gives the files beside it the mode that it finds here.
    path.touch(PRIVATE, exist_ok=False)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.executescript(
            resources.files("relay.journal").joinpath("schema.sql").read_text()
        )
        sql = "INSERT INTO journal (id, signature, predecessor) VALUES (?, '', '')"
        connection.execute(sql, (str(uuid.uuid4()),))
        connection.execute("PRAGMA journal_mode = WAL")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_header(path: Path) -> None:
    """Read the first page's header without SQLite, which could write beside a foreign file."""
    with faults.told_of_files(path, "cannot be read"), path.open("rb") as file:
        header = file.read(100)
    application_id = int.from_bytes(header[68:72], "big")
    if header[:16] != b"SQLite format 3\0" or application_id != APPLICATION_ID:
        message = f"{path}: is not a relay journal; name another path, or move this file away"
        raise JournalForeignError(message)
    version = int.from_bytes(header[60:64], "big")
    if version > SCHEMA_VERSION:
        message = (
            f"{path}: has schema version {version}, this relay knows up to {SCHEMA_VERSION}; "
            "run the newer relay that wrote it"
        )
        raise JournalForeignError(message)


def check_pages(path: Path) -> None:
    """Look for damaged pages within a budget of time; a large journal is checked in part."""
    # Read-only: a writing connection moves the log into the file when it is closed.
    connection = connect(path, readonly=True, patience=PATIENCE)
    with faults.told_of_files(path), closing(connection):
        found = _cut_off(path, connection) or _quick_check(connection)
    if found:
        raise faults.damage(path, found)


def check_writable(path: Path) -> None:
    """See, and change nothing, whether a commit could be made: space, rights, nobody's lock."""
    with faults.told_of_files(path):
        if number := volume.refusal(path):
            raise OSError(number, os.strerror(number))
        # The first connection keeps the second from moving the log into the file at its end.
        with closing(connect(path, readonly=True)) as reader, closing(connect(path)) as writer:
            last_seq(reader)
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("ROLLBACK")


def _cut_off(path: Path, connection: sqlite3.Connection) -> str:
    page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
    whole, rest = divmod(path.stat().st_size, page_size)
    cut = rest and not _in_log(path, whole + 1, page_size)
    return "its last page is cut off" if cut else ""


def _quick_check(connection: sqlite3.Connection) -> str:
    """Give the first thing that SQLite finds wrong, as far as it comes within the budget."""
    try:
        with _within(CHECK_BUDGET, connection):
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return ""
    return "" if found == "ok" else found


@contextmanager
def _within(seconds: float, connection: sqlite3.Connection) -> Iterator[None]:
    """Break off what a connection does when its time is up.

    By a thread: a check of pages is one step of SQLite's, which asks no progress handler within it.
    And again and again: an interruption between two steps is forgotten.
    """
    done = Event()

    def interrupt() -> None:
        pause = max(seconds, 0)
        while not done.wait(pause):
            connection.interrupt()
            pause = INTERRUPT_AGAIN

    thread = Thread(target=interrupt, name="journal-check", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _in_log(path: Path, page: int, page_size: int) -> bool:
    """Whether the write-ahead log has a page: then a checkpoint has not finished writing it.

    The format is SQLite's: a header of 32 bytes, then frames of 24 bytes and a page, whose salt is
    the header's.
    """
    log = path.with_name(path.name + "-wal")
    if not log.exists():
        return False
    with log.open("rb") as file:
        salt = file.read(32)[16:24]
        while len(frame := file.read(24)) == 24:  # noqa: PLR2004 - as said
            if frame[8:16] == salt and int.from_bytes(frame[:4], "big") == page:
                return True
            file.seek(page_size, os.SEEK_CUR)
    return False


def transaction(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """Run `work` in one durable transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def carry_over(connection: sqlite3.Connection) -> None:
    """Make a journal of an earlier version one of this version, all at once or not at all."""

    def work() -> None:
        for earlier in range(version(connection), SCHEMA_VERSION):
            for change in _CHANGES[earlier]:
                connection.execute(change)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    if version(connection) < SCHEMA_VERSION:
        transaction(connection, work)


def version(connection: sqlite3.Connection) -> int:
    """Give the schema's version."""
    """Give the version of the schema that the file has."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def begin(connection: sqlite3.Connection) -> Identity:
    """Give who the journal is; an offset that Kafka has can speak of no row that comes from now on.

    That is kept, durably, until a process has signed: `trusted_seq` in schema.sql.
    """

    def work() -> Identity:
        identity.seal(connection, last_seq(connection))
        return identity.read(connection)

    return transaction(connection, work)


def begin_if_idle(path: Path, connection: sqlite3.Connection) -> None:
    """Before rows are put into a journal: as `begin`, if no relay owns it.

    Raises JournalLockedError if an earlier version does, which would not know all columns.

    The file may have been restored from a snapshot. Then Kafka's offset speaks of other events, and
    must not settle what is put in now.
    """
    with suppress(JournalLockedError), lock(path, patience=0):
        carry_over(connection)
        begin(connection)
    if version(connection) < SCHEMA_VERSION:
        message = f"{path}: a relay of an earlier version owns this journal; use its own commands"
        raise JournalLockedError(message)


def last_seq(connection: sqlite3.Connection) -> int:
    """Give the highest seq that was ever used, whether its row is still there or not."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(row[0]) if row else 0


def used_bytes(connection: sqlite3.Connection) -> int:
    """Give the bytes in use: pages that a deletion has freed will be filled again."""
    size, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return size * (pages - free)


def whole_bytes(connection: sqlite3.Connection) -> int:
    """Give the bytes that the file has once the log has been moved into it."""
    size, pages = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count")
    )
    return size * pages
