"""The volume that a journal lies on: what of file system it is, and what space it has."""

import errno
import os
from pathlib import Path

#: Bytes to ask for, to hear why a disk does not write: more than one of SQLite's steps takes.
TRIED = 128 * 1024


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
