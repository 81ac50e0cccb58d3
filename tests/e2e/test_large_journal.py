"""The journal of a busy day: a million settled events, and nothing of it in the page cache."""

import asyncio
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from relay.journal import file
from tests.conftest import Say
from tests.e2e.process import COMMAND, Relay

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
    with closing(file.connect(path)) as connection:
        connection.execute("PRAGMA cache_size = -200000")
        connection.execute(
            "INSERT INTO events (app, event_id, event_type, transport, received_at, body, outcome,"
            " settled_at)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " SELECT 'default', hex(randomblob(16)), 'helpdesk.ticket.updated_v1', 'webhook', ?,"
            " randomblob(?), 'published', ? FROM n",
            (EVENTS, time.time_ns() // 10**6, BODY, time.time_ns() // 10**6),
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cool() -> None:
    """Have the kernel forget what it has read; only root may."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pytest.skip("only root may drop the page cache")


def timed(*arguments: str) -> float:
    started = time.monotonic()
    subprocess.run([COMMAND, *arguments], check=True, capture_output=True)
    return time.monotonic() - started


@pytest.mark.timeout(300)
async def test_a_million_settled_events_hold_up_no_start(
    tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Nor an operator's look at the newest ones."""
    ready: list[float] = []
    listed: list[float] = []
    async with Relay(tmp_path, NOWHERE, topic_prefix, DRAIN__TIMEOUT="1s") as relay:
        await asyncio.to_thread(fill, relay.journal)
        while len(ready) < ATTEMPTS and min(ready, default=READY) >= READY:
            await asyncio.to_thread(cool)
            # Imports are not what is measured.
            await asyncio.to_thread(timed, "version")
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
