"""Connections that are renewed before their broker cuts them.

A broker may let a login hold for a while only (`connections.max.reauth.ms`). aiokafka never logs in
again on a connection, so each one would be cut by the first request after that, in mid-flight. Here
no request is sent on a connection whose time is nearly over: the next one goes over a new one.
"""

from collections.abc import Awaitable
from typing import Any

from aiokafka import client
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.protocol.admin import SaslAuthenticateRequest

from relay import clock

#: The part of a login's time for which a connection takes new requests.
_SHARE = 0.8


class Session(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection that knows how long its login holds."""

    #: Time of the boot clock from which on nothing more is sent; None if the login never ends.
    _ends: float | None = None
    #: Closes what is no longer used, whatever is still awaited; holds this connection until then.
    _closing: Any = None

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:  # noqa: FBT001, FBT002 - aiokafka's
        """Send a request; the answer to a login tells how long that holds."""
        answer: Awaitable[Any] = super().send(request, expect_response)
        return self._noted(answer) if isinstance(request, SaslAuthenticateRequest) else answer

    async def _noted(self, answer: Awaitable[Any]) -> Any:
        response = await answer
        if lifetime := getattr(response, "session_lifetime_ms", 0):
            self._ends = clock.boot() + lifetime / 1000 * _SHARE
        return response

    def connected(self) -> bool:
        """Whether the client may send another request here; if not, it opens a new connection."""
        if self._ends is not None and clock.boot() >= self._ends and self._closing is None:
            self._closing = self._loop.call_later(self._request_timeout, self.close)
            self._close_if_idle()
        return bool(super().connected()) and self._closing is None

    def _handle_frame(self, frame: bytes) -> None:
        super()._handle_frame(frame)
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


async def _create(host: str, port: int, **options: Any) -> Session:
    session = Session(host, port, **options)
    await session.connect()
    return session


def renewed() -> None:
    """Let every client of this process connect so."""
    client.create_conn = _create
