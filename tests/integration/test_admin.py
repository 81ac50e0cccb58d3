"""Probes and metrics over HTTP."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from relay.admin import AdminServer
from relay.events import Outcome, Settlement
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from relay.settings import Admin
from tests.fakes import event, journal_at, until


@dataclass(slots=True, kw_only=True)
class Place:
    """A listening admin server; `draining` is what it is told."""

    url: str = ""
    admin: AdminServer
    journal: Journal
    metrics: Metrics
    draining: list[bool] = field(default_factory=list)


@asynccontextmanager
async def admin_at(path: Path, *, max_bytes: int = 2**30) -> AsyncIterator[Place]:
    metrics = Metrics()
    async with journal_at(path / "journal.db", metrics, max_bytes=max_bytes) as journal:
        draining: list[bool] = []
        settings = Admin(host="127.0.0.1", port=0)
        admin = AdminServer(settings, journal, metrics, lambda: bool(draining))
        place = Place(admin=admin, journal=journal, metrics=metrics, draining=draining)
        place.url = f"http://127.0.0.1:{await admin.start()}"
        try:
            yield place
        finally:
            await admin.stop()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with admin_at(tmp_path) as found:
        yield found


async def get(url: str) -> tuple[int, Any]:
    async with ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.json()


async def scrape(place: Place) -> dict[str, float]:
    async with ClientSession() as session, session.get(f"{place.url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        lines = (await answer.text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_process_is_alive_whatever_happens(tmp_path: Path) -> None:
    """A full journal or a drain is no reason to be restarted."""
    async with admin_at(tmp_path, max_bytes=1) as place:
        await place.journal.add(event())
        place.draining.append(True)
        assert await get(f"{place.url}/livez") == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("part", "reason"), [("loop", "the event loop stood still"), ("writer", "writer stands still")]
)
async def test_not_alive_while_a_part_does_not_go_on(part: str, reason: str, place: Place) -> None:
    """Within ten seconds; a loop that stands still for good answers nothing at all."""
    moved = time.monotonic() - 11
    with pytest.MonkeyPatch.context() as patch:
        if part == "loop":
            place.admin._timer.cancel()
            patch.setattr(place.admin, "_moved_at", moved)
        else:
            patch.setattr(Journal, "moved_at", moved)
        status, answer = await get(f"{place.url}/livez")
        assert (status, answer["status"]) == (503, "stuck")
        assert reason in answer["reason"]
    place.admin._move()
    assert (await get(f"{place.url}/livez"))[0] == 200


async def test_loop_and_writer_move_every_second(place: Place) -> None:
    """Also when nothing comes in."""
    before = time.monotonic()
    await until(lambda: min(place.admin._moved_at, place.journal.moved_at) > before, seconds=5)


async def test_without_a_journal_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    """Its volume is full: the process waits for space."""
    async with admin_at(tmp_path) as place:
        place.admin.journal = None
        assert (await get(f"{place.url}/livez"))[0] == 200
        assert (await get(f"{place.url}/readyz"))[0] == 503
        await scrape(place)


async def test_ready_while_events_can_be_taken(place: Place) -> None:
    assert await get(f"{place.url}/readyz") == (200, {"status": "ready"})


async def test_not_ready_while_draining(place: Place) -> None:
    place.draining.append(True)
    expected = {"status": "not ready", "reason": "draining"}
    assert await get(f"{place.url}/readyz") == (503, expected)


async def test_not_ready_while_the_journal_is_full(tmp_path: Path) -> None:
    async with admin_at(tmp_path, max_bytes=1) as place:
        await place.journal.add(event())
        expected = {"status": "not ready", "reason": "the journal is full or cannot be written"}
        assert await get(f"{place.url}/readyz") == (503, expected)


async def test_metrics_show_age_and_size(place: Place) -> None:
    """What is computed at the scrape: the oldest pending event and the files' bytes."""
    assert (await scrape(place))["relay_oldest_pending_seconds"] == 0
    now = int(time.time() * 1000)
    await place.journal.add(event("old", received_at=now - 60_000))
    await place.journal.add(event("ahead", received_at=now + 60_000))
    found = await scrape(place)
    assert 60 <= found["relay_oldest_pending_seconds"] < 90
    assert found["relay_journal_bytes"] == place.journal.size()
    assert 0 < found["relay_journal_used_bytes"] <= found["relay_journal_bytes"]
    assert found["relay_journal_max_bytes"] == 2**30
    assert 0 < found["relay_journal_log_bytes"] < found["relay_journal_bytes"]
    assert found["relay_journal_volume_free_bytes"] > 2**20
    await place.journal.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], now)
    assert (await scrape(place))["relay_oldest_pending_seconds"] == 0


async def test_other_paths_and_methods_are_refused(place: Place) -> None:
    """The admin listener changes nothing."""
    async with ClientSession() as session:
        async with session.get(f"{place.url}/webhook/event") as answer:
            assert answer.status == 404
        async with session.post(f"{place.url}/metrics") as answer:
            assert answer.status == 405
