"""Strangers' traffic beside good events: 8 MB/s of unsigned bodies, and how long good answers take.

`python -m bench.flood PORT SHAPE` is the stranger: it sends one shape of body over a few
connections, at that rate at most, until its standard input is closed; then it prints what it sent.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

from bench import servers
from bench.servers import BenchError, Relay
from bench.window import Bench

#: Bytes of bodies per second.
RATE = 8_000_000
GOOD_RATE = 50
_CONNECTIONS = 16
_LARGE = 1_000_000
_HEAD = b"POST /webhook/event HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
#: Bodies that cost a parser most, that look like Feishu's, and that are many.
SHAPES = {
    "numbers": b"[" + b"0e0," * (_LARGE // 4) + b"NaN]",
    "deep": b"[" * _LARGE,
    "digits": b"[" + b"9" * _LARGE,
    "objects": b'[{"a":' * (_LARGE // 6),
    "escapes": b'["' + b"\\ud83d" * (_LARGE // 6),
    "tokens": b'{"token":"a"}' * (_LARGE // 13),
    "envelope": b'{"encrypt":"' + b"A" * _LARGE + b'"}',
    "small": b'{"encrypt":"' + b"A" * 344 + b'"}',
}

Figures = dict[str, float]


def flood(bench: Bench) -> Figures:
    """Good answers at 50/s beside nothing, then beside each shape."""
    figures: Figures = {}
    with bench.relay("flood") as relay:
        for shape in ("nothing", *SHAPES):
            bench.say(f"8 MB/s of {shape} beside {GOOD_RATE} events/s")
            count = round(GOOD_RATE * (bench.options.seconds + bench.options.warmup))
            with bench.events.batch(count) as batch, _stranger(bench, relay, shape) as finished:
                load = bench.window(relay, batch, connections=8, rate=GOOD_RATE).load
                sent = finished()
            if load.errors or not sent:
                raise BenchError(f"{shape}: {load.first_error or 'nothing was sent'}")
            figures |= {
                f"flood.{shape}.p50_ms": load.latency.p50,
                f"flood.{shape}.p99_ms": load.latency.p99,
                f"flood.{shape}.mb_per_s": sent["bytes"] / sent["seconds"] / 1e6,
            }
        relay.wait_until_drained()
    return figures | {"flood.p99_ms": max(figures[f"flood.{shape}.p99_ms"] for shape in SHAPES)}


@contextmanager
def _stranger(bench: Bench, relay: Relay, shape: str) -> Iterator[Callable[[], dict[str, float]]]:
    """Send a shape beside the context; the function ends that and tells what was sent."""
    if shape not in SHAPES:
        yield lambda: {"bytes": 0, "seconds": 1}
        return
    command = (sys.executable, "-m", "bench.flood", str(relay.port), shape)
    with servers.running(command, cores=bench.cores.others) as stranger:

        def finished() -> dict[str, float]:
            output, _ = stranger.communicate()
            return dict(json.loads(output or "{}"))

        yield finished


class _Stranger:
    """Sends a body again and again, never faster than the rate."""

    def __init__(self, port: int, body: bytes) -> None:
        self._port = port
        self._request = _HEAD % len(body) + body
        self._size = len(body)
        self._begun = time.monotonic()
        #: Given to a connection, and written by it.
        self._sent = self._written = 0

    async def run(self) -> None:
        """Send until standard input ends."""
        senders = [asyncio.create_task(self._send()) for _ in range(_CONNECTIONS)]
        await asyncio.to_thread(sys.stdin.read)
        for sender in senders:
            sender.cancel()
        said = {"bytes": self._written, "seconds": time.monotonic() - self._begun}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    async def _send(self) -> None:
        while True:
            try:
                await self._keep_sending(*await asyncio.open_connection("127.0.0.1", self._port))
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # it was let go of

    async def _keep_sending(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due = self._begun + self._sent / RATE
            self._sent += self._size
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._written += self._size
            writer.write(self._request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            await reader.readexactly(length)


def main() -> None:
    """Be the stranger."""
    port, shape = sys.argv[1:]
    uvloop.run(_Stranger(int(port), SHAPES[shape]).run())


if __name__ == "__main__":
    main()
