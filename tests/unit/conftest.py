"""What unit tests may ask for besides: a folder in memory."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: A file system in memory, on Linux; containers may have little of it.
_MEMORY, _ENOUGH = Path("/dev/shm"), 2**30


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory: on a disk syncing would be half of the work of these tests."""
    if not os.access(_MEMORY, os.W_OK) or _free(_MEMORY) < _ENOUGH:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="relay-test-", dir=_MEMORY) as made:
        yield Path(made)


def _free(place: Path) -> int:
    there = os.statvfs(place)
    return there.f_bavail * there.f_frsize
