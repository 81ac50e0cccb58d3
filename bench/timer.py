"""A periodic timer of the kernel as a file descriptor (timerfd).

An event loop's own timers have a millisecond's resolution, too coarse for a send schedule.
`os.timerfd_create` exists from Python 3.13 on only, hence the C library here.
"""

import ctypes
import os

_MONOTONIC = 1
_NONBLOCK = 0o4000
_ABSOLUTE = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


def open_timer(first: float, interval: float) -> int:
    """Give a descriptor readable at `first` (monotonic seconds), then at every interval."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.timerfd_create(_MONOTONIC, _NONBLOCK)
    setting = _Setting(interval=_spec(interval), first=_spec(first))
    if (
        descriptor < 0
        or library.timerfd_settime(descriptor, _ABSOLUTE, ctypes.byref(setting), None) < 0
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _spec(seconds: float) -> _TimeSpec:
    return _TimeSpec(*divmod(round(seconds * 1e9), 1_000_000_000))
