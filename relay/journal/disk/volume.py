"""The volume that a journal lies on: what space it has, and what of it is kept.

Two things must always be possible, also on a volume that is full: to move the log into the file,
which alone makes an end of the log, and to start. So the room that the file lacks for its log is
left free, whatever comes in, and some more is reserved, where no other program can take it.
"""

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Bytes to ask for, to hear why a disk does not write: more than one of SQLite's steps takes.
TRIED = 128 * 1024
#: Bytes that are reserved, and bytes that are left free beside them; of a small volume less.
RESERVED, SPARE, SMALL = 4 * 2**20, 2**20, 16
#: How long, in seconds, and for which part of what is free nobody looks again; and what a commit
#: takes beside its bodies, in bytes.
LOOK, CREDIT, COMMIT = 1.0, 8, 16 * 1024
#: What of the spare bytes is for everything but new events: the part above is theirs.
_LEAST = 4
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Room:
    """What the owner of a journal may still write to its volume."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        found = os.statvfs(path.parent)
        part = found.f_blocks * found.f_frsize // SMALL
        self._to_reserve, self._spare = min(RESERVED, part), min(SPARE, part)
        self._reserved = False
        self._credit, self._looked_at = 0, 0.0

    def reserve(self) -> bool:
        """Take the reserve, in the lock file; give whether nothing stands in the way."""
        self._credit = 0
        try:
            with lock_path(self._path).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._to_reserve)
        except OSError as error:
            # A file system that cannot reserve is no full one.
            self._reserved = error.errno not in _NO_SPACE
        else:
            self._reserved = True
        return self._reserved

    def let_go(self) -> None:
        """Give the reserve back to the volume."""
        self._reserved, self._credit = False, 0
        with suppress(OSError), lock_path(self._path).open("r+b") as file:
            file.truncate(0)

    def for_events(self, more: int, size: Callable[[], int]) -> bool:
        """Whether events of so many bytes may be stored, without and with the log.

        `size` gives the bytes that the file will have when the log has been moved into it.
        """
        cost = more + COMMIT
        if cost < self._credit and time.monotonic() < self._looked_at + LOOK:
            self._credit -= cost
            return True
        self._credit = 0
        needed = 2 * more + self._spare
        left = free_bytes(self._path) - self._log_bytes() - needed
        if self._reserved and left > 0:
            self._credit, self._looked_at = left // CREDIT, time.monotonic()
            return True
        if self._left(size) < needed + (0 if self._reserved else self._to_reserve):
            return False
        return self._reserved or self.reserve()

    def for_the_rest(self, more: int, size: Callable[[], int]) -> bool:
        """Whether so many bytes may be written that are no new events: the file grows by none.

        This is the need that the reserve is for.
        """
        least = more + self._spare // _LEAST
        if free_bytes(self._path) > self._log_bytes() + least:
            return True
        if self._left(size) < least and self._reserved:
            self.let_go()
        return self._left(size) >= least

    def _left(self, size: Callable[[], int]) -> int:
        """Give the bytes that are free when the log has been moved into the file."""
        return free_bytes(self._path) - max(0, size() - self._path.stat().st_size)

    def _log_bytes(self) -> int:
        return file_bytes(self._log)


def file_bytes(path: Path) -> int:
    """Give a file's size; of none, 0."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def lock_path(path: Path) -> Path:
    """Give the file whose owner owns a journal; it has no content."""
    return path.with_name(path.name + ".lock")


def refusal(path: Path) -> int | None:
    """Ask the system why a journal cannot be written: an error number, or None if it can be.

    Nothing is changed: space is asked for behind the end of the lock file, and given back.
    """
    if not path.exists():
        return errno.ENOENT
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return errno.EACCES
    try:
        descriptor = os.open(lock_path(path), os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno
    size = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, size, TRIED)
    except OSError as error:
        return error.errno
    else:
        return None
    finally:
        os.ftruncate(descriptor, size)
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Give the bytes that this process may still write to the volume of a directory or file."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
