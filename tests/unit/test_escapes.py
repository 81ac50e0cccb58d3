"""Whatever nobody waits for: if it dies, the process says so and ends; no waiter hangs."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
from aiohttp import ClientConnectionError, ServerDisconnectedError
from structlog.testing import capture_logs

from relay.errors import (
    FeishuUnavailableError,
    KafkaUnavailableError,
    RejectedError,
    StoppedWorkingError,
)
from relay.journal.rows.claimed import Claimed
from relay.journal.writer import Writer
from relay.observe.escapes import Escapes
from tests.fakes import event, journal_at, until

Kill = Callable[[pytest.MonkeyPatch], None]


def fail(*_: object) -> None:
    raise ZeroDivisionError("a customer's words")


def in_clean_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "_tidy", fail)
    patch.setattr("relay.journal.writer.TIDY_INTERVAL", 0.01)


def in_taking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "_take", fail)


def in_checkpoints(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writer, "_checkpoints", fail)


@pytest.mark.parametrize("kill", [in_clean_up, in_taking, in_checkpoints])
async def test_dead_thread_is_told_and_nobody_waits_for_it(
    kill: Kill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch)
    with capture_logs() as lines:
        async with journal_at(tmp_path / "journal.db") as journal, asyncio.timeout(5):
            with pytest.raises(StoppedWorkingError, match="died of ZeroDivisionError"):
                await journal.watch()
            with pytest.raises(RejectedError):
                await journal.add(event())
            with pytest.raises(RejectedError):
                await journal.note_claimed(Claimed(seeded=True))
    (said,) = [line for line in lines if line["event"] == "thread_died"]
    assert said["log_level"] == "error"


async def test_jobs_of_a_dead_writer_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in its hand, and those behind them."""
    async with journal_at(tmp_path / "journal.db") as journal, asyncio.timeout(5):

        def die(writer: Writer, jobs: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Writer, "_commit", die)
        adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(5)]
        answers = await asyncio.gather(*adding, return_exceptions=True)
        assert {type(answer) for answer in answers} == {RejectedError}
        assert journal._waiting == 0
        with pytest.raises(StoppedWorkingError, match="journal-writer died of MemoryError"):
            await journal.watch()


async def call_back() -> None:
    asyncio.get_running_loop().call_soon(fail)


async def call_later() -> None:
    asyncio.get_running_loop().call_later(0.01, fail)


async def from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(loop.call_soon_threadsafe, fail)


async def forgotten_task() -> None:
    async def die() -> None:
        fail()

    task = asyncio.create_task(die())
    await asyncio.wait([task])
    del task


@pytest.mark.parametrize("escape", [call_back, call_later, from_a_thread, forgotten_task])
async def test_error_that_nobody_awaits_is_told(escape: Callable[[], Awaitable[None]]) -> None:
    """By its name and place: its words may be a customer's."""
    escapes = Escapes()
    with capture_logs() as lines:
        await escape()
        async with asyncio.timeout(5):
            death = await escapes.first()
    assert death.startswith("a callback died of ZeroDivisionError at tests.unit.test_escapes:")
    assert [line["event"] for line in lines] == ["callback_failed"]
    assert "customer" not in f"{death}{lines}"


async def test_fault_of_a_library_ends_nothing() -> None:
    """It is said; what relay asked of the library fails where it was asked."""
    escapes, loop = Escapes(), asyncio.get_running_loop()
    with capture_logs() as lines:
        for library in (sqlite3.connect, asyncio.run):
            loop.call_soon(cast("Callable[[], object]", library))
        loop.call_exception_handler({"message": "nothing was raised"})
        await until(lambda: len(lines) == 2)
    assert [line["event"] for line in lines] == ["library_failed"] * 2
    assert not escapes._first.done()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("gone"),
        TimeoutError(),
        ClientConnectionError("gone"),
        ServerDisconnectedError(),
        KafkaUnavailableError("away"),
        FeishuUnavailableError("away"),
    ],
)
async def test_forgotten_task_of_a_broken_connection_ends_nothing(error: Exception) -> None:
    """One of its tasks was asked why; the others end of the same."""

    async def die() -> None:
        raise error

    escapes = Escapes()
    with capture_logs() as lines:
        task = asyncio.create_task(die())
        await asyncio.wait([task])
        del task
        await until(lambda: lines)
    assert [line["event"] for line in lines] == ["library_failed"]
    assert not escapes._first.done()
