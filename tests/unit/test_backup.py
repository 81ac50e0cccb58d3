"""A backup is a journal as it was at one moment; making it holds up nobody, and fills nothing."""

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay.errors import JournalError, JournalForeignError, JournalNoSpaceError
from relay.events import Outcome, Settlement
from relay.journal import file
from relay.journal import view as journalview
from relay.journal.disk import backup, volume
from relay.journal.journal import Journal
from tests.fakes import event, journal_at
from tests.volumes import volume_of

COUNT = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT name FROM sqlite_schema WHERE type = 'table'"
        names = [name for (name,) in connection.execute(sql)]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)  # noqa: S608 - ours
            for name in names
        }


async def settle(journal: Journal, count: int) -> None:
    batch = await journal.pending(count, 2**30)
    await journal.settle([Settlement(seq=one.seq, outcome=Outcome.PUBLISHED) for one in batch], 1)


@pytest.mark.parametrize("bite", [3, 7, 2000])
async def test_backup_of_a_running_journal_is_one_moment_of_it(
    bite: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between its reads; and between them no log is pinned."""
    monkeypatch.setattr(backup, "BITE", bite)
    target, loop = tmp_path / "copy.db", asyncio.get_running_loop()
    pinned: list[int] = []
    async with journal_at(path) as journal:
        for n in range(COUNT):
            await journal.add(event(f"e-{n}", b"x" * n))
        await settle(journal, 10)

        async def live(turn: int) -> None:
            await journal.add(event(f"new-{turn}"))
            await settle(journal, 2)
            with journalview.opened(path) as view:
                view.replay(f"e-{turn}")
            await journal.add(event(f"after-{turn}"))

        def between(_: float) -> None:
            with closing(file.connect(path)) as other:
                busy = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            pinned.append(busy)
            if len(pinned) <= 4:
                asyncio.run_coroutine_threadsafe(live(len(pinned)), loop).result(20)

        count = await asyncio.to_thread(backup.write, path, target, between)
        expected = content(path)
        assert content(target) == expected
        assert count == len(expected["events"])
        assert pinned
        assert not any(pinned)
        identity, pending = journal.identity, await journal.pending(1000, 2**30)
    async with journal_at(target) as copy:
        assert copy.identity.id == identity.id
        assert await copy.pending(1000, 2**30) == pending
        assert await copy.add(event("e-0")) is Outcome.DUPLICATE
        assert await copy.add(event("other")) is Outcome.ACCEPTED


async def test_backup_is_for_its_owner_alone(path: Path, tmp_path: Path) -> None:
    """And leaves nothing beside it."""
    async with journal_at(path) as journal:
        await journal.add(event())
        assert backup.write(path, tmp_path / "copy.db") == 1
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert {one.name for one in tmp_path.iterdir()} == {"data", "copy.db"}  # noqa: ASYNC240 - the same


def test_empty_journal_is_copied(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    file.prepare(path)
    assert backup.write(path, tmp_path / "copy.db") == 0
    assert content(tmp_path / "copy.db") == content(path)


def test_nothing_is_overwritten(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    file.prepare(path)
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(JournalError, match="is there already"):
        backup.write(path, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_what_is_no_journal_of_this_version_is_not_copied(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.write_text("dear diary")
    with pytest.raises(JournalForeignError):
        backup.write(path, tmp_path / "copy.db")
    path.write_bytes((Path(__file__).parent / "journals" / "v2.db").read_bytes())
    with pytest.raises(JournalError, match="of another version of relay"):
        backup.write(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with volume_of(tmp_path / "disk", "16m") as place:
        yield place


async def test_backup_fills_no_volume(disk: Path, tmp_path: Path) -> None:
    """Least of all the one that it saves; on another one it is made."""
    path = disk / "journal.db"
    async with journal_at(path) as journal:
        for n in range(100):
            await journal.add(event(f"e-{n}", b"x" * 40_000))
        before = volume.free_bytes(disk)
        with pytest.raises(JournalNoSpaceError, match="name a file on another one"):
            backup.write(path, disk / "copy.db")
        assert volume.free_bytes(disk) == before
        assert backup.write(path, tmp_path / "copy.db") == 100
    with pytest.raises(JournalNoSpaceError, match="there is no room for it there"):
        backup._refuse_without_room(tmp_path / "copy.db", disk / "copy.db", 2**24)
