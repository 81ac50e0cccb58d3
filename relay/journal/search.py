"""Looks for events in a journal, also while a relay owns it: by ticket, type, time, ending.

It reads only, on a connection of its own; no call takes longer than it may, however many events
there are: a page says how far it came. What is settled is looked for among `lives`, which are
narrow; bodies are read of what is pending, and of what an earlier version has settled.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from relay.errors import EventNotFoundError
from relay.events import StoredEvent
from relay.journal import file
from relay.journal.disk import faults
from relay.journal.rows import lives
from relay.journal.rows.lives import KINDS, Life
from relay.journal.rows.looks import Look, by_id
from relay.journal.view import as_stored

#: Events of one page at most, and seconds that a look may take.
LIMIT, SECONDS = 1000, 0.8
#: Seqs that the first look of a page covers, and any at most: fewer where they take long.
FIRST_SLICE, SLICE = 64, 65_536
#: Seconds after which a slice was too large.
SLOW = 0.05
#: Steps of SQLite's between two looks at the clock.
_STEPS = 20_000
#: The latest events, settled or not, that `latest` looks at beside what is noted.
_LATEST = 300
#: Tells ticket and message of an event whose body is all that is known; it is the contract's.
Ids: TypeAlias = Callable[[StoredEvent], tuple[str | None, str | None]]

_ENDS = "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)"
_LAST_LOOKED_AT = "SELECT received_at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1"
_BODY = "SELECT body FROM events WHERE seq = ?"
#: Of dead letters and other seldom ends there is an index.
_REASONS = (
    "SELECT reason, (SELECT count(*) FROM lives INDEXED BY lives_rare"
    " WHERE lives.kind = kinds.kind AND lives.kind < 0) FROM kinds WHERE outcome = 'dead_letter'"
)
_NOTED = "SELECT received_at FROM lives WHERE kind = ? AND seq > ? ORDER BY seq DESC LIMIT 1"
_NEWEST = "SELECT app, event_type, received_at FROM events ORDER BY seq DESC LIMIT ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is looked for; all that is given must hold."""

    #: An event id, a ticket id or a message id.
    text: str | None = None
    event_id: str | None = None
    ticket: str | None = None
    message_id: str | None = None
    event_type: str | None = None
    app: str | None = None
    transport: str | None = None
    #: `pending`, or an Outcome's value.
    outcome: str | None = None
    reason: str | None = None
    #: Unix time in milliseconds, of the receipt: from `since` on, before `until`.
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the events that were looked for, the latest first."""

    lives: tuple[Life, ...]
    #: Where the next page begins; None: there is no more.
    before: int | None = None
    #: When the last one was received that was looked at, if there is more.
    looked_to: int | None = None


class Search:
    """The looks into one journal."""

    def __init__(self, connection: sqlite3.Connection, ids: Ids) -> None:
        self._connection, self._ids = connection, ids
        self._old = file.version(connection) < lives.SINCE

    @property
    def id(self) -> str:
        """The journal's name: that of the replica."""
        return str(self._connection.execute("SELECT id FROM journal").fetchone()[0])

    def page(
        self,
        wanted: Filter,
        before: int | None = None,
        limit: int = 50,
        seconds: float | None = None,
    ) -> Page:
        """Give the next events: up to `limit`, or as far as it comes in time.

        Whatever the disk, it comes further than the page before: its first look ends when it ends.
        """
        deadline, size = None, FIRST_SLICE
        ends = time.monotonic() + (SECONDS if seconds is None else seconds)
        found: list[Life] = []
        first, high = self._connection.execute(_ENDS).fetchone()
        if before is not None and high is not None:
            high = min(high, before - 1)
        look = Look(self._connection, wanted, old=self._old)
        while high is not None and high >= first and len(found) < min(limit, LIMIT):
            began, low = time.monotonic(), max(high - size + 1, first)
            try:
                with _until(self._connection, deadline):
                    seqs, low = look.seqs(low, high, min(limit, LIMIT) - len(found))
                    found += filter(look.matches, self._lives(seqs))
            except TimeoutError:
                break
            high, deadline = low - 1, ends
            size = size // 2 if time.monotonic() - began > SLOW else min(size * 2, SLICE)
            size = max(size, FIRST_SLICE)
            if time.monotonic() > ends:
                break
        if high is None or high < first:
            return Page(lives=tuple(found))
        (looked_to,) = self._connection.execute(_LAST_LOOKED_AT, (high + 1,)).fetchone()
        return Page(lives=tuple(found), before=high + 1, looked_to=looked_to)

    def every(self, wanted: Filter) -> Iterator[Page]:
        """Give all pages, each within its time."""
        page = self.page(wanted, limit=LIMIT)
        yield page
        while page.before is not None:
            page = self.page(wanted, page.before, LIMIT)
            yield page

    def event(self, event_id: str, app: str | None = None) -> tuple[Life, bytes]:
        """Give an event, and its body. Raises EventNotFoundError."""
        with _until(self._connection, time.monotonic() + SECONDS):
            seqs = by_id(self._connection, event_id)
            for life in self._lives(seqs):
                if app in {None, life.app}:
                    (body,) = self._connection.execute(_BODY, (life.seq,)).fetchone()
                    return life, body
        raise EventNotFoundError(f"the journal has no event {event_id}")

    def reasons(self) -> dict[str, int]:
        """Count the dead letters that are noted, by their reason; the most first."""
        if self._old:
            return {}
        counts: Counter[str] = Counter()
        with _until(self._connection, time.monotonic() + SECONDS):
            for reason, count in self._connection.execute(_REASONS):
                counts[reason or ""] += count
        return {reason: count for reason, count in counts.most_common() if count}

    def latest(self, after_seq: int = 0) -> tuple[dict[tuple[str, str], int], int]:
        """Give when an event of each app and type last came, and the seq up to which it looked.

        Who asks again gives that seq, and takes the later time of each. Unix time in milliseconds.
        Of a type that is seldom, in a large journal, time may be up before it is found.
        """
        latest: dict[tuple[str, str], int] = {}
        connection = self._connection
        last = file.last_seq(connection)
        for app, event_type, at in connection.execute(_NEWEST, (_LATEST,)):
            latest[app, event_type] = max(at, latest.get((app, event_type), at))
        if self._old:
            return latest, last
        with suppress(TimeoutError), _until(connection, time.monotonic() + SECONDS):
            for kind, app, event_type, *_ in connection.execute(KINDS).fetchall():
                # What is pending is settled later, under the same seq.
                noted = connection.execute(_NOTED, (kind, after_seq - _LATEST)).fetchone()
                if noted and event_type is not None:
                    at = max(noted[0], latest.get((app, event_type), 0))
                    latest[app, event_type] = at
        return latest, last

    def _lives(self, seqs: Sequence[int]) -> list[Life]:
        """Give all that is known of some events, the latest first."""
        found = lives.read(self._connection, seqs, old=self._old)
        return [life if noted else self._with_ids(life) for life, noted in found]

    def _with_ids(self, life: Life) -> Life:
        """Read in the body what is noted of no event that is pending, or of an earlier version."""
        (body,) = self._connection.execute(_BODY, (life.seq,)).fetchone()
        ticket, message_id = self._ids(as_stored(life, body))
        return replace(life, ticket=ticket, message_id=message_id)


@contextmanager
def _until(connection: sqlite3.Connection, deadline: float | None) -> Iterator[None]:
    """Break off what SQLite does when time is up. Raises TimeoutError."""
    if deadline is not None:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise TimeoutError("the look into the journal took too long") from error
    finally:
        connection.set_progress_handler(None, 0)


@contextmanager
def opened(path: Path, ids: Ids) -> Iterator[Search]:
    """Open a journal that exists, to read it. `ids` is a Router's. Raises JournalError."""
    file.check_header(path)
    connection = file.connect(path, readonly=True, patience=file.PATIENCE)
    with faults.told(path), closing(connection):
        yield Search(connection, ids)
