"""Feishu's long connection: fetches events over a WebSocket that relay opens, and keeps it open.

An event is acknowledged after `accept` has it on disk, never before. The connection's URL and the
app's secret appear in no log and no error.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import aiohttp
import orjson
import structlog

from relay.errors import (
    FeishuRefusedError,
    FeishuUnavailableError,
    ProxyError,
    RejectedError,
    RejectReason,
)
from relay.events import (
    Challenge,
    IgnoredReason,
    Interaction,
    LostReason,
    Outcome,
    RawCallback,
    Transport,
)
from relay.feishu.api import ClientConfig, Endpoint, Feishu, client_config
from relay.feishu.proxies import asked, describe, proxy_for, through
from relay.ingress import frames
from relay.ingress.frame_pb2 import Frame
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics

log = structlog.get_logger()

#: Seconds beyond the ping interval after which a silent connection counts as dead.
SILENCE = 30.0
#: Seconds between two looks at the clock: a pong can shorten the interval at any time.
TICK = 1.0
#: Events that may wait for their commit; past it nothing more is read.
MAX_IN_FLIGHT = 4096
#: Bytes of one WebSocket message.
MAX_MESSAGE_BYTES = 10 * 2**20
#: Seconds for the handshake, and for the closing one.
HANDSHAKE_TIMEOUT, CLOSE_TIMEOUT = 10.0, 2.0
#: Seconds that a stop waits for acknowledgements under way.
FINISH_TIMEOUT = 5.0
#: Seconds before the first try after a loss (at most), and before later ones; a connection that has
#: lasted for STABLE starts over.
FIRST_WAIT, LONGEST_WAIT, STABLE = 1.0, 60.0, 10.0
#: Seconds before another try, at most, where Feishu can be reached but connections die young.
LOST_WAIT = 5.0
#: Seconds before asking again while Feishu refuses the app.
REFUSED_WAIT = 120.0
#: How deep the doubling goes.
_MOST_DOUBLINGS = 6

_ACCEPTED, _FAILED = 200, 500
#: To a card's button or a link's preview: nothing to show, and no error.
_NOTHING = b"{}"
_SERVICE = re.compile("[0-9]{1,10}")
#: What Feishu's servers say in the headers of a refused handshake.
_STATUS, _MESSAGE, _DETAIL = "Handshake-Status", "Handshake-Msg", "Handshake-Autherrcode"

Accept = Callable[[RawCallback], Awaitable[Outcome | Challenge | Interaction]]


class LongConnection:
    """One app's long connection, from `run` to `stop`."""

    def __init__(
        self,
        app: str,
        credentials: tuple[str, str],
        feishu_url: str,
        accept: Accept,
        metrics: Metrics,
    ) -> None:
        """`credentials` are the app's id and secret."""
        self.app = app
        self._credentials = credentials
        self._feishu_url = feishu_url
        self._accept = accept
        self._metrics = metrics
        self._log = log.bind(app=app)
        self.changes = Changes(self._log, "long_connection_recovered")
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep the connection open until `stop`; nothing that Feishu does ends this."""
        self._metrics.connected(self.app, up=False)
        lost_in_a_row = 0
        try:
            async with aiohttp.ClientSession() as session:
                while not self._stop.is_set():
                    opened = time.monotonic()
                    reason = await self._live(session)
                    if time.monotonic() - opened > STABLE:
                        lost_in_a_row = 0
                    await self._rest(reason, lost_in_a_row)
                    lost_in_a_row += 1
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Take no more events, acknowledge those under way, and close."""
        self._stop.set()
        await self._stopped.wait()

    async def _live(self, session: aiohttp.ClientSession) -> LostReason:
        """Open one connection and serve it to its end; give why it ended."""
        opening = asyncio.create_task(self._open(session))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (opening, stopping):
                task.cancel()
        try:
            return await self._serve(*await opening)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            return LostReason.DROPPED
        except FeishuRefusedError as error:
            self.changes.failing("long_connection_refused", str(error))
            return LostReason.REFUSED
        except FeishuUnavailableError as error:
            self.changes.failing("long_connection_unreachable", str(error))
            return LostReason.UNREACHABLE
        except Exception as error:  # noqa: BLE001 - the supervisor: no fault may end the loop
            self.changes.failing("long_connection_failed", type(error).__name__)
            return LostReason.INTERNAL_ERROR

    async def _open(
        self, session: aiohttp.ClientSession
    ) -> tuple[aiohttp.ClientWebSocketResponse, Endpoint]:
        endpoint = await Feishu(session, self._feishu_url).endpoint(*self._credentials)
        return await _shake_hands(session, endpoint.url), endpoint

    async def _serve(
        self, socket: aiohttp.ClientWebSocketResponse, endpoint: Endpoint
    ) -> LostReason:
        connection = _Connection(self.app, socket, endpoint, self._accept, self._metrics)
        self.changes.working()
        self._log.info("long_connection_open", connection=connection.id)
        self._metrics.connected(self.app, up=True)
        try:
            reason = await connection.serve(self._stop)
        finally:
            self._metrics.connected(self.app, up=False)
        if not self._stop.is_set():
            self._log.info("long_connection_lost", connection=connection.id, reason=reason)
            self.changes.noted("long_connection_lost", reason)
        return reason

    async def _rest(self, reason: LostReason, lost_in_a_row: int) -> None:
        """Wait before the next attempt: shortly at first, then longer and longer."""
        if self._stop.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), _pause(reason, lost_in_a_row))
        if not self._stop.is_set():
            self._metrics.reconnecting(self.app, reason)


def _pause(reason: LostReason, lost_in_a_row: int) -> float:
    """Give the seconds to wait, with jitter: many clients have lost theirs at the same moment."""
    if reason is LostReason.REFUSED:
        return REFUSED_WAIT * random.uniform(0.5, 1)  # noqa: S311 - jitter
    if not lost_in_a_row:
        return FIRST_WAIT * random.random()  # noqa: S311 - jitter
    most = LONGEST_WAIT if reason is LostReason.UNREACHABLE else LOST_WAIT
    longest: float = min(most, FIRST_WAIT * 2 ** min(lost_in_a_row, _MOST_DOUBLINGS))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - jitter


async def _shake_hands(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    """Shake hands. Raises FeishuRefusedError or FeishuUnavailableError, without the URL."""
    proxy = None
    try:
        proxy = proxy_for(url)
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            return await session.ws_connect(
                url,
                proxy=through(proxy),
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
            )
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(error) from None
    except TimeoutError:
        message = f"the long connection's server does not answer{asked(url)}"
        raise FeishuUnavailableError(message) from None
    except (aiohttp.ClientError, OSError, ValueError, ProxyError) as error:
        said = f"cannot be reached: {describe(error, proxy)}{asked(url)}"
        raise FeishuUnavailableError(f"the long connection's server {said}") from None


def _refusal(error: aiohttp.WSServerHandshakeError) -> Exception:
    """Read why a handshake was refused."""
    named: Mapping[str, str] = error.headers or {}
    status = named.get(_STATUS, str(error.status))
    said = " ".join(named[name] for name in (_MESSAGE, _DETAIL) if name in named)
    sentence = f"the long connection's handshake was refused: {status} {said}".rstrip()
    if status == str(HTTPStatus.FORBIDDEN.value):
        return FeishuRefusedError(sentence)
    return FeishuUnavailableError(sentence)


class _Connection:
    """One open WebSocket: reads, acknowledges, pings, and notices silence."""

    def __init__(
        self,
        app: str,
        socket: aiohttp.ClientWebSocketResponse,
        endpoint: Endpoint,
        accept: Accept,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._socket = socket
        self._accept = accept
        self._metrics = metrics
        self._config: ClientConfig = endpoint.config
        query = parse_qs(urlsplit(endpoint.url).query)
        #: Names the connection in logs; it opens nothing.
        self.id = query.get("device_id", [""])[0]
        self._service = _int32(query.get("service_id", [""])[0])
        self._assembly = frames.Assembly()
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._heard = time.monotonic()
        self._log = log.bind(app=app)
        self._ignored: set[IgnoredReason] = set()

    async def serve(self, stop: asyncio.Event) -> LostReason:
        """Serve until the connection is lost or `stop` is set; then acknowledge and close."""
        reading = asyncio.create_task(self._read())
        watching = asyncio.create_task(self._watch())
        others = [asyncio.create_task(self._ping()), asyncio.create_task(stop.wait())]
        tasks = [reading, watching, *others]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = LostReason.DEAF if watching.done() else LostReason.DROPPED
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._finish(patient=stop.is_set())
        for task in tasks:
            if not task.cancelled():
                task.result()
        return reason

    async def _finish(self, *, patient: bool) -> None:
        """Send the acknowledgements under way, then close; on a dead connection do not wait."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=FINISH_TIMEOUT if patient else 0)
        # What goes on behind this finds the socket closed: Feishu sends the event again.
        with suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._socket.close()

    async def _read(self) -> None:
        """Take messages until the peer has no more."""
        while True:
            message = await self._socket.receive()
            self._heard = time.monotonic()
            if message.type is aiohttp.WSMsgType.BINARY:
                self._take(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                self._ignore(IgnoredReason.TEXT)
            else:
                return
            while len(self._under_way) >= MAX_IN_FLIGHT:
                self._room.clear()
                await self._room.wait()

    async def _watch(self) -> None:
        """End when nothing was heard for too long; give up parts whose others do not come."""
        while True:
            self._assembly.expire(time.monotonic())
            self._count_lost()
            limit = self._config.ping_interval + SILENCE
            left = self._heard + limit - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, TICK))

    async def _ping(self) -> None:
        """Ping at once and ever again. A peer that is gone is the reader's business."""
        while True:
            with suppress(ConnectionError, aiohttp.ClientError):
                await self._socket.send_bytes(frames.control("ping", self._service))
            pinged = time.monotonic()
            while (left := pinged + self._config.ping_interval - time.monotonic()) > 0:  # noqa: ASYNC110 - the end moves
                await asyncio.sleep(min(left, TICK))

    def _take(self, data: bytes) -> None:
        """Read one message; whatever it holds, the connection goes on."""
        try:
            frame = frames.read(data)
            named = frames.headers(frame)
            kind = (frame.method, named.get("type"))
            if kind == (frames.Method.DATA, "event"):
                self._take_event(frame, named)
            elif kind == (frames.Method.CONTROL, "pong"):
                self._configure(frame.payload)
            elif kind != (frames.Method.CONTROL, "ping"):
                self._ignore(IgnoredReason.UNKNOWN_KIND)
        except frames.NotAFrameError:
            self._ignore(IgnoredReason.NOT_A_FRAME)
        except frames.FrameError:
            self._ignore(IgnoredReason.IMPOSSIBLE_PARTS)

    def _take_event(self, frame: Frame, named: dict[str, str]) -> None:
        payload = self._assembly.add(named, frame.payload, time.monotonic())
        self._count_lost()
        if payload is None:
            return
        if frame.payload_encoding:
            # No capture of Feishu's traffic shows one: do not guess, and do not lose it either.
            self._ignore(IgnoredReason.ENCODED)
            work = self._acknowledge(frame, _FAILED, time.perf_counter())
        else:
            work = self._deliver(frame, payload)
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.set()

    def _configure(self, payload: bytes) -> None:
        """Take over what a pong says; garbage changes nothing."""
        if not payload:
            return
        with suppress(orjson.JSONDecodeError):
            self._config = client_config(orjson.loads(payload), self._config)

    async def _deliver(self, frame: Frame, payload: bytes) -> None:
        """Hand an event on, and answer when it is on disk."""
        started = time.perf_counter()
        raw = RawCallback(
            app=self._app,
            transport=Transport.LONG_CONNECTION,
            body=payload,
            received_at=int(time.time() * 1000),
        )
        code, answer = _FAILED, b""
        try:
            outcome = await self._accept(raw)
            code, answer = _ACCEPTED, _NOTHING if isinstance(outcome, Interaction) else b""
        except RejectedError as rejection:
            self._metrics.rejected(self._app, rejection.reason)
        except Exception as error:  # noqa: BLE001 - the last resort: answered, logged and counted
            self._log.warning("request_failed", error=type(error).__name__)
            self._metrics.rejected(self._app, RejectReason.INTERNAL_ERROR)
        await self._acknowledge(frame, code, started, answer)
        if code == _ACCEPTED:
            self._metrics.accept_seconds.observe(time.perf_counter() - started)

    async def _acknowledge(
        self, frame: Frame, code: int, started: float, answer: bytes = b""
    ) -> None:
        """Answer; if nobody is there any more, Feishu sends the event again."""
        milliseconds = int((time.perf_counter() - started) * 1000)
        with suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.send_bytes(frames.acknowledgement(frame, code, milliseconds, answer))

    def _count_lost(self) -> None:
        """Say that messages were given up of which parts are missing."""
        lost, self._assembly.lost = self._assembly.lost, 0
        for _ in range(lost):
            self._ignore(IgnoredReason.MISSING_PARTS)

    def _ignore(self, reason: IgnoredReason) -> None:
        """Count it, and say so once on each connection."""
        self._metrics.ignored(self._app, reason)
        if reason not in self._ignored:
            self._ignored.add(reason)
            self._log.warning("long_connection_ignored", reason=reason)


def _int32(text: str) -> int:
    """Read `service_id`; the protocol's field has 32 bits."""
    return int(text) if _SERVICE.fullmatch(text) and int(text) < 2**31 else 0
