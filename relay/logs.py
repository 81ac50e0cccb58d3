"""Structured logs: static event names and fields; never a payload, a token or a customer's text."""

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from relay.settings import Log

#: aiokafka repeats one line hundreds of times in an outage; relay logs each change itself.
_QUIET = ("aiokafka", "aiohttp", "asyncio")


def configure(settings: Log) -> None:
    """Send relay's logs to standard error as JSON lines, or readable ones on a terminal."""
    form = settings.format or ("console" if sys.stderr.isatty() else "json")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if form == "json" else _identity,
            structlog.dev.ConsoleRenderer()
            if form == "console"
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, settings.level.upper())
        ),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Unfailing:
    """A stream that loses a line rather than the work of whoever logs: its disk may be full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _identity(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return fields


class Changes:
    """Logs a repeated condition when it changes, not when it repeats."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, recovered: str) -> None:
        self._log = log
        self._recovered = recovered
        self._last: tuple[str, str] | None = None

    def failing(self, event: str, error: str) -> None:
        """Warn about a failure unless it is the one of last time."""
        if self._last != (event, error):
            self._last = (event, error)
            self._log.warning(event, error=error)

    def working(self) -> None:
        """Say once that the failure is over."""
        if self._last is not None:
            self._last = None
            self._log.info(self._recovered)
