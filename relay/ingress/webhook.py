"""Feishu's webhook over HTTP: reads a request within bounds, hands it on, answers.

Nothing here looks into a body. Feishu gives 3 seconds in all and counts only a status of 200.
"""

import asyncio
import re
import resource
import time
from collections.abc import Awaitable, Callable, Collection
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import orjson
import structlog
from aiohttp import HttpVersion11, hdrs, web
from multidict import istr

from relay.contract import exactjson
from relay.errors import RejectedError, RejectReason
from relay.events import Challenge, Interaction, Outcome, RawCallback, Transport
from relay.ingress.listener import Connection, Listener
from relay.observe.metrics import Metrics
from relay.settings import Webhook
from relay.settings.values import bound

log = structlog.get_logger()

#: Where the app named `default` is called; `/webhook/event/{name}` is any app.
PATH = "/webhook/event"
DEFAULT_APP = "default"
#: Where balancers ask whether callbacks are taken here.
HEALTH_PATH = "/"
#: Seconds for which that answer is good, whoever asks, and how often.
HEALTH_FOR = 1.0
#: Seconds after which Feishu, or a proxy before us, may come again.
RETRY_AFTER = "5"
#: Bytes of all bodies that are being read, at most; each has its own limit beside it.
MAX_READING_BYTES = 64 * 2**20
#: Connections at most; each takes some 20 kB. Descriptors that are left for all else.
MAX_CONNECTIONS, SPARE_DESCRIPTORS = 2048, 128
#: Seconds that a stop waits for requests which are being answered.
SHUTDOWN_TIMEOUT = 5

#: Feishu's own headers; `istr` spares multidict the folding of case at each look.
_TIMESTAMP, _NONCE = istr("X-Lark-Request-Timestamp"), istr("X-Lark-Request-Nonce")
_SIGNATURE = istr("X-Lark-Signature")
_TRACEPARENT = istr("traceparent")
#: What the absolute form of a request's target has before its path.
_ORIGIN = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_JSON = {hdrs.CONTENT_TYPE: "application/json", hdrs.SERVER: "relay"}
_SUCCESS = b'{"msg":"success"}'
#: To a card's button or a link's preview: nothing to show, and no error.
_NOTHING = b"{}"
_READY, _NOT_READY = b'{"status":"ready"}', b'{"status":"not ready"}'

#: Refusals after which the rest of a body may still be on its way.
_LEFT_UNREAD = frozenset(
    {
        RejectReason.TOO_LARGE,
        RejectReason.TIMEOUT,
        RejectReason.MALFORMED,
        RejectReason.OVERLOADED,
    }
)

Accept = Callable[[RawCallback], Awaitable[Outcome | Challenge | Interaction]]


class WebhookServer:
    """The listener for Feishu, from `start` to `stop`."""

    def __init__(
        self,
        settings: Webhook,
        apps: Collection[str],
        accept: Accept,
        metrics: Metrics,
        unready: Callable[[], Awaitable[str]],
    ) -> None:
        """`unready` says why no callback would be taken; nothing: one would."""
        self._settings = settings
        self._apps = frozenset(apps)
        self._accept = accept
        self._metrics = metrics
        self._reading_bytes = 0
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Feishu signs the bytes on the wire, so a compressed body is not unpacked.
        self._server = Listener(
            self._answer,
            max(1, min(MAX_CONNECTIONS, descriptors - SPARE_DESCRIPTORS)),
            access_log=None,
            keepalive_timeout=settings.idle_timeout,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=SHUTDOWN_TIMEOUT)
        self._success = _Success()
        self._leaving = self._draining = False
        self._unready = unready
        self._why_not, self._ask_at = "starting", 0.0

    async def start(self) -> int:
        """Listen; give the port, which the system chooses where the settings say 0."""
        await self._runner.setup()
        host, port = bound(self._settings.host), self._settings.port
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        await site.start()
        return int(self._runner.addresses[0][1])

    def leave(self) -> None:
        """Close each connection after its next answer, so that callers find another replica."""
        self._leaving = True

    async def stop(self) -> None:
        """Close the listener, then answer what is under way."""
        self._leaving = self._draining = True
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        app = _app(request.raw_path)
        if app is None and _asks_health(request):
            return await self._health()
        started = time.perf_counter()
        try:
            outcome = await self._receive(request, app)
            self._metrics.accept_seconds.observe(time.perf_counter() - started)
            if isinstance(outcome, Challenge):
                return self._parting(_json(exactjson.dumps({"challenge": outcome.value})))
            if isinstance(outcome, Interaction):
                return self._parting(_json(_NOTHING))
            if _is_plain(request) and not self._leaving:
                return self._success
            return self._parting(_json(_SUCCESS))
        except RejectedError as error:
            # Its traceback refers to this frame, and so to the body: a cycle, kept for long.
            rejection = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - the last resort: answered, logged and counted
            log.warning("request_failed", error=type(error).__name__)
            rejection = RejectedError(RejectReason.INTERNAL_ERROR, "relay failed to answer")
        # A name that is not configured is a stranger's text: no label for it.
        self._metrics.rejected(app if app in self._apps else "", rejection.reason)
        return self._parting(_refusal(rejection))

    async def _health(self) -> web.Response:
        """Say no more than what a balancer must know: anybody may ask."""
        if (now := time.monotonic()) >= self._ask_at:
            self._ask_at = now + HEALTH_FOR
            self._why_not = await self._unready()
        if not self._why_not and not self._leaving:
            return _json(_READY)
        response = _json(_NOT_READY)
        response.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
        response.headers[hdrs.RETRY_AFTER] = RETRY_AFTER
        return self._parting(response)

    def _parting(self, response: web.Response) -> web.Response:
        if self._leaving:
            response.force_close()
        return response

    async def _receive(
        self, request: web.BaseRequest, app: str | None
    ) -> Outcome | Challenge | Interaction:
        if app is None:
            detail = f"there is nothing at this path: events go to {PATH}, or to {PATH}/NAME"
            raise RejectedError(RejectReason.UNKNOWN_PATH, detail)
        if request.method != hdrs.METH_POST:
            raise RejectedError(RejectReason.METHOD, "only POST is answered here")
        if self._draining:
            raise RejectedError(RejectReason.DRAINING, "this replica is stopping")
        body = await self._read(request)
        headers = request.headers
        raw = RawCallback(
            app=app,
            transport=Transport.WEBHOOK,
            body=body,
            received_at=int(time.time() * 1000),
            timestamp=headers.get(_TIMESTAMP, ""),
            nonce=headers.get(_NONCE, ""),
            signature=headers.get(_SIGNATURE, ""),
            traceparent=headers.get(_TRACEPARENT, ""),
        )
        connection = cast("Connection", request.protocol)
        self._server.accepting.add(connection)
        try:
            outcome = await self._accept(raw)
        finally:
            self._server.accepting.discard(connection)
        connection.known = True
        return outcome

    async def _read(self, request: web.BaseRequest) -> bytes:
        """Read the body within its bounds of size and time; what is whole already costs nothing."""
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            self._check_size(len(body))
            return body
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                while chunk := await content.readany():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._reading_bytes += len(chunk)
                    self._check_size(size)
                    self._check_room()
        except TimeoutError:
            raise RejectedError(RejectReason.TIMEOUT, "the body did not come in time") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise RejectedError(RejectReason.MALFORMED, "the body broke off") from error
        finally:
            self._reading_bytes -= size
        return b"".join(chunks)

    def _check_room(self) -> None:
        if self._reading_bytes > MAX_READING_BYTES:
            raise RejectedError(RejectReason.OVERLOADED, "too many bodies are being read")

    def _check_size(self, size: int) -> None:
        if size > self._settings.max_body_bytes:
            detail = f"the body has more than {self._settings.max_body_bytes} bytes"
            raise RejectedError(RejectReason.TOO_LARGE, detail)


def _app(target: str) -> str | None:
    """Name the app that a request's target means, in whatever form a proxy has written it."""
    if target == PATH:
        return DEFAULT_APP
    path = _path(target)
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or parts[:2] != PATH.split("/")[1:]:
        return None
    names = parts[2:] or [DEFAULT_APP]
    return names[0] if len(names) == 1 else None


def _path(target: str) -> str:
    return re.split("[?#]", _ORIGIN.sub("", target), maxsplit=1)[0]


def _asks_health(request: web.BaseRequest) -> bool:
    asking = request.method in {hdrs.METH_GET, hdrs.METH_HEAD}
    return asking and _path(request.raw_path) == HEALTH_PATH


class _Success(web.StreamResponse):
    """The answer that nearly every request gets, for a connection that stays open.

    It is the same each time, so its bytes are made once a second (of the date); aiohttp's own
    response takes a third of all the time that HTTP takes.
    """

    keep_alive = True

    def __init__(self) -> None:
        super().__init__()
        self._made_at, self._answer = 0, b""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the whole answer."""
        now = int(time.time())
        if now != self._made_at:
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: relay\r\n"
                f"Content-Length: {len(_SUCCESS)}\r\nDate: {formatdate(now, usegmt=True)}\r\n\r\n"
            )
            self._made_at, self._answer = now, head.encode() + _SUCCESS
        if request.transport is not None:
            request.transport.write(self._answer)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has sent all."""


def _is_plain(request: web.BaseRequest) -> bool:
    """Whether the connection stays, and its client has read all earlier answers."""
    transport = request.transport
    return (
        request.version == HttpVersion11
        and request.keep_alive
        and transport is not None
        and not transport.is_closing()
        and not transport.get_write_buffer_size()
    )


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers=_JSON)


def _refusal(error: RejectedError) -> web.Response:
    body = orjson.dumps({"error": error.reason, "detail": error.detail})
    response = web.Response(status=error.status, body=body, headers=_JSON)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers[hdrs.RETRY_AFTER] = RETRY_AFTER
    if error.reason is RejectReason.METHOD:
        response.headers[hdrs.ALLOW] = hdrs.METH_POST
    if error.reason in _LEFT_UNREAD:
        response.force_close()
    return response
