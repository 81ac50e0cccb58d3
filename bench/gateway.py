"""Feishu's side of one long connection: `python -m bench.gateway PORT`.

Serves the endpoint call and the WebSocket. Reads one JSON plan per line from standard input, pushes
the events that it names, and prints one JSON result per line. What was not acknowledged when a
connection ends is pushed again on the next one, as Feishu does.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from bench.events import event_id, payload
from bench.quantiles import Spread
from relay.ingress.frame_pb2 import Frame

_PATIENCE = 120.0
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to push. With a rate it is an open loop: each event is due at its time."""

    run: str
    first: int
    count: int
    #: Events that may wait for their acknowledgement at once.
    in_flight: int = 256
    rate: float = 0.0
    #: End this many seconds after the last event, acknowledged or not; 0: wait for all.
    abandon: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a plan. Times in monotonic seconds."""

    acknowledged: list[int]
    refused: int
    began: float
    ended: float
    latency: Spread


@dataclass(slots=True)
class _Push:
    """One plan at work."""

    plan: Plan
    #: Index → the moment from which its acknowledgement is late.
    waiting: dict[int, float] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, index: int, code: int, now: float) -> None:
        due = self.waiting.pop(index, None)
        if due is None:
            return
        if code == _OK:
            self.acknowledged.append(index)
            self.latencies.append(now - due)
        else:
            self.refused += 1
        self.changed.set()


class Gateway:
    """One app's gateway with at most one client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: web.WebSocketResponse | None = None
        self._connected = asyncio.Event()
        self._push: _Push | None = None
        #: Monotonic times of all endpoint calls.
        self.calls: list[float] = []

    async def serve(self) -> None:
        """Listen until the process ends."""
        app = web.Application()
        app.router.add_post("/callback/ws/endpoint", self._endpoint)
        app.router.add_get("/ws", self._client)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()

    async def _endpoint(self, _: web.Request) -> web.Response:
        self.calls.append(time.monotonic())
        url = f"ws://127.0.0.1:{self._port}/ws?device_id=bench&service_id=1"
        config = {
            "ReconnectCount": -1,
            "ReconnectInterval": 1,
            "ReconnectNonce": 1,
            "PingInterval": 120,
        }
        return web.json_response({"code": 0, "data": {"URL": url, "ClientConfig": config}})

    async def _client(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0, autoping=True)
        await socket.prepare(request)
        self._socket = socket
        self._connected.set()
        if self._push:
            for index in list(self._push.waiting):
                await self._send(self._push.plan, index)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and self._push:
                self._read(self._push, message.data)
        if self._socket is socket:
            self._connected.clear()
        return socket

    @staticmethod
    def _read(push: _Push, data: bytes) -> None:
        frame = Frame.FromString(data)
        if frame.method == 1:
            code = json.loads(frame.payload)["code"]
            push.answer(frame.seq_id, code, time.monotonic())

    async def push(self, plan: Plan) -> Result:
        """Push all events of a plan and wait for their acknowledgements."""
        push = self._push = _Push(plan=plan)
        await asyncio.wait_for(self._connected.wait(), _PATIENCE)
        began = time.monotonic()
        for number in range(plan.count):
            due = await self._turn(push, began, number)
            push.waiting[plan.first + number] = due
            await self._send(plan, plan.first + number)
        deadline = time.monotonic() + (plan.abandon or _PATIENCE)
        while push.waiting and time.monotonic() < deadline:
            push.changed.clear()
            try:
                await asyncio.wait_for(push.changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        self._push = None
        return Result(
            acknowledged=push.acknowledged,
            refused=push.refused,
            began=began,
            ended=time.monotonic(),
            latency=Spread.of(push.latencies),
        )

    @staticmethod
    async def _turn(push: _Push, began: float, number: int) -> float:
        """Wait until an event may go; give the moment from which its latency counts."""
        if push.plan.rate:
            due = began + number / push.plan.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            return due
        while len(push.waiting) >= push.plan.in_flight:
            push.changed.clear()
            await push.changed.wait()
        return time.monotonic()

    async def _send(self, plan: Plan, index: int) -> None:
        """Push one event, if anybody is there."""
        if self._socket is None or self._socket.closed:
            return
        try:
            await self._socket.send_bytes(_frame(plan.run, index))
        except ConnectionError:
            self._connected.clear()

    async def drop(self) -> float:
        """Close the connection; give the seconds until the client asked for the next one."""
        await asyncio.wait_for(self._connected.wait(), _PATIENCE)
        assert self._socket is not None
        before = len(self.calls)
        await self._socket.close()
        at = time.monotonic()
        while len(self.calls) == before:
            if time.monotonic() > at + _PATIENCE:
                raise TimeoutError("the client did not come back")
            await asyncio.sleep(0.001)
        return self.calls[-1] - at


def _frame(run: str, index: int) -> bytes:
    frame = Frame(seq_id=index, log_id=2**63 + index, service=1, method=1)
    now = int(time.time() * 1000)
    for key, value in (
        ("type", "event"),
        ("message_id", event_id(index, run)),
        ("sum", "1"),
        ("seq", "0"),
        ("trace_id", f"trace-{index}"),
        ("timestamp", str(now)),
        ("instance_id", "bench"),
    ):
        frame.headers.add(key=key, value=value)
    frame.payload = payload(index, run, now)
    frame.log_id_new = f"log-{index}"
    return frame.SerializeToString()


async def main(port: int) -> None:
    """Do what the lines say."""
    gateway = Gateway(port)
    await gateway.serve()
    reader = asyncio.StreamReader(limit=2**20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := await reader.readline():
        order: dict[str, Any] = json.loads(line)
        if order.get("drop"):
            print(json.dumps(await gateway.drop()), flush=True)
        else:
            print(json.dumps(asdict(await gateway.push(Plan(**order)))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
