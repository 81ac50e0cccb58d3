"""Feishu's side of the long connection, as tests want it: it does what it is told, also the wrong.

Written from the protocol; it shares only the generated frame classes with relay.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from relay.ingress.frame_pb2 import Frame
from tests.fakes import payload

APP_ID, APP_SECRET = "cli_gateway", "a-secret-that-nobody-may-see"
TICKET = "one-time-ticket-that-nobody-may-see"
SERVICE = 33554678
#: What Feishu's servers say by default; seconds.
CONFIG: dict[str, Any] = {
    "ReconnectCount": 1,
    "ReconnectInterval": 120,
    "ReconnectNonce": 30,
    "PingInterval": 120,
}


@dataclass
class Gateway:
    """An endpoint and a WebSocket; `url` is what a client takes for Feishu."""

    url: str = ""
    port: int = 0
    #: Where the WebSocket is, if not at `url`.
    socket_url: str = ""
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    #: What the next endpoint calls are answered, if not the address.
    refusals: list[dict[str, Any]] = field(default_factory=list)
    #: The same, where it is no JSON object.
    texts: list[str] = field(default_factory=list)
    #: Status and headers with which the next handshakes are refused.
    handshakes: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    called_at: list[float] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    closed_with: list[int | None] = field(default_factory=list)
    pings: list[Frame] = field(default_factory=list)
    acks: list[Frame] = field(default_factory=list)

    async def endpoint(self, request: web.Request) -> web.Response:
        self.calls.append(await request.json())
        self.called_at.append(time.monotonic())
        if self.texts:
            return web.Response(text=self.texts.pop(0))
        if self.refusals:
            return web.json_response(self.refusals.pop(0))
        path = f"ws/v2?device_id=d-{len(self.calls)}&service_id={SERVICE}&ticket={TICKET}"
        url = (self.socket_url or self.url.replace("http", "ws", 1)) + f"/{path}"
        return web.json_response(
            {"code": 0, "msg": "", "data": {"URL": url, "ClientConfig": self.config}}
        )

    async def client(self, request: web.Request) -> web.StreamResponse:
        if self.handshakes:
            status, headers = self.handshakes.pop(0)
            return web.Response(status=status, headers=headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                frame = Frame.FromString(message.data)
                (self.acks if frame.method else self.pings).append(frame)
        self.closed_with.append(socket.close_code)
        return socket

    async def push(self, data: bytes | Frame) -> None:
        """Send something over the latest connection."""
        content = data if isinstance(data, bytes) else data.SerializeToString()
        await self.sockets[-1].send_bytes(content)

    def codes(self) -> dict[str, int]:
        """Give the code of each acknowledged message."""
        return {
            header.value: json.loads(ack.payload)["code"]
            for ack in self.acks
            for header in ack.headers
            if header.key == "message_id"
        }


@asynccontextmanager
async def gateway(secure: ssl.SSLContext | None = None) -> AsyncIterator[Gateway]:
    """Listen on a free port of loopback, with TLS if there is a context for it."""
    place = Gateway()
    app = web.Application()
    app.router.add_post("/callback/ws/endpoint", place.endpoint)
    app.router.add_get("/ws/v2", place.client)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secure).start()
    place.port = runner.addresses[0][1]
    place.url = f"http://127.0.0.1:{place.port}"
    try:
        yield place
    finally:
        for socket in place.sockets:
            await asyncio.wait_for(socket.close(), 5)
        await runner.cleanup()


def event(event_id: str, **headers: str) -> Frame:
    """Make a frame with a whole event; headers can be changed, or left out by None."""
    return data(
        json.dumps(payload(event_id, token=""), ensure_ascii=False).encode(), event_id, headers
    )


def data(content: bytes, message_id: str, headers: Mapping[str, str] | None = None) -> Frame:
    """Make a data frame."""
    frame = Frame(seq_id=7, log_id=8234567890123456789, service=SERVICE, method=1)
    usual = {
        "type": "event",
        "message_id": message_id,
        "sum": "1",
        "seq": "0",
        "trace_id": f"trace-{message_id}",
        "timestamp": "1700000000000",
        "instance_id": "somewhere",
    }
    for key, value in (usual | dict(headers or {})).items():
        frame.headers.add(key=key, value=value)
    frame.payload = content
    frame.log_id_new = "logid-1"
    return frame


def control(kind: str, content: bytes = b"") -> Frame:
    """Make a ping or a pong."""
    frame = Frame(seq_id=0, log_id=0, service=SERVICE, method=0)
    frame.headers.add(key="type", value=kind)
    frame.payload = content
    return frame
