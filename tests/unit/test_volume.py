"""A log that cannot end, and other programs' bytes: the volume is never filled beyond repair."""

import asyncio
import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from relay.errors import RejectedError, RejectReason
from relay.events import Outcome, Settlement
from relay.journal import file
from relay.journal import writer as journalwriter
from relay.journal.disk import volume
from relay.journal.disk.volume import Room, lock_path
from relay.journal.journal import Journal
from tests.fakes import event, journal_at, until
from tests.volumes import filled, volume_of

BODY = b"x" * 20_000


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A volume of 24 MB; what is done every second is done more often."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 0.05)
    monkeypatch.setattr(journalwriter, "TIDY_INTERVAL", 0.05)
    with volume_of(tmp_path / "disk", "24m") as place:
        yield place


@contextmanager
def reader_of(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody's shell, or backup, that stays open amid a read; it is killed in the end."""
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN'); c.execute('SELECT count(*) FROM events').fetchall()\n"
        "print('reading', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "reading\n"
            yield process
        finally:
            process.kill()


async def fill(journal: Journal, name: str) -> int:
    """Add events until one is refused; give how many were taken."""
    reasons: list[RejectReason] = []
    for n in range(5000):
        try:
            assert await journal.add(event(f"{name}-{n}", BODY)) is Outcome.ACCEPTED
        except RejectedError as error:
            reasons.append(error.reason)
            break
    assert reasons == [RejectReason.JOURNAL_UNAVAILABLE]
    return n


async def rename(journal: Journal) -> None:
    await journal.become(replace(journal.identity, id=str(uuid.uuid4())))


async def wear_out(journal: Journal) -> int:
    """Write until that is refused; give how often it was not."""
    for n in range(20_000):
        try:
            await rename(journal)
        except RejectedError:
            return n
    return 20_000


async def settle_all(journal: Journal) -> None:
    batch = await journal.pending(10_000, 2**30)
    await journal.settle([Settlement(seq=one.seq, outcome=Outcome.PUBLISHED) for one in batch], 1)


async def taken(journal: Journal, name: str) -> bool:
    try:
        return await journal.add(event(name, BODY)) is not None
    except RejectedError:
        return False


async def heals(journal: Journal, name: str) -> None:
    """Events are taken again, and the log has given its space back."""
    async with asyncio.timeout(10):
        while not await taken(journal, f"{name}-healed"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    await until(lambda: journal.log_size() < 2**20, seconds=10)


@pytest.mark.timeout(40)
@pytest.mark.parametrize("restart", [False, True])
async def test_pinned_log_stops_before_the_volume_is_full(disk: Path, *, restart: bool) -> None:
    """So that it can end when the reader is gone, at once or after a restart of both."""
    path = disk / "journal.db"
    async with journal_at(path) as journal:
        await journal.add(event("first"))
        with reader_of(path):
            count = await fill(journal, "pinned")
            assert 100 < count < 600
            assert not await journal.probe()
            assert volume.free_bytes(path) > 2**20, "the file must grow by what the log has"
            batch = await journal.pending(10, 2**30)
            await journal.settle(
                [Settlement(seq=n.seq, outcome=Outcome.PUBLISHED) for n in batch], 1
            )
            with pytest.raises(RejectedError):
                await settle_all(journal)
            if restart:
                await journal.close()
        if not restart:
            await heals(journal, "pinned")
            await settle_all(journal)
            assert await journal.pending(1, 1) == []
            assert await journal.add(event("first")) is Outcome.DUPLICATE
    if restart:
        async with journal_at(path) as journal:
            await heals(journal, "pinned")
            assert await journal.add(event("pinned-1")) is Outcome.DUPLICATE


async def test_nothing_writes_what_the_log_needs_to_end(disk: Path) -> None:
    """Settling waits too, in the end; nothing of it is lost."""
    path = disk / "journal.db"
    async with journal_at(path) as journal:
        with reader_of(path):
            await fill(journal, "pinned")
            assert await wear_out(journal) < 20_000
        await heals(journal, "pinned")
        await rename(journal)


async def test_bytes_of_others_take_the_reserve_last(disk: Path) -> None:
    """The volume is full, and yet what is pending can be settled; then it heals by itself."""
    path = disk / "journal.db"
    async with journal_at(path) as journal:
        await journal.add(event("a"))
        with filled(path):
            assert await fill(journal, "full") == 0
            await settle_all(journal)
            assert not await journal.probe()
            assert lock_path(path).stat().st_size == 0
        await heals(journal, "full")
        assert lock_path(path).stat().st_size > 0


async def test_log_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a reader has made it long, it does not stay so."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 0.02)
    monkeypatch.setattr(journalwriter, "WAL_PAGES", 20)
    monkeypatch.setattr(journalwriter, "LOG_KEPT", 100_000)
    path = tmp_path / "journal.db"
    async with journal_at(path) as journal:
        with reader_of(path):
            for n in range(40):
                await journal.add(event(f"e-{n}", BODY))
            assert journal.log_size() > 800_000
        count = 0
        async with asyncio.timeout(10):
            while journal.log_size() > 200_000:
                await journal.add(event(f"after-{count}"))
                count += 1


def test_room_of_a_volume_without_a_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that cannot reserve is none that is full."""
    path = tmp_path / "journal.db"
    file.prepare(path)
    file.lock(path).close()

    def refuse(number: int) -> None:
        def fallocate(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", fallocate)

    room = Room(path)
    for number, held in ((errno.EOPNOTSUPP, True), (errno.ENOSPC, False), (errno.EDQUOT, False)):
        refuse(number)
        assert room.reserve() is held
        assert room.for_events(1000, lambda: 0) is held
    monkeypatch.undo()
    lock_path(path).unlink()
    room.let_go()


async def test_volume_that_does_not_tell_its_room_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit will tell."""

    def fail(*_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with journal_at(tmp_path / "journal.db") as journal:
        monkeypatch.setattr(Room, "for_events", fail)
        assert await journal.add(event()) is Outcome.ACCEPTED
