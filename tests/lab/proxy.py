"""A small TCP proxy between two processes, to cut, delay and half-open what runs through it."""

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

#: Bytes read at once.
BITE = 65_536


class Line(StrEnum):
    """What the network between the two does."""

    OPEN = "open"
    #: Every connection is closed, and new ones too.
    CUT = "cut"
    #: Bytes arrive later.
    DELAYED = "delayed"
    #: Connections stay open, and nothing arrives: neither side hears of the other.
    HALF_OPEN = "half_open"


class Proxy:
    """Listens on a port of loopback and passes on to another."""

    def __init__(self, port: int, target: int, *, forgets_after: float = math.inf) -> None:
        """`forgets_after` so many seconds a connection that was quiet, and tells neither end."""
        self.port = port
        #: How many were forgotten while somebody still counted on them.
        self.forgotten = 0
        self._memory = forgets_after
        self._target = target
        self._line = Line.OPEN
        self._delay = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Close everything."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, line: Line, delay: float = 0.0) -> None:
        """Change what the network does; `delay` in seconds for each bite."""
        self._line, self._delay = line, delay
        if line is Line.HALF_OPEN:
            self._flows.clear()
        else:
            self._flows.set()
        if line is Line.CUT:
            for writer in self._writers:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            # Python 3.11 prints the traceback of a connection's task that was cancelled.
            with suppress(asyncio.CancelledError):
                await self._joined(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._line is Line.CUT:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, there[1]}
        self._writers |= ends
        entry = _Entry(used_at=time.monotonic())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, there[1], entry))
                group.create_task(self._pass_on(there[0], writer, entry))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, entry: "_Entry"
    ) -> None:
        with suppress(OSError):
            while bite := await reader.read(BITE):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flows.wait()
                if self._remembers(entry):
                    writer.write(bite)
                    await writer.drain()
        # Of the end of a connection that is forgotten the other end does not hear either.
        if self._remembers(entry):
            writer.transport.abort()

    def _remembers(self, entry: "_Entry") -> bool:
        now = time.monotonic()
        if not entry.forgotten and now < entry.used_at + self._memory:
            entry.used_at = now
            return True
        self.forgotten += not entry.forgotten
        entry.forgotten = True
        return False


@dataclass
class _Entry:
    """What a box between two networks remembers of a connection."""

    used_at: float
    forgotten: bool = False
