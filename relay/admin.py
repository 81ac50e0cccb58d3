"""The operator's listener: probes and metrics. It changes nothing."""

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


class AdminServer:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(
        self, settings: Admin, journal: Journal, metrics: Metrics, draining: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._metrics = metrics
        self._draining = draining
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self) -> int:
        """Listen; give the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener."""
        await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready means: a callback would be answered 200. Kafka is not asked."""
        if self._draining():
            return _unready("draining")
        if not await self._journal.probe():
            return _unready("the journal is full or cannot be written")
        return web.json_response({"status": "ready"})

    async def _exposition(self, _: web.Request) -> web.Response:
        # A file that cannot be read just now says nothing new.
        with suppress(JournalError):
            self._measure()
        return web.Response(
            body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    def _measure(self) -> None:
        oldest = self._journal.oldest_pending()
        age = time.time() - oldest / 1000 if oldest is not None else 0
        self._metrics.oldest_pending_seconds.set(max(age, 0))
        self._metrics.journal_bytes.set(self._journal.size())
        self._metrics.journal_used_bytes.set(self._journal.used())


def _unready(why: str) -> web.Response:
    return web.json_response(
        {"status": "not ready", "reason": why}, status=HTTPStatus.SERVICE_UNAVAILABLE
    )
