"""The operator's listener: probes and metrics. It changes nothing."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from relay.errors import JournalError
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from relay.settings import Admin
from relay.settings.values import bound

#: Seconds after which a loop or a writer that has not gone on is stuck.
STUCK_AFTER = 10.0


class AdminServer:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(
        self,
        settings: Admin,
        journal: Journal | None,
        metrics: Metrics,
        draining: Callable[[], bool],
    ) -> None:
        self._settings = settings
        #: None until it can be opened: its volume is full.
        self.journal = journal
        self._metrics = metrics
        self._draining = draining
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self) -> int:
        """Listen; give the port."""
        self._move()
        await self._runner.setup()
        await web.TCPSite(self._runner, bound(self._settings.host), self._settings.port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener."""
        self._timer.cancel()
        await self._runner.cleanup()

    def _move(self) -> None:
        """Note, every second, that the loop goes on."""
        self._moved_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(1, self._move)

    async def _livez(self, _: web.Request) -> web.Response:
        """Alive means: the loop and the journal's writer both go on."""
        since = time.monotonic() - STUCK_AFTER
        if self._moved_at < since:
            return _refusal("stuck", "the event loop stood still")
        if self.journal and self.journal.moved_at < since:
            return _refusal("stuck", "the journal's writer stands still: its disk does not answer")
        return web.json_response({"status": "alive"})

    async def unready(self) -> str:
        """Say why a callback would not be answered 200; nothing: it would. Kafka is not asked."""
        if self._draining():
            return "draining"
        if not (self.journal and await self.journal.probe()):
            return "the journal is full or cannot be written"
        return ""

    async def _readyz(self, _: web.Request) -> web.Response:
        if why := await self.unready():
            return _refusal("not ready", why)
        return web.json_response({"status": "ready"})

    async def _exposition(self, _: web.Request) -> web.Response:
        if self.journal:
            # A file that cannot be read just now says nothing new.
            with suppress(JournalError):
                self._measure(self.journal)
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    def _measure(self, journal: Journal) -> None:
        oldest = journal.oldest_pending()
        age = time.time() - oldest / 1000 if oldest is not None else 0
        self._metrics.oldest_pending_seconds.set(max(age, 0))
        self._metrics.journal_bytes.set(journal.size())
        self._metrics.journal_log_bytes.set(journal.log_size())
        self._metrics.journal_volume_free_bytes.set(journal.volume_free())
        self._metrics.journal_used_bytes.set(journal.used())


def _refusal(status: str, why: str) -> web.Response:
    return web.json_response(
        {"status": status, "reason": why}, status=HTTPStatus.SERVICE_UNAVAILABLE
    )
