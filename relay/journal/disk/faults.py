"""What SQLite's refusals mean: each becomes one of relay's own errors, with a sentence.

Damage is what SQLite itself calls so (CORRUPT, NOTADB), and nothing else. It says little of why a
disk does not write, so the volume is asked.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalDeniedError,
    JournalError,
    JournalNoSpaceError,
    JournalUnreadableError,
)
from relay.journal.disk import volume

#: An extended code of SQLite's is one of these in its last byte.
_PRIMARY = 0xFF
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
#: The system's number for what SQLite does not leave open.
_NUMBERS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_AUTH: errno.EACCES,
}
#: Codes that may mean several things.
_ASKED = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def told(path: Path, doing: str = "cannot be used") -> Iterator[None]:
    """Have an error of SQLite's come out as a JournalError about `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise meaning(path, error, doing) from error


@contextmanager
def told_of_files(path: Path, doing: str = "cannot be used") -> Iterator[None]:
    """As `told`, also for what the system says of the files themselves."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise meaning(path, error, doing) from error


def meaning(path: Path, error: Exception, doing: str = "cannot be used") -> JournalError:
    """Say what an error of SQLite's or the system's means for a journal."""
    if isinstance(error, OSError):
        return _refused(path, doing, error.errno, error.strerror or str(error))
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
    if code in _DAMAGED:
        return damage(path, str(error))
    said = f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    if code in _BUSY:
        return JournalBusyError(
            f"{path}: {doing}: another program holds its lock (a shell, a backup, VACUUM): {said}; "
            "nothing is wrong with it, end that program"
        )
    number = _NUMBERS.get(code)
    if code in _ASKED:
        number = volume.refusal(path) or number
    return _refused(path, doing, number, said)


def damage(path: Path, found: str) -> JournalDamagedError:
    """Say that a journal's content cannot be trusted."""
    return JournalDamagedError(
        f"{path}: is damaged ({' '.join(found.split())}); nothing was changed. "
        f"To start empty, move it away with {path.name}-wal and {path.name}-shm; "
        "docs/operations.md says how to get its events out"
    )


def _refused(path: Path, doing: str, number: int | None, said: str) -> JournalError:
    """Say what the system's refusal means."""
    if number in _NO_SPACE:
        return JournalNoSpaceError(
            f"{path}: {doing}: its volume is full: {said}; make space, nothing in it is lost"
        )
    if number in _NOT_ALLOWED:
        return JournalDeniedError(
            f"{path}: {doing}: it may not be written: {said}; look at owner and mode of the file, "
            f"{path.name}-wal, {path.name}-shm and their directory, and at the mount"
        )
    if number == errno.EIO:
        return JournalUnreadableError(
            f"{path}: {doing}: its disk fails: {said}; this is no sign of damage, nothing was "
            "changed: look at the disk and at the kernel's log"
        )
    return JournalError(f"{path}: {doing}: {said}")
