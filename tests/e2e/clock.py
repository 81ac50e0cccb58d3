"""Runs relay with a clock that is wrong: `python -m tests.e2e.clock SECONDS -- serve`."""

import sys
import time


def main() -> None:
    """Set the clock, then be `relay`."""
    ahead = int(sys.argv[1])
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + ahead
    time.time_ns = lambda: now_ns() + ahead * 10**9
    from relay.cli import main as cli  # noqa: PLC0415 - whatever it imports must find the wrong clock

    sys.argv = ["relay", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()
