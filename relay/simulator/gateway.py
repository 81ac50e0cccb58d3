"""Feishu's side of the long connection, played: the endpoint, the WebSocket, one client per event.

It keeps the protocol's rules, so that Feishu's own clients believe it; it invents no events.
"""

import asyncio
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from relay.ingress import frames
from relay.ingress.frame_pb2 import Frame

#: Feishu takes a delivery for failed after so many seconds.
ANSWER_LIMIT = 3.0
#: What Feishu says when an app has more clients than it may.
TOO_MANY_CLIENTS, MOST_CLIENTS = 1000040350, 50
WRONG_CREDENTIALS = 514
_SERVICE = 33554678
_ACCEPTED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Whom the gateway lets in, and what it tells them."""

    app_id: str = "cli_9f5343c580712544"
    app_secret: str = "dev-app-secret"  # noqa: S105 - guards nothing
    #: Seconds; `ClientConfig` of the endpoint call and of each pong.
    ping_interval: int = 120
    reconnect_interval: int = 120
    reconnect_nonce: int = 30
    reconnect_count: int = -1
    #: Bytes of one part; a longer event is split. 0: never.
    max_part: int = 0
    seed: int | None = None


@dataclass(slots=True)
class _Client:
    """One open connection."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    #: SeqID → who waits for the acknowledgement.
    waiting: dict[int, asyncio.Future[int]] = field(default_factory=dict)


class Gateway:
    """The long connections of one app; `routes` go into an aiohttp application."""

    def __init__(self, options: GatewayOptions, host: str = "") -> None:
        """`host` is `host:port` as clients see it."""
        self.options = options
        self.host = host
        self._random = random.Random(options.seed)  # noqa: S311 - a simulation
        self._tickets: set[str] = set()
        self._clients: list[_Client] = []
        self._sequence = count(1)
        #: Pings heard, of all clients.
        self.pings = 0
        #: Set whenever a client has come.
        self.arrived = asyncio.Event()

    @property
    def clients(self) -> int:
        """How many are online."""
        return len(self._clients)

    def routes(self) -> list[web.RouteDef]:
        """Give the endpoint call and the WebSocket."""
        return [
            web.post("/callback/ws/endpoint", self._endpoint),
            web.get("/ws/v2", self._serve),
        ]

    async def deliver(self, payload: bytes, message_id: str) -> int:
        """Push an event to one client; give the code of its acknowledgement, 0 if none comes."""
        if not self._clients:
            return 0
        client = self._random.choice(self._clients)
        sequence = next(self._sequence)
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        client.waiting[sequence] = answered
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                for frame in self._frames(payload, message_id, sequence):
                    await client.socket.send_bytes(frame.SerializeToString())
                return await answered
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            return 0
        finally:
            client.waiting.pop(sequence, None)

    async def drop(self, *, clean: bool = True) -> None:
        """End the connection of a random client: with a closing handshake, or without a word."""
        if not self._clients:
            return
        client = self._random.choice(self._clients)
        if clean:
            await client.socket.close()
        elif client.transport is not None:
            client.transport.abort()

    async def close(self) -> None:
        """Close all connections."""
        for client in list(self._clients):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await client.socket.close()

    async def _endpoint(self, request: web.Request) -> web.Response:
        """Give an address that can be used once."""
        asked = await request.json()
        wanted = (self.options.app_id, self.options.app_secret)
        if (asked.get("AppID"), asked.get("AppSecret")) != wanted:
            return web.json_response({"code": WRONG_CREDENTIALS, "msg": "app auth failed"})
        if self.clients >= MOST_CLIENTS:
            return web.json_response({"code": TOO_MANY_CLIENTS, "msg": "too many connections"})
        ticket = secrets.token_urlsafe(16)
        self._tickets.add(ticket)
        number = self._random.randrange(10**18, 10**19)
        url = (
            f"ws://{self.host or request.host}/ws/v2?fpid=493&aid=552564&device_id={number}"
            f"&access_key={ticket}&service_id={_SERVICE}&ticket={ticket}"
        )
        return web.json_response(
            {"code": 0, "msg": "", "data": {"URL": url, "ClientConfig": self._config()}}
        )

    def _config(self) -> dict[str, int]:
        return {
            "ReconnectCount": self.options.reconnect_count,
            "ReconnectInterval": self.options.reconnect_interval,
            "ReconnectNonce": self.options.reconnect_nonce,
            "PingInterval": self.options.ping_interval,
        }

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            refusal = {
                "Handshake-Status": str(WRONG_CREDENTIALS),
                "Handshake-Msg": "ticket is not valid",
            }
            return web.Response(status=400, headers=refusal)
        self._tickets.discard(ticket)
        socket = web.WebSocketResponse(timeout=1)
        await socket.prepare(request)
        client = _Client(socket, request.transport)
        self._clients.append(client)
        self.arrived.set()
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    await self._take(client, message.data)
        finally:
            self._clients.remove(client)
            for answered in client.waiting.values():
                if not answered.done():
                    answered.set_exception(ConnectionError())
        return socket

    async def _take(self, client: _Client, data: bytes) -> None:
        """Read what a client sends: a ping, or an acknowledgement."""
        try:
            frame = frames.read(data)
        except frames.FrameError:
            return
        kind = frames.headers(frame).get("type")
        if frame.method == frames.Method.CONTROL and kind == "ping":
            self.pings += 1
            pong = frames.control("pong", _SERVICE, orjson.dumps(self._config()))
            await client.socket.send_bytes(pong)
        elif frame.method == frames.Method.DATA:
            answered = client.waiting.get(frame.seq_id)
            if answered is not None and not answered.done():
                answered.set_result(_code(frame.payload))

    def _frames(self, payload: bytes, message_id: str, sequence: int) -> list[Frame]:
        """Split an event into parts, anywhere, also within a character."""
        size = self.options.max_part or len(payload) or 1
        parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        trace, now = f"{self._random.getrandbits(128):032x}", str(int(time.time() * 1000))
        made = []
        for number, part in enumerate(parts):
            frame = Frame(
                seq_id=sequence,
                log_id=self._random.getrandbits(64),
                service=_SERVICE,
                method=frames.Method.DATA,
                payload=part,
                log_id_new=trace,
            )
            for key, value in (
                ("type", "event"),
                ("message_id", message_id),
                ("sum", str(len(parts))),
                ("seq", str(number)),
                ("trace_id", trace),
                ("timestamp", now),
                ("instance_id", "simulated"),
            ):
                frame.headers.add(key=key, value=value)
            made.append(frame)
        return made


def _code(payload: bytes) -> int:
    """Read an acknowledgement's code; one that cannot be read says nothing."""
    with suppress(orjson.JSONDecodeError):
        answer: Any = orjson.loads(payload)
        if isinstance(answer, dict) and isinstance(answer.get("code"), int):
            return int(answer["code"])
    return 0
