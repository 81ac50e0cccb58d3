"""A power cut leaves a write-ahead log of any length: what was acknowledged is in it, whole."""

import random
import shutil
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from relay.errors import JournalDamagedError
from relay.events import Outcome
from relay.journal import file, writer
from relay.observe.metrics import Metrics
from tests.fakes import event, journal_at

#: A disk writes sectors of so many bytes whole, or not at all.
SECTOR = 512
EVENTS = 40
#: Every so many cuts the journal is also used, not only read.
USED = 25
#: Tests that try the cuts between them.
SHARES = 4


@dataclass(frozen=True, slots=True)
class Crash:
    """The files of a journal as a crash leaves them, and what had been answered when."""

    database: Path
    log: bytes
    #: Bytes of the log at the answer to each event, in order.
    answered_at: dict[str, int]

    def put(self, path: Path, log: bytes) -> None:
        """Lay the files out with another log."""
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self.database, path)
        path.with_name(path.name + "-wal").write_bytes(log)


@cache
def body(name: str) -> bytes:
    """Bodies of all sizes: within a page, and over some."""
    return name.encode() * random.Random(name).randint(1, 1500)


@pytest.fixture
async def crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crash:
    """Answer some events, and take the files away while the journal is open."""
    monkeypatch.setattr(writer, "CHECKPOINT_INTERVAL", 3600.0)
    path, answered_at = tmp_path / "running.db", {}
    log = path.with_name(path.name + "-wal")
    async with journal_at(path) as journal:
        for number in range(EVENTS):
            name = f"e-{number:03d}-"
            assert await journal.add(event(name, body(name))) is Outcome.ACCEPTED
            answered_at[name] = log.stat().st_size
        shutil.copy(path, tmp_path / "crashed.db")
        return Crash(tmp_path / "crashed.db", log.read_bytes(), answered_at)


def events(path: Path) -> dict[str, bytes]:
    """Open a journal as a start does; give its events."""
    file.prepare(path)
    with closing(file.connect(path)) as connection:
        return dict(connection.execute("SELECT event_id, body FROM events ORDER BY seq"))


@pytest.mark.parametrize("share", range(SHARES))
async def test_log_cut_at_every_sector(crash: Crash, tmp_path: Path, share: int) -> None:
    """Each event whose answer went out before the cut is there; none is there by half."""
    path, names = tmp_path / "journal.db", list(crash.answered_at)
    cuts = range(0, len(crash.log) + SECTOR, SECTOR)[share::SHARES]
    assert len(cuts) > 200
    for number, cut in enumerate(cuts):
        crash.put(path, crash.log[:cut])
        found = events(path)
        answered = [name for name, size in crash.answered_at.items() if size <= cut]
        assert list(found)[: len(answered)] == answered, f"cut at {cut}"
        assert list(found) == names[: len(found)], f"cut at {cut}"
        assert all(found[name] == body(name) for name in found), f"cut at {cut}"
        if number % USED == 0:
            await use(path, found)


async def use(path: Path, found: dict[str, bytes]) -> None:
    """The journal goes on: it knows what it has, and takes what is new."""
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        assert metrics.account().pending == len(found)
        for name in list(found)[-1:]:
            assert await journal.add(event(name)) is Outcome.DUPLICATE
        assert await journal.add(event("new")) is Outcome.ACCEPTED


async def test_log_whose_end_is_garbled(crash: Crash, tmp_path: Path) -> None:
    """A sector that was half written is not believed, nor what comes after it."""
    path, names, chance = tmp_path / "journal.db", list(crash.answered_at), random.Random(7)
    for _ in range(100):
        at = chance.randrange(len(crash.log) // 2, len(crash.log))
        log = bytearray(crash.log)
        log[at : at + SECTOR] = chance.randbytes(min(SECTOR, len(log) - at))
        crash.put(path, bytes(log))
        found = events(path)
        answered = [name for name, size in crash.answered_at.items() if size <= at]
        assert list(found)[: len(answered)] == answered, f"garbled at {at}"
        assert list(found) == names[: len(found)], f"garbled at {at}"
        assert all(found[name] == body(name) for name in found), f"garbled at {at}"


async def test_log_that_never_reached_the_disk(crash: Crash, tmp_path: Path) -> None:
    """Without it there is what the file alone holds: an empty journal here, and no complaint."""
    path = tmp_path / "journal.db"
    crash.put(path, b"")
    assert events(path) == {}


async def test_checkpoint_that_a_full_disk_has_cut_off_is_no_damage(
    tmp_path: Path, crash: Crash
) -> None:
    """It broke off within a page that the log still has; without the log the file is refused."""
    path = tmp_path / "journal.db"
    crash.put(path, crash.log)
    with closing(file.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    before = crash.database.stat().st_size
    for size in (before + 1000, before + 4096 + 1, len(whole) - 1):
        crash.put(path, crash.log)
        path.write_bytes(whole[:size])
        async with journal_at(path) as journal:
            assert len(await journal.pending(EVENTS + 1, 2**30)) == EVENTS
        crash.put(path, b"")
        path.write_bytes(whole[:size])
        with pytest.raises(JournalDamagedError):
            file.prepare(path)
