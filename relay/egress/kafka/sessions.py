"""Connections on which nothing is sent in vain.

A broker may let a login hold for a while only (`connections.max.reauth.ms`). aiokafka never logs in
again on a connection, so each one would be cut by the first request after that, in mid-flight. Here
no request is sent on a connection whose time is nearly over: the next one goes over a new one.

And a box between two networks may forget a connection that is quiet, and tell neither end. What
is sent on it then is never answered. So none is quiet for long, and whoever wants to use one that
was asks first.
"""

import asyncio
import socket
from collections.abc import Awaitable
from typing import Any

from aiokafka import client
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError, SaslAuthenticationFailed
from aiokafka.protocol.admin import ApiVersionRequest, SaslAuthenticateRequest
from aiokafka.protocol.metadata import MetadataRequest

from relay.observe import clock

#: The part of a login's time for which a connection takes new requests.
_SHARE = 0.8
#: Seconds for each step of a connection's making: beyond it another broker may answer.
SETUP_TIMEOUT = 5.0
#: Seconds without an answer after which a connection is asked before it is used, and for that one.
QUIET, PATIENCE = 5.0, 1.0
#: Seconds until the kernel asks a quiet peer, between two questions, and until it gives up: also
#: when what was sent is not received. Longer than a broker's quota may hold a client up (11 s).
_KEEPALIVE, _INTERVAL, _GIVE_UP = 10, 3, 12
#: What sets these; not every system has all.
_TCP_OPTIONS = {
    "TCP_KEEPIDLE": _KEEPALIVE,
    "TCP_KEEPINTVL": _INTERVAL,
    "TCP_KEEPCNT": _GIVE_UP // _INTERVAL,
    "TCP_USER_TIMEOUT": _GIVE_UP * 1000,
}


class Session(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection that knows how long its login holds, and since when it is quiet."""

    _request_timeout: float
    #: Time of the boot clock from which on nothing more is sent; None if the login never ends.
    _ends: float | None = None
    #: Closes what is no longer used, whatever is still awaited; holds this connection until then.
    _closing: Any = None
    #: Time of the boot clock at which the broker was last heard; None before it is connected.
    _heard_at: float | None = None
    #: Whether the broker is there: is being asked.
    _question: asyncio.Future[bool] | None = None

    async def connect(self) -> Any:
        """Connect, and log in."""
        patience = self._request_timeout
        self._request_timeout = min(patience, SETUP_TIMEOUT)
        try:
            ends = await super().connect()
        finally:
            self._request_timeout = patience
        _watched(self._writer.get_extra_info("socket"))
        self._heard_at = clock.boot()
        return ends

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:  # noqa: FBT001, FBT002 - aiokafka's
        """Send a request; the answer to a login tells how long that holds."""
        answer: Awaitable[Any] = super().send(request, expect_response)
        if isinstance(request, SaslAuthenticateRequest):
            return self._noted(answer)
        if isinstance(request, MetadataRequest) and self._on_close_cb is None:
            return self._owned(answer)
        return answer

    async def _owned(self, answer: Awaitable[Any]) -> Any:
        """Wait on a connection that no client knows yet: if it is given up, nobody closes it."""
        try:
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise

    async def _noted(self, answer: Awaitable[Any]) -> Any:
        response = await answer
        if self._sasl_mechanism == "OAUTHBEARER" and response.sasl_auth_bytes:
            # A refusal is no error there, but words to be answered (RFC 7628); aiokafka takes them
            # for a success, and asks on.
            self._sasl_oauth_token_provider.refused()
            words = bytes(response.sasl_auth_bytes).decode(errors="replace")
            raise SaslAuthenticationFailed(f"the broker does not take the token: {words}")
        if lifetime := getattr(response, "session_lifetime_ms", 0):
            self._ends = clock.boot() + lifetime / 1000 * _SHARE
        return response

    def connected(self) -> bool:
        """Whether the client may send another request here; if not, it opens a new connection."""
        if not super().connected():
            return False
        if self._max_idle_ms and self._quiet_for(self._max_idle_ms / 1000):
            self.close(reason=CloseReason.IDLE_DROP)
        if self._ends is not None and clock.boot() >= self._ends and self._closing is None:
            self._closing = self._loop.call_later(self._request_timeout, self.close)
            self._close_if_idle()
        return bool(super().connected()) and self._closing is None

    def _quiet_for(self, seconds: float) -> bool:
        """Whether nobody waits for an answer, and there was none for so long."""
        heard_at = self._heard_at
        return heard_at is not None and not self._requests and clock.boot() >= heard_at + seconds

    async def alive(self) -> bool:
        """Whether the broker is still there. Only after a silence it is asked."""
        if self._question is None:
            if not self._quiet_for(QUIET):
                return True
            self._question = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._question)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.send(ApiVersionRequest())
        except (KafkaError, OSError):
            return False
        else:
            return True
        finally:
            self._question = None

    def drop_if_quiet(self) -> None:
        """Close a connection that would have to be asked."""
        if self._quiet_for(QUIET):
            self.close(reason=CloseReason.IDLE_DROP)

    def _handle_frame(self, frame: bytes) -> None:
        super()._handle_frame(frame)
        self._heard_at = clock.boot()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Close it when nobody waits for an answer any more."""
        if self._closing is not None and not self._requests:
            self.close(reason=CloseReason.IDLE_DROP)

    def close(self, reason: Any = None, exc: BaseException | None = None) -> Any:
        """Close it, once."""
        if self._closing is not None:
            self._closing.cancel()
        return super().close(reason=reason, exc=exc)


def _watched(connection: Any) -> None:
    """Let the kernel look after a connection: it keeps it known, and finds out that it is dead."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def create(host: str, port: int, **options: Any) -> Session:
    """Connect, and log in; as aiokafka's own does. Certificates are read as they are now."""
    if certificates := options.get("ssl_context"):
        options["ssl_context"] = certificates.context()
    session = Session(host, port, **options)
    await session.connect()
    return session


_get_connection = client.AIOKafkaClient._get_conn


async def _get_live_connection(self: Any, node_id: Any, **options: Any) -> Any:
    """Give a connection that a request may be sent on; where one is dead the quiet ones may be."""
    connection = await _get_connection(self, node_id, **options)
    if not isinstance(connection, Session) or await connection.alive():
        return connection
    connection.close(reason=CloseReason.IDLE_DROP)
    for other in list(self._conns.values()):
        other.drop_if_quiet()
    return await _get_connection(self, node_id, **options)


def renewed() -> None:
    """Let every client of this process connect so."""
    client.create_conn = create
    client.AIOKafkaClient._get_conn = _get_live_connection
