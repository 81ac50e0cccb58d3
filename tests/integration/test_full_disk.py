"""The whole relay in this process, on a disk that is full when it starts, and on parts that die."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from relay import app
from relay.errors import JournalNoSpaceError, JournalRemoteError, StoppedWorkingError
from relay.ingress import webhook
from relay.journal.disk import mounts
from relay.journal.disk.volume import lock_path
from relay.journal.journal import Journal
from relay.journal.writer import Writer
from relay.settings import Settings
from tests.fakes import event, journal_at, until
from tests.integration.test_app import Running, settings
from tests.volumes import filled, volume_of

#: A port that nobody listens on.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with volume_of(tmp_path / "disk", "8m") as place:
        yield place


def quick(directory: Path) -> Settings:
    return settings(directory, NOWHERE, "p.", timeout=0)


async def listening(run: Running) -> None:
    await until(lambda: run.relay.webhook_port or run.task.done())


@pytest.mark.parametrize(
    ("earlier", "reserve", "counted"), [(0, False, 0), (3, True, 3), (3, False, 0)]
)
async def test_full_disk_at_start_is_503_and_heals(
    disk: Path, earlier: int, *, reserve: bool, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is in the journal, or before there is one; Feishu hears 503 and comes again.

    With the reserve of an earlier process, what is pending is even published meanwhile.
    """
    monkeypatch.setattr(app, "SPACE_LOOK", 0.05)
    if earlier:
        async with journal_at(disk / "journal.db") as journal:
            for n in range(earlier):
                await journal.add(event(f"kept-{n}"))
    if earlier and not reserve:
        os.truncate(lock_path(disk / "journal.db"), 0)
    with capture_logs() as lines:
        with filled(disk / "journal.db"):
            run = await start(quick(disk))
            assert await run.post("a") == 503
            assert await run.post("a", **{"X-Lark-Signature": "forged"}) == 401
            assert (await run.get("/livez"))[0] == 200
            assert (await run.get("/readyz"))[0] == 503
            assert await run.account() == (counted, counted)
            await asyncio.sleep(0.3)
        await asyncio.wait_for(run.relay.ready.wait(), 5)
        assert await run.post("a") == 200
        assert (await run.get("/readyz"))[0] == 200
        assert await run.account() == (earlier + 1, earlier + 1)
        await end(run)
    events = [line["event"] for line in lines]
    assert events.count("journal_volume_full") == 1
    assert events.count("journal_volume_has_space") == 1


async def start(config: Settings) -> Running:
    run = Running(app.Relay(config), ClientSession())
    await listening(run)
    return run


async def end(run: Running) -> None:
    run.stop.set()
    try:
        await run.task
    finally:
        await run.session.close()


async def test_relay_that_waits_for_space_can_be_stopped(disk: Path) -> None:
    with filled(disk / "journal.db"):
        run = await start(quick(disk))
        await asyncio.wait_for(end(run), 5)


async def test_command_on_a_full_disk_says_so(disk: Path) -> None:
    """It does not wait: whoever called it can make space."""
    async with journal_at(disk / "journal.db") as journal:
        await journal.add(event())
    os.truncate(lock_path(disk / "journal.db"), 0)
    with filled(disk / "journal.db"), pytest.raises(JournalNoSpaceError, match="volume is full"):
        await app.Relay(quick(disk)).drain(1)


async def test_network_file_system_is_refused_unless_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start, and by the commands that run on a journal."""
    monkeypatch.setattr(mounts, "_type", lambda _: "nfs4")
    config = quick(tmp_path)
    with pytest.raises(JournalRemoteError):
        await app.Relay(config).run(asyncio.Event())
    with pytest.raises(JournalRemoteError):
        await app.Relay(config).drain(1)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing else runs
    accepted = config.journal.model_copy(update={"network_volume": True})
    await end(await start(config.model_copy(update={"journal": accepted})))


def fail(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("place", "function", "said"),
    [
        (Journal, "_resolve", "a callback died of ZeroDivisionError"),
        (Writer, "_tidy", "the thread journal-writer died of ZeroDivisionError"),
    ],
)
async def test_process_ends_when_a_part_of_it_dies(
    place: type, function: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a request under way: it ends too, and the process says why, with an exit code."""
    monkeypatch.setattr(webhook, "SHUTDOWN_TIMEOUT", 1.0)
    async with asyncio.timeout(20):
        run = await start(quick(tmp_path))
        await run.relay.ready.wait()
        monkeypatch.setattr(place, function, fail)
        asking = asyncio.create_task(run.post("a"))
        with pytest.raises(ExceptionGroup) as caught:
            await run.task
        assert caught.group_contains(StoppedWorkingError, match=said)
        await asyncio.wait([asking])
        await run.session.close()
    assert StoppedWorkingError.exit_code == 70
