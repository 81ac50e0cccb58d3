"""Makes the pictures of the console's pages, of two replicas with invented events.

python -m deploy.observability.console docs/images
"""

import asyncio
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog
from pydantic import SecretStr

from relay.console.replica import Parts
from relay.console.server import ConsoleServer
from relay.contract.normalize import Router
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal.journal import Journal
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.settings import Console
from tests import webdriver
from tests.fakes import as_json, event, journal_at, payload

PASSWORD = secrets.token_hex(8)
TYPES = (
    "helpdesk.ticket.created_v1",
    "helpdesk.ticket_message.created_v1",
    "helpdesk.ticket_message.created_v1",
    "helpdesk.ticket.updated_v1",
    "helpdesk.ticket_message.created_v1",
)
#: Page, width, colours: each becomes a file.
PICTURES = (
    ("overview", "?pause", 1280, 900, False),
    ("events", "events", 1280, 900, False),
    ("event", "event?id={event}", 1280, 900, False),
    ("dead-letters", "dead-letters", 1280, 900, True),
    ("overview-phone", "?pause", 390, 844, True),
    ("events-phone", "events", 390, 844, False),
)


async def _fill(journal: Journal, name: int, count: int) -> str:
    """Invent tickets with their events; most are published, some wait, a few are dead letters."""
    now = int(time.time() * 1000)
    last = ""
    for number in range(count):
        ticket = str(6626871355780366331 + number // 5 + name * 1000)
        event_id = f"{0x5E3702A84E847582 + number * 7919 + name:016x}db7db73b83309c72"
        what = {"ticket_id": ticket, "ticket": {"ticket_id": ticket}}
        body = as_json(payload(event_id, event_type=TYPES[number % 5], event=what))
        at = now - (count - number) * 13_000 - name * 5_000
        made = replace(event(event_id, body=body), event_type=TYPES[number % 5], received_at=at)
        await journal.add(made)
        last = event_id
    return last


async def _settle(journal: Journal, metrics: Metrics, router: Router, count: int) -> str:
    """Give the id of a published event."""
    shown, reasons = "", (DeadLetterReason.TOO_LARGE, DeadLetterReason.REFUSED)
    pending = await journal.pending(count, 2**30)
    for one in pending[:-2]:
        dead = one.seq % 17 == 0
        ticket, message = router.ids(one)
        ending = Settlement(
            seq=one.seq,
            outcome=Outcome.DEAD_LETTER if dead else Outcome.PUBLISHED,
            reason=reasons[one.seq % 2] if dead else None,
            event=replace(one, stored_at=one.received_at + 4),
            topic="feishu.dead_letter" if dead else "feishu.helpdesk.ticket_message",
            ticket=ticket,
            message_id=message,
        )
        shown = shown if dead else one.event_id
        landing = (one.seq % 12, 1000 + one.seq)
        at = one.received_at
        await journal.settle([ending], at + 31, claimed_at=at + 9, landings=[landing])
        metrics.ledger.settled({ending.outcome: 1})
    return shown


@asynccontextmanager
async def _replica(name: int, count: int, peers: str = "") -> AsyncIterator[tuple[str, str]]:
    """Open a console on invented events; give its address and a published event's id."""
    metrics, router, log = Metrics(), Router("feishu.", {}), structlog.get_logger()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        async with journal_at(path, metrics, max_bytes=8 * 2**30) as journal:
            await _fill(journal, name, count)
            shown = await _settle(journal, metrics, router, count)
            parts = Parts(
                name=f"relay-{name}",
                path=path,
                router=router,
                metrics=metrics,
                draining=lambda: False,
            )
            claims, kafka = Changes(log, "claims_available"), Changes(log, "kafka_connected")
            parts.serve(journal, kafka, claims)
            metrics.kafka_up.set(1)
            metrics.claims_up.set(1)
            lost = Changes(log, "long_connection_recovered")
            lost.noted("long_connection_lost", "dropped")
            lost.working()
            parts.connections = {"helpdesk": lost}
            metrics.connected("helpdesk", up=True)
            settings = Console(port=0, password=SecretStr(PASSWORD), peers=peers)
            server = ConsoleServer(settings, parts)
            yield f"127.0.0.1:{await server.start()}", shown
            await server.stop()


async def _draw(target: Path) -> None:
    async with AsyncExitStack() as stack:
        other, _ = await stack.enter_async_context(_replica(1, 58))
        own, shown = await stack.enter_async_context(_replica(0, 92, other))
        driver = stack.enter_context(webdriver.driver())
        window = await stack.enter_async_context(webdriver.browser(driver, scripts=False))
        await window.open(f"http://ann:{PASSWORD}@{own}/")
        for name, page, width, height, dark in PICTURES:
            await window.open(f"http://{own}/{page.format(event=shown)}")
            # Twice: the first one sets the width.
            await window.picture(width, height, dark=dark)
            picture = await window.picture(width, height, dark=dark)
            _write(target / f"console-{name}.png", picture)


def _write(path: Path, picture: bytes) -> None:
    """Write a picture, with few colours where `pngquant` is there: a third of the size."""
    if shutil.which("pngquant"):
        command = ["pngquant", "--strip", "--speed", "1", "64", "-"]
        picture = subprocess.run(command, input=picture, capture_output=True, check=True).stdout
    path.write_bytes(picture)


def main() -> None:
    """Draw all of them into a directory."""
    asyncio.run(_draw(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
