"""The webhook's connections: how many there may be, how long each may be idle, which goes first.

It looks into no request. What a balancer keeps open is kept for longer than it keeps it; a
connection on which half a request has come is not idle.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from aiohttp import web

#: Seconds for a request's head, from the connection's start or from the head's own first byte.
HEAD_TIMEOUT = 75

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """aiohttp's, which knows of idle connections, and not of heads that never end."""

    __slots__ = ("_due", "known")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        #: When a head must be whole; None: there is none on its way.
        self._due: asyncio.TimerHandle | None = None
        #: Whether something authentic has come on it: it is Feishu's, or a balancer's before us.
        self.known = False

    @property
    def idle(self) -> bool:
        """Whether no whole request is here."""
        return self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Note where a head begins, and where it is whole."""
        super().data_received(data)
        if self._waiter is None or self._waiter.done():
            self._forget_head()
        elif self._due is None:
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave no timer behind."""
        self._forget_head()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        """Close it if it was idle for long enough; half a request is on its way to an answer."""
        if self._due is None:
            super()._process_keepalive()
        else:
            # The next answer sets it again.
            self._keepalive_handle = None

    def _expect_head(self) -> None:
        self._due = self._loop.call_later(HEAD_TIMEOUT, self.force_close)

    def _forget_head(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class Listener(web.Server):
    """aiohttp's, with so many connections at most: for a new one, another one goes.

    First the oldest idle one on which nothing authentic has ever come, then the oldest other idle
    one, then the oldest whose request is not whole. What waits for the disk stays; where all do,
    the new one is closed.
    """

    def __init__(self, handler: Handler, most: int, **options: Any) -> None:
        super().__init__(handler, **options)
        self._most = most
        #: Those whose delivery is on its way to the disk.
        self.accepting: set[web.RequestHandler] = set()

    def __call__(self) -> Connection:
        """Make what serves one connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, and let go of one if they are too many."""
        goes = self._to_go(handler) if len(self._connections) >= self._most else None
        super().connection_made(handler, transport)
        if goes is not None:
            goes.force_close()

    def _to_go(self, newest: web.RequestHandler) -> web.RequestHandler:
        idle = unfinished = None
        for handler in cast("Iterable[Connection]", self._connections):
            if handler.transport is None or handler in self.accepting:
                continue
            if not handler.idle:
                unfinished = unfinished or handler
            elif handler.known:
                idle = idle or handler
            else:
                return handler
        return idle or unfinished or newest
