"""What escapes on the event loop, where nobody waits for it: said here, and to whoever watches."""

import asyncio
import sys
import traceback
from typing import Any

import structlog

from relay.errors import RelayError

log = structlog.get_logger()

#: Whose callbacks may fail without relay being wrong; what they carry is asked for elsewhere.
_LIBRARIES = sys.stdlib_module_names | {
    "aiohttp",
    "aiokafka",
    "aiosignal",
    "opentelemetry",
    "redis",
    "requests",
    "urllib3",
    "uvloop",
}


class Escapes:
    """The errors of callbacks, and of tasks that nobody awaits, from its making on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._first: asyncio.Future[str] = loop.create_future()
        loop.set_exception_handler(self._note)

    async def first(self) -> str:
        """Wait for one that is a fault of ours; say what it is."""
        return await asyncio.shield(self._first)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            return
        # Never its message, nor the callback's: they may show what was sent.
        name, place = type(error).__name__, _place(error)
        if not _ours(error) or ("future" in context and _condition(error)):
            log.warning("library_failed", error=name, place=place)
            return
        log.error("callback_failed", error=name, place=place)
        if not self._first.done():
            self._first.set_result(f"a callback died of {name} at {place}")


def _condition(error: BaseException) -> bool:
    """Whether it tells of the world, not of a fault: a task may end of it, and be forgotten.

    A connection has several tasks, and when it breaks one of them is asked why.
    """
    of_a_library = type(error).__module__.partition(".")[0] in _LIBRARIES - {"builtins"}
    return of_a_library or isinstance(error, (OSError, RelayError))


def _ours(error: BaseException) -> bool:
    """Whether the error passed through anything but libraries."""
    names = (str(f.f_globals.get("__name__")) for f, _ in traceback.walk_tb(error.__traceback__))
    return any(name.partition(".")[0] not in _LIBRARIES for name in names)


def _place(error: BaseException) -> str:
    """Say where it was raised: module and line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "no line of Python"
    frame, line = frames[-1]
    return f"{frame.f_globals.get('__name__')}:{line}"
