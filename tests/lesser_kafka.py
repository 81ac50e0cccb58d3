"""A Kafka that can do less: a proxy that hides requests from ApiVersions, or refuses them."""

import asyncio
import struct
from collections.abc import Collection
from contextlib import suppress

_API_VERSIONS, _INIT_PRODUCER_ID = 18, 22


class LesserKafka:
    """Listens on a port of loopback and passes on to a broker what it admits to know."""

    def __init__(self, target: int, hidden: Collection[int], unnumbered: int = 0) -> None:
        """`unnumbered` is the error that whoever wants to be an idempotent producer gets."""
        self.port = 0
        #: Requests that it does not know, by Kafka's numbers, and how often one came all the same.
        self._hidden = frozenset(hidden)
        self._unnumbered = unnumbered
        self.refused = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything, and wait until it is."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
        #: Numbers of the questions for ApiVersions that are under way.
        asked: set[int] = set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, there, writer, asked))
                group.create_task(self._answers(there_reader, writer, asked))
        finally:
            for end in (writer, there):
                end.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        asked: set[int],
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                api, _, number = struct.unpack_from(">hhi", frame)
                if api in self._hidden:
                    # As Kafka does with what it does not know.
                    self.refused += 1
                    break
                if api == _INIT_PRODUCER_ID and self._unnumbered:
                    # Number, throttling, error, and what would be the producer's.
                    answer = struct.pack(">iihqh", number, 0, self._unnumbered, -1, -1)
                    back.write(struct.pack(">i", len(answer)) + answer)
                    continue
                if api == _API_VERSIONS:
                    asked.add(number)
                writer.write(struct.pack(">i", len(frame)) + frame)
        writer.transport.abort()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: set[int]
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                (number,) = struct.unpack_from(">i", frame)
                if number in asked:
                    asked.discard(number)
                    frame = self._less(frame)
                writer.write(struct.pack(">i", len(frame)) + frame)
        writer.transport.abort()

    def _less(self, frame: bytes) -> bytes:
        """Leave out what is hidden; versions 0 to 2 of the answer differ behind that only."""
        head, (count,) = frame[:6], struct.unpack_from(">i", frame, 6)
        known = [struct.unpack_from(">hhh", frame, 10 + 6 * place) for place in range(count)]
        shown = [one for one in known if one[0] not in self._hidden]
        listed = b"".join(struct.pack(">hhh", *one) for one in shown)
        return head + struct.pack(">i", len(shown)) + listed + frame[10 + 6 * count :]


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)
