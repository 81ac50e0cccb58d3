"""Structured logs: static event names and fields; never a payload, a token or a customer's text.

Whoever logs waits for no reader and no disk: a thread writes the lines.
"""

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TextIO, cast

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

#: aiokafka repeats one line hundreds of times in an outage, OpenTelemetry and urllib3 print the
#: collector's URL with what is secret in it; relay logs each change itself.
_QUIET = ("aiokafka", "aiohttp", "asyncio", "opentelemetry", "urllib3")
#: Without the variables of the frames: they hold what was sent, and secrets.
_TRACEBACKS = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
#: Lines that wait for a reader that stalls; of what comes on top only the number is told.
LINES = 1000
#: Seconds that a line waits for its writing, to stand before what is printed next.
_MOMENT = 0.2
#: Seconds that the end of the process waits for the last lines.
_PATIENCE = 1.0


def configure(level: str = "info", form: str | None = None) -> None:
    """Send relay's logs to standard error as JSON lines, or readable ones on a terminal.

    `level` and `form` ("json", "console") are as the settings have them.
    """
    form = form or ("console" if sys.stderr.isatty() else "json")
    lines = _lines(sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS if form == "json" else _readable,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if form == "console"
            else structlog.processors.JSONRenderer(_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(lines),
    )
    # What libraries say that are not quiet.
    logging.lastResort = logging.StreamHandler(lines)
    logging.lastResort.setLevel(logging.WARNING)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _lines(stream: TextIO) -> TextIO:
    """Have a thread write what could stall; a stream without a descriptor is memory."""
    try:
        stream.fileno()
    except OSError:
        return stream
    return cast("TextIO", _Lines(stream))


class _Lines:
    """A stream that loses lines rather than hold up whoever logs.

    It goes past the stream's own buffer: its lock, held by a thread that is stuck, would kill the
    process at its end. And it leaves the descriptor blocking: other processes have it, too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        #: The first is being written. A number stands for so many lines that did not fit.
        self._waiting: deque[str | int] = deque()
        self._changed = threading.Condition()
        self._stalled = False
        self._thread = threading.Thread()
        atexit.register(self._written, _PATIENCE)

    def write(self, line: str, /) -> int:
        """Take a whole line, or count it."""
        with self._changed:
            if len(self._waiting) < LINES:
                self._waiting.append(line)
            elif isinstance(dropped := self._waiting[-1], int):
                self._waiting[-1] = dropped + 1
            else:
                self._waiting.append(1)
            self._changed.notify_all()
            self._start()
        return len(line)

    def flush(self) -> None:
        """Wait a moment; once in vain, no more until everything is written."""
        with self._changed:
            if not self._stalled:
                self._stalled = not self._written(_MOMENT)

    def _written(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def _start(self) -> None:
        """Start the thread at the first line, and again in a forked process."""
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
            with suppress(RuntimeError):  # no more threads: the next line tries again
                self._thread.start()

    def _run(self) -> None:
        while True:
            line = self._next()
            with suppress(OSError, ValueError):  # a full disk; a stream that was closed
                _write(self._stream.fileno(), line.encode(errors="backslashreplace"))
            with self._changed:
                self._waiting.popleft()
                self._stalled = self._stalled and bool(self._waiting)
                self._changed.notify_all()

    def _next(self) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            line = self._waiting[0]
            if isinstance(line, int):
                # At a level that every setting shows.
                log = structlog.wrap_logger(structlog.ReturnLogger())
                line = self._waiting[0] = f"{log.error('log_lines_dropped', lines=line)}\n"
            return line


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _readable(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep from a terminal what it would obey: the errors of peers are their words."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = "".join(char if char.isprintable() else " " for char in value)
    return fields


def _json(fields: MutableMapping[str, Any], **options: Any) -> str:
    """Write JSON in ASCII, of which DEL is the one character to escape besides."""
    return json.dumps(fields, **options).replace("\x7f", "\\u007f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What last went wrong, in the words of the log; Unix times in milliseconds."""

    event: str
    error: str
    since: int
    #: None while it lasts.
    until: int | None = None


class Changes:
    """Logs a repeated condition when it changes, not when it repeats."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, recovered: str) -> None:
        self._log = log
        self._recovered = recovered
        self._last: tuple[str, str] | None = None
        #: The last one, also when it is over.
        self.trouble: Trouble | None = None

    def failing(self, event: str, error: str) -> None:
        """Warn about a failure unless it is the one of last time."""
        if self._last != (event, error):
            self._last = (event, error)
            self.noted(event, error)
            self._log.warning(event, error=error)

    def noted(self, event: str, error: str) -> None:
        """Keep a trouble that is logged otherwise."""
        self.trouble = Trouble(event=event, error=error, since=_now())

    def working(self) -> None:
        """Say once that the failure is over."""
        if self.trouble and self.trouble.until is None:
            self.trouble = replace(self.trouble, until=_now())
        if self._last is not None:
            self._last = None
            self._log.info(self._recovered)


def _now() -> int:
    return int(time.time() * 1000)
