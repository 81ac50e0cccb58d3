"""This replica, as its own console and its peers' are told.

What is read from the journal is read in a thread, on a connection of its own, within limits; the
event loop, and the thread that writes, never wait for it.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog

from relay import __version__
from relay.console.said import Arrival, Deed, Disk, Done, Found, Link, Overview, Published, Shown
from relay.contract import exactjson
from relay.contract.credentials import concealed, concealed_text
from relay.contract.normalize import Router, normalize
from relay.errors import (
    EventNotFoundError,
    EventNotReplayableError,
    JournalBusyError,
    JournalError,
    JournalNoSpaceError,
)
from relay.events import withheld
from relay.journal import search, view
from relay.journal.journal import Journal
from relay.journal.rows.lives import Life
from relay.journal.search import Filter
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics

T = TypeVar("T")

log = structlog.get_logger()

#: Seconds for which an overview serves everybody who asks.
FRESH = 0.9
#: Reads at a time, and those that may wait for one.
THREADS, WAITING = 2, 32
#: Seconds that a look through the journal may take, and between two at what came last.
PATIENCE, BETWEEN = 0.8, 5.0
#: Characters of a text that is shown.
LONGEST_TEXT = 64 * 1024
#: Event types of which is told when they last came: a signer can make up names.
MOST_TYPES = 200


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the replica is made of; the composition root fills it in as it starts."""

    name: str
    path: Path
    router: Router
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
        self._reading = 0
        self._looked_at = -BETWEEN
        self._arrivals: tuple[Arrival, ...] = ()
        self._letters: dict[str, int] = {}
        #: By app and type, and the seq up to which was looked.
        self._latest: dict[tuple[str, str], int] = {}
        self._seen_seq = 0

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

    async def found(self, wanted: Filter, before: int | None, limit: int) -> Found:
        """Give a page of events. Raises JournalError."""
        page = await self.read(lambda: self._page(wanted, before, limit))
        return Found(
            journal=self.journal,
            name=self.name,
            lives=page.lives,
            before=page.before,
            looked_to=page.looked_to,
        )

    async def shown(self, event_id: str, app: str | None, *, body: bool) -> Shown:
        """Give an event. Raises EventNotFoundError or JournalError."""
        return await self.read(lambda: self._event(event_id, app, body=body))

    async def change(self, deed: Deed, events: Sequence[tuple[str, str]], user: str) -> Done:
        """Replay or discard events, given by app and id, and log it. Raises JournalError."""
        if not events:
            return Done(journal=self.journal, name=self.name, done=(), left={})
        done = await self.read(lambda: self._change(deed, events))
        log.info("console_changed", user=user, deed=deed, events=done.done, left=tuple(done.left))
        return done

    async def read(self, work: Callable[[], T]) -> T:
        """Do it in a thread of the console's.

        Raises JournalBusyError if too much waits, and TimeoutError.
        """
        if self._reading >= WAITING:
            raise JournalBusyError("too many look into the journal at a time")
        self._reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._reading -= 1

    async def _look(self) -> Overview:
        parts, journal = self.parts, self.parts.journal
        disk, oldest, ready = None, None, False
        if journal:
            ready = await journal.probe() and not parts.draining()
            with suppress(JournalError, TimeoutError):
                oldest, used = journal.oldest_pending(), journal.used()
                disk = await self.read(lambda: self._disk(journal, used))
                await self._look_for_arrivals()
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
            arrivals=self._arrivals,
            letters=self._letters,
        )

    async def _look_for_arrivals(self) -> None:
        """See from time to time what came last, and which dead letters there are."""
        if time.monotonic() > self._looked_at + BETWEEN:
            self._looked_at = time.monotonic()
            self._arrivals, self._letters = await self.read(self._census)

    def _census(self) -> tuple[tuple[Arrival, ...], dict[str, int]]:
        with search.opened(self.parts.path, self.parts.router.ids) as journal:
            latest, self._seen_seq = journal.latest(self._seen_seq)
            letters = journal.reasons()
        for place, at in latest.items():
            self._latest[place] = max(at, self._latest.get(place, at))
        newest = sorted(self._latest.items(), key=lambda one: -one[1])
        del newest[MOST_TYPES:]
        self._latest = dict(newest)
        return tuple(
            Arrival(app=app, event_type=name, at=at) for (app, name), at in newest
        ), letters

    def _page(self, wanted: Filter, before: int | None, limit: int) -> search.Page:
        with search.opened(self._path(), self.parts.router.ids) as journal:
            return journal.page(wanted, before=before, limit=limit, seconds=PATIENCE)

    def _event(self, event_id: str, app: str | None, *, body: bool) -> Shown:
        with search.opened(self._path(), self.parts.router.ids) as journal:
            life, data = journal.event(event_id, app)
        record, value = self._record(life, data) if data else (None, b"")
        texts = [_text(one) for one in (value, data)] if body else []
        shorter = [one[:LONGEST_TEXT] for one in texts]
        return Shown(
            journal=self.journal,
            name=self.name,
            life=life,
            record=record,
            value=shorter[0] if body else None,
            body=shorter[1] if body else None,
            cut=sum(map(len, texts)) - sum(map(len, shorter)),
        )

    def _record(self, life: Life, data: bytes) -> tuple[Published | None, bytes]:
        """Make the record again, as the dispatcher does."""
        if withheld(life.event_type):
            return None, b""
        try:
            made = normalize(view.as_stored(life, data), self.parts.router)
        except Exception:  # noqa: BLE001 - such a body is a dead letter, for an operator to look at
            return None, b""
        headers = {name: value.decode(errors="replace") for name, value in made.headers}
        key = made.key.decode(errors="replace")
        return Published(topic=made.topic, key=key, headers=headers), made.value or b""

    def _change(self, deed: Deed, events: Sequence[tuple[str, str]]) -> Done:
        done, left = [], {}
        with view.opened(self._path()) as journal:
            act = journal.replay if deed is Deed.REPLAY else journal.discard
            for app, event_id in events:
                name = f"{app}/{event_id}"
                try:
                    act(event_id, app)
                except (EventNotFoundError, EventNotReplayableError) as error:
                    left[name] = str(error)
                else:
                    done.append(name)
        return Done(journal=self.journal, name=self.name, done=tuple(done), left=left)

    def _path(self) -> Path:
        if self.parts.journal is None:
            raise JournalNoSpaceError("the journal cannot be opened: its volume is full")
        return self.parts.path

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


def _text(data: bytes) -> str:
    """Write a body for people: JSON in lines, without credentials."""
    try:
        value = concealed(exactjson.loads(data))
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return concealed_text(data.decode(errors="replace"))


def _now() -> int:
    return int(time.time() * 1000)
