"""This replica, as its own console and its peers' are told.

What is read from the journal is read in a thread, on a connection of its own, within limits; the
event loop, and the thread that writes, never wait for it.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from relay import __version__
from relay.console.said import Disk, Link, Overview
from relay.errors import JournalError
from relay.journal.journal import Journal
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics

T = TypeVar("T")

#: Seconds for which an overview serves everybody who asks.
FRESH = 0.9
#: Reads at a time.
THREADS = 2


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the replica is made of; the composition root fills it in as it starts."""

    name: str
    metrics: Metrics
    draining: Callable[[], bool]
    #: None until it can be opened: its volume is full.
    journal: Journal | None = None
    kafka: Changes | None = None
    #: None where there is one replica only.
    claims: Changes | None = None
    #: By app.
    connections: Mapping[str, Changes] = field(default_factory=dict)

    def serve(self, journal: Journal, kafka: Changes, claims: Changes | None) -> None:
        """Take what is there once the journal can be opened."""
        self.journal, self.kafka, self.claims = journal, kafka, claims


class Replica:
    """What there is to say of this replica."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._started_at = _now()
        self._threads = ThreadPoolExecutor(THREADS, "console")
        self._looking = asyncio.Lock()
        self._overview: tuple[float, Overview] | None = None

    @property
    def name(self) -> str:
        """What it is called on a page."""
        return self.parts.name or socket.gethostname()

    @property
    def journal(self) -> str:
        """Which replica it is."""
        return self.parts.journal.id if self.parts.journal else ""

    def close(self) -> None:
        """Begin no more reads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def overview(self) -> Overview:
        """Say how it is; looked up once for all who ask within a second."""
        async with self._looking:
            if self._overview is None or time.monotonic() - self._overview[0] > FRESH:
                self._overview = (time.monotonic(), await self._look())
            return self._overview[1]

    async def read(self, work: Callable[[], T]) -> T:
        """Do it in a thread of the console's."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _look(self) -> Overview:
        parts, journal = self.parts, self.parts.journal
        disk, oldest, ready = None, None, False
        if journal:
            ready = await journal.probe() and not parts.draining()
            with suppress(JournalError):
                oldest, used = journal.oldest_pending(), journal.used()
                disk = await self.read(lambda: self._disk(journal, used))
        return Overview(
            journal=self.journal,
            name=self.name,
            version=__version__,
            now=_now(),
            started_at=self._started_at,
            draining=parts.draining(),
            ready=ready,
            account=parts.metrics.account(),
            oldest_pending=oldest,
            disk=disk,
            kafka=self._link("kafka", "relay_kafka_up", parts.kafka),
            claims=self._link("claims", "relay_claims_up", parts.claims) if parts.claims else None,
            connections=tuple(
                self._link(app, "relay_long_connection_up", changes, app=app)
                for app, changes in parts.connections.items()
            ),
        )

    def _disk(self, journal: Journal, used: int) -> Disk:
        return Disk(
            size=journal.size(),
            log=journal.log_size(),
            used=used,
            maximum=int(self.parts.metrics.value("relay_journal_max_bytes")),
            volume_free=journal.volume_free(),
        )

    def _link(self, name: str, metric: str, changes: Changes | None, **labels: str) -> Link:
        up = bool(self.parts.metrics.value(metric, **labels))
        return Link(name=name, up=up, trouble=changes.trouble if changes else None)


def _now() -> int:
    return int(time.time() * 1000)
