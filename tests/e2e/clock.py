"""Runs relay with a clock that is wrong: `python -m tests.e2e.clock FILE -- serve`.

The file holds how many seconds it is ahead, as a double; it may change while relay runs.
"""

import mmap
import struct
import sys
import time
from pathlib import Path

_SECONDS = struct.Struct("<d")


def write(file: Path, ahead: float) -> None:
    """Set the clock of whoever runs by this file: in place, as others have it mapped."""
    with file.open("r+b" if file.exists() else "w+b") as there:
        there.write(_SECONDS.pack(ahead))


def main() -> None:
    """Set the clock, then be `relay`."""
    with Path(sys.argv[1]).open("rb") as file:
        ahead = mmap.mmap(file.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + _SECONDS.unpack_from(ahead)[0]
    time.time_ns = lambda: now_ns() + int(_SECONDS.unpack_from(ahead)[0] * 1e9)
    from relay.cli import main as cli  # noqa: PLC0415 - whatever it imports must find the wrong clock

    sys.argv = ["relay", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()
