"""The load generator, a process of its own: `python -m bench.load PLAN`, PLAN being JSON.

Closed loop: each connection sends its next request when the last one is answered. Open loop: a
request is due every 1/rate seconds whatever the server does, and its latency counts from then,
so a stall is charged to every request that it delays (no coordinated omission).
Prints two JSON lines: when it starts, and what it measured.
"""

import asyncio
import contextlib
import gc
import json
import os
import re
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

from bench.events import Requests
from bench.quantiles import Spread
from bench.timer import open_timer

_OK = b"HTTP/1.1 200 "
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LEAD = 0.05
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the generator. Times in seconds."""

    port: int
    #: The shared memory with the requests, and how many there are.
    descriptor: int
    count: int
    connections: int
    #: Requests per second; 0: closed loop.
    rate: float = 0.0
    warmup: float = 0.0
    #: Length of the measured window; the run also ends when the requests are used up.
    seconds: float
    #: Begin again at the first request (for a server that does not mind repeats).
    wrap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run saw. `answered` and `seconds` are of the measured window only."""

    answered: int
    seconds: float
    answered_in_all: int
    errors: int
    first_error: str
    latency: Spread
    #: How far behind its own schedule the generator was (open loop).
    lateness: Spread
    #: Share of one core that the generator used.
    cpu: float
    #: Monotonic time at which the first request was due.
    started: float


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one request under way."""

    __slots__ = ("_buffer", "_descriptor", "_run", "_transport", "due")

    #: Monotonic time from which the latency of the request under way counts.
    due: float

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._buffer = bytearray()
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the ways to send."""
        self._transport = cast("asyncio.Transport", transport)
        self._descriptor: int = transport.get_extra_info("socket").fileno()

    def send(self, request: memoryview) -> None:
        """Send at once: the transport would wait for the end of the loop's turn."""
        try:
            sent = os.write(self._descriptor, request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            self._transport.write(request[sent:])

    def data_received(self, data: bytes) -> None:
        """Answers have one length as a rule; only others are parsed."""
        run = self._run
        now = time.monotonic()
        usual = len(data) == run.answer_length and data.startswith(_OK) and not self._buffer
        if usual or self._complete(data):
            run.answered(self, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report it, unless the run is over."""
        self._run.lost(exc)

    def _complete(self, data: bytes) -> bool:
        self._buffer += data
        head, _, body = bytes(self._buffer).partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return False
        if head.startswith(_OK):
            self._run.answer_length = len(self._buffer)
        else:
            self._run.refused(bytes(self._buffer[:300]))
        self._buffer.clear()
        return True


class Run:
    """The state that all connections of one run share."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = Requests(plan.descriptor, plan.count)
        self._latencies = array("d")
        self._lateness = array("d")
        self._idle: deque[Connection] = deque()
        self._waiting: deque[tuple[int, float]] = deque()
        self._sent = 0
        self._answered = 0
        self._errors = 0
        self._first_error = ""
        self._over = asyncio.Event()
        self._cpu = 0.0
        self._start = self._begin = self._end = 0.0
        self.answer_length = -1

    async def measure(self) -> Load:
        """Do the whole run."""
        loop = asyncio.get_running_loop()
        for _ in range(self._plan.connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self._plan.port
            )
            self._idle.append(connection)
        self._start = time.monotonic() + _LEAD
        self._begin = self._start + self._plan.warmup
        self._end = self._begin + self._plan.seconds
        print(json.dumps({"started": self._start}), flush=True)
        loop.call_later(self._begin - time.monotonic(), self._note_cpu)
        await (self._open_loop() if self._plan.rate else self._closed_loop())
        return self._result()

    def answered(self, connection: Connection, now: float) -> None:
        """Take one answer and give the connection its next request."""
        self._answered += 1
        if self._plan.rate:
            if connection.due >= self._begin:
                self._latencies.append(now - connection.due)
            self._idle.append(connection)
            self._send_waiting()
            return
        if self._begin <= now < self._end:
            self._latencies.append(now - connection.due)
        self._send_next(connection, now)

    def refused(self, answer: bytes) -> None:
        """Count an answer other than 200."""
        self._error(answer.decode(errors="replace"))

    def lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed before the end."""
        if not self._over.is_set():
            self._error(f"connection closed by the server: {exc}")

    async def _closed_loop(self) -> None:
        await asyncio.sleep(self._start - time.monotonic())
        self._start = time.monotonic()
        while self._idle:
            self._send_next(self._idle.popleft(), time.monotonic())
        await self._until_over(self._end)

    async def _open_loop(self) -> None:
        loop = asyncio.get_running_loop()
        timer = open_timer(self._start, 1 / self._plan.rate)
        loop.add_reader(timer, self._tick, timer)
        try:
            await self._until_over(self._end)
        finally:
            loop.remove_reader(timer)
            os.close(timer)

    async def _until_over(self, end: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), end - time.monotonic() + _PATIENCE)
        if not self._over.is_set():
            self._over.set()
            self._error(f"{self._sent - self._answered} requests without an answer")

    def _tick(self, timer: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(timer, 8)
        now = time.monotonic()
        while not self._spent() and (due := self._start + self._sent / self._plan.rate) <= now:
            if due >= self._end:
                self._finish(due)
                return
            self._waiting.append((self._sent, due))
            self._lateness.append(now - due)
            self._sent += 1
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._idle:
            index, due = self._waiting.popleft()
            connection = self._idle.popleft()
            connection.due = due
            connection.send(self._requests[index])
        if not self._waiting and (self._spent() or time.monotonic() >= self._end):
            self._finish(self._end)

    def _send_next(self, connection: Connection, now: float) -> None:
        if now >= self._end or self._spent():
            self._finish(now)
            return
        connection.due = now
        connection.send(self._requests[self._sent % self._plan.count])
        self._sent += 1

    def _spent(self) -> bool:
        return self._sent >= self._plan.count and not self._plan.wrap

    def _finish(self, now: float) -> None:
        """No more requests; the run is over with the last answer."""
        if self._over.is_set():
            return
        if not self._plan.rate and self._spent():
            self._end = min(self._end, now)
        if self._answered >= self._sent:
            self._cpu = time.process_time() - self._cpu
            self._over.set()

    def _note_cpu(self) -> None:
        self._cpu = time.process_time()

    def _error(self, text: str) -> None:
        self._errors += 1
        self._first_error = self._first_error or text

    def _result(self) -> Load:
        seconds = max(self._end - self._begin, 1e-9)
        return Load(
            answered=len(self._latencies),
            seconds=seconds,
            answered_in_all=self._answered,
            errors=self._errors,
            first_error=self._first_error,
            latency=Spread.of(self._latencies),
            lateness=Spread.of(self._lateness),
            cpu=self._cpu / seconds,
            started=self._start,
        )


def main() -> None:
    """Run the plan on the command line."""
    plan = Plan(**json.loads(sys.argv[1]))
    if plan.rate:
        _go_first()
    gc.disable()
    result = uvloop.run(_measure(plan))
    print(json.dumps(asdict(result)), flush=True)


def _go_first() -> None:
    """Let nobody on the same core delay what has a schedule to keep, if that is permitted."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


async def _measure(plan: Plan) -> Load:
    return await Run(plan).measure()


if __name__ == "__main__":
    main()
