"""The clock that nobody can set: it counts also while the machine sleeps."""

import time

#: Linux' monotonic clock stands still in a suspended machine; elsewhere it does not.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot() -> float:
    """Give seconds since some moment; only differences mean anything."""
    return time.clock_gettime(_ELAPSED)
