"""A small Feishu on one port: gateway and API, and the ladder of retries for what is not taken."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson
from aiohttp import web

from relay.settings.values import Endpoint
from relay.simulator.api import Archive, Desk, HelpdeskApi
from relay.simulator.gateway import Gateway, GatewayOptions

#: Seconds after a failed delivery until the next; after the last one the event is lost.
LADDER = (15.0, 300.0, 3600.0, 21_600.0)
_ACCEPTED = 200

#: Makes one attempt; gives the status, 0 without an answer.
Attempt = Callable[[], Awaitable[int]]


class Fate(StrEnum):
    """What became of an event."""

    DELIVERED = "delivered"
    LOST = "lost"


@dataclass(slots=True)
class Report:
    """What became of all events, and of all attempts by their status (0: none within 3 s)."""

    fates: Counter[Fate] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    #: Attempts after the first one, by rung.
    retries: Counter[int] = field(default_factory=Counter)
    under_way: int = 0


async def climb(attempt: Attempt, report: Report, time_scale: float = 1.0) -> Fate:
    """Try as often as Feishu does, and as late; `time_scale` shortens the waits."""
    report.under_way += 1
    try:
        for rung, wait in enumerate((0.0, *LADDER)):
            await asyncio.sleep(wait * time_scale)
            report.retries[rung] += rung > 0
            status = await attempt()
            report.attempts[status] += 1
            if status == _ACCEPTED:
                report.fates[Fate.DELIVERED] += 1
                return Fate.DELIVERED
        report.fates[Fate.LOST] += 1
        return Fate.LOST
    finally:
        report.under_way -= 1


class SmallFeishu:
    """Listens from `start` to `stop`; events are pushed to its long connections."""

    def __init__(
        self,
        options: GatewayOptions | None = None,
        *,
        desk: Desk | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.gateway = Gateway(options or GatewayOptions())
        self.archive = Archive()
        self.desk = desk or Desk()
        self.api = HelpdeskApi(self.gateway, self.archive, self.desk)
        self.report = Report()
        self.url = ""
        self._time_scale = time_scale
        app = web.Application()
        app.add_routes([*self.gateway.routes(), *self.api.routes()])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; the system chooses the port where it is 0."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.url = f"http://{Endpoint(host, self._runner.addresses[0][1])}"

    async def stop(self) -> None:
        """Close all connections and the listener."""
        await self.gateway.close()
        await self._runner.cleanup()

    def wanted(self, payload: dict[str, Any]) -> bool:
        """Whether somebody has subscribed to it; before anybody did, everything is."""
        self.archive.add(payload)
        subscribed = self.api.subscribed
        return subscribed is None or payload["header"]["event_type"] in subscribed

    async def push(self, payload: dict[str, Any] | bytes, event_id: str) -> Fate:
        """Deliver an event over a long connection, with Feishu's retries."""
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        return await climb(
            lambda: self.gateway.deliver(body, event_id), self.report, self._time_scale
        )
