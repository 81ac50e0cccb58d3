"""The journal of a busy day: a million settled events, and nothing of it in the page cache."""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from relay.journal import file
from tests.conftest import Say
from tests.e2e.forks import nursery
from tests.e2e.process import LOOK, ForkedRelay

#: A port that nobody listens on.
NOWHERE = "127.0.0.1:1"
EVENTS, BODY = 1_000_000, 600
#: Seconds; with every row read it was 95 for the look for damage, and 4 more.
READY = 2.0
#: What else runs on the machine is not what is measured: the best of so many counts.
ATTEMPTS = 5


def fill(path: Path) -> None:
    """Leave a million settled events, whose ids come in no order."""
    file.prepare(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Without a log: half of the time is writing it.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        connection.execute(
            "INSERT INTO events (app, event_id, event_type, transport, received_at, body, outcome,"
            " settled_at)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " SELECT 'default', hex(randomblob(16)), 'helpdesk.ticket.updated_v1', 'webhook', ?,"
            " zeroblob(?), 'published', ? FROM n",
            (EVENTS, time.time_ns() // 10**6, BODY, time.time_ns() // 10**6),
        )
        connection.execute("PRAGMA journal_mode = WAL")


def cool(path: Path) -> None:
    """Have the kernel forget what it has of a file that nobody has open."""
    with path.open("rb") as whole:
        os.fsync(whole.fileno())
        os.posix_fadvise(whole.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(*arguments: str) -> float:
    """Run a command; give its seconds, without those of its imports."""
    started = time.monotonic()
    with Path(os.devnull).open("wb") as nowhere:
        process = nursery("relay").fork("relay", *arguments, environment=os.environ, output=nowhere)
    while process.poll() is None:
        time.sleep(LOOK)
    assert process.returncode == 0
    return time.monotonic() - started


@pytest.mark.timeout(300)
async def test_a_million_settled_events_hold_up_no_start(
    tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Nor an operator's look at the newest ones."""
    ready: list[float] = []
    listed: list[float] = []
    async with ForkedRelay(tmp_path, NOWHERE, topic_prefix, DRAIN__TIMEOUT="1s") as relay:
        await asyncio.to_thread(fill, relay.journal)
        while len(ready) < ATTEMPTS and min(ready, default=READY) >= READY:
            await asyncio.to_thread(cool, relay.journal)
            started = time.monotonic()
            await relay.serving()
            ready.append(time.monotonic() - started)
            assert await relay.stopped(30) == 0
        place = ("events", "list", "--journal", str(relay.journal))
        while len(listed) < ATTEMPTS and min(listed, default=READY) >= READY:
            listed.append(await asyncio.to_thread(timed, *place))
        searched = await asyncio.to_thread(timed, *place, "--outcome", "dead_letter")
        say(f"ready {ready} s, list {listed} s, every row looked at {searched:.2f} s")
        assert relay.said("serving")[0]["backlog"] == 0
    assert min(ready) < READY
    assert min(listed) < READY
