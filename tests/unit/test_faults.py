"""Only damage is called damage: each other condition of a disk has its sentence and its code."""

import asyncio
import errno
import os
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.cli import main as cli
from relay.errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalDeniedError,
    JournalError,
    JournalNoSpaceError,
    JournalUnreadableError,
    RejectedError,
)
from relay.events import Outcome
from relay.journal import file, handover
from relay.journal import view as journalview
from relay.journal.disk import faults, volume
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, event, journal_at, until
from tests.unit.test_dispatcher import dispatching, published
from tests.volumes import filled, mount, volume_of

CODES = [
    (sqlite3.SQLITE_CORRUPT, JournalDamagedError, 1),
    (sqlite3.SQLITE_CORRUPT_INDEX, JournalDamagedError, 1),
    (sqlite3.SQLITE_CORRUPT_VTAB, JournalDamagedError, 1),
    (sqlite3.SQLITE_NOTADB, JournalDamagedError, 1),
    (sqlite3.SQLITE_FULL, JournalNoSpaceError, 73),
    (sqlite3.SQLITE_IOERR_READ, JournalUnreadableError, 74),
    (sqlite3.SQLITE_IOERR_FSYNC, JournalUnreadableError, 74),
    (sqlite3.SQLITE_IOERR_SHMMAP, JournalUnreadableError, 74),
    (sqlite3.SQLITE_IOERR_CORRUPTFS, JournalUnreadableError, 74),
    (sqlite3.SQLITE_BUSY, JournalBusyError, 75),
    (sqlite3.SQLITE_BUSY_RECOVERY, JournalBusyError, 75),
    (sqlite3.SQLITE_BUSY_SNAPSHOT, JournalBusyError, 75),
    (sqlite3.SQLITE_LOCKED, JournalBusyError, 75),
    (sqlite3.SQLITE_PROTOCOL, JournalBusyError, 75),
    (sqlite3.SQLITE_READONLY, JournalDeniedError, 77),
    (sqlite3.SQLITE_READONLY_DIRECTORY, JournalDeniedError, 77),
    (sqlite3.SQLITE_READONLY_CANTINIT, JournalDeniedError, 77),
    (sqlite3.SQLITE_PERM, JournalDeniedError, 77),
    (sqlite3.SQLITE_AUTH, JournalDeniedError, 77),
    (sqlite3.SQLITE_CANTOPEN, JournalError, 1),
    (sqlite3.SQLITE_ERROR, JournalError, 1),
    (sqlite3.SQLITE_NOMEM, JournalError, 1),
]
NUMBERS = [
    (errno.ENOSPC, JournalNoSpaceError),
    (errno.EDQUOT, JournalNoSpaceError),
    (errno.EFBIG, JournalNoSpaceError),
    (errno.EROFS, JournalDeniedError),
    (errno.EACCES, JournalDeniedError),
    (errno.EPERM, JournalDeniedError),
    (errno.EIO, JournalUnreadableError),
    (errno.ENOTDIR, JournalError),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound journal with one event."""
    return made(tmp_path / "journal.db")


def made(path: Path) -> Path:
    async def make() -> None:
        async with journal_at(path) as journal:
            assert await journal.add(event("kept")) is Outcome.ACCEPTED

    asyncio.run(make())
    return path


def failure(code: int, name: str = "SQLITE_X") -> sqlite3.Error:
    error = sqlite3.OperationalError("said")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


@pytest.mark.parametrize(("code", "kind", "exit_code"), CODES)
def test_code_of_sqlite_has_one_meaning(
    code: int, kind: type[JournalError], exit_code: int, path: Path
) -> None:
    meant = faults.meaning(path, failure(code))
    assert type(meant) is kind
    assert meant.exit_code == exit_code
    assert str(path) in str(meant)
    assert ("is damaged" in str(meant)) is (kind is JournalDamagedError)
    assert ("move it away" in str(meant)) is (kind is JournalDamagedError)


@pytest.mark.parametrize(("number", "kind"), NUMBERS)
def test_the_system_is_asked_why_a_disk_does_not_write(
    number: int, kind: type[JournalError], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says "disk I/O error" of a quota, of a limit and of a broken disk alike."""
    monkeypatch.setattr(volume, "refusal", lambda _: number)
    for code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE):
        assert type(faults.meaning(path, failure(code))) is kind
    assert type(faults.meaning(path, failure(sqlite3.SQLITE_CANTOPEN))) is kind
    assert type(faults.meaning(path, OSError(number, os.strerror(number)))) is kind


def test_error_without_a_code_is_told_too(path: Path) -> None:
    """As of the module itself: a connection that is closed."""
    meant = faults.meaning(path, sqlite3.ProgrammingError("Cannot operate on a closed database."))
    assert "Cannot operate on a closed database." in str(meant)


def test_asking_changes_nothing(path: Path) -> None:
    volume.lock_path(path).write_bytes(b"x" * 10)
    assert volume.refusal(path) is None
    assert volume.lock_path(path).read_bytes() == b"x" * 10
    volume.lock_path(path).unlink()
    assert volume.refusal(path) == errno.ENOENT
    assert not volume.lock_path(path).exists()
    assert volume.refusal(path.with_name("nothing")) == errno.ENOENT


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A journal on a volume of 2 MB."""
    with volume_of(tmp_path / "disk", "2m") as disk:
        yield made(disk / "journal.db")


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Something else has taken all, what was reserved too."""
    volume.lock_path(path).write_bytes(b"")
    with filled(path):
        yield


@contextmanager
def readonly(path: Path) -> Iterator[None]:
    """The kernel has put the volume to read-only, as after an error."""
    assert mount(path.parent, "remount,ro")
    yield
    assert mount(path.parent, "remount,rw")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A shell amid a change."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def owned_alone(path: Path) -> Iterator[None]:
    """A program that wants the file for itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE journal SET claims_seeded = claims_seeded")
        yield


@contextmanager
def shm_is_no_file(path: Path) -> Iterator[None]:
    place = path.with_name(path.name + "-shm")
    place.mkdir()
    yield
    place.rmdir()


@contextmanager
def shm_is_missing(path: Path) -> Iterator[None]:
    """A copy without it, and no right to make one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE journal SET claims_seeded = 1")
        log = path.with_name(path.name + "-wal").read_bytes()
    path.with_name(path.name + "-wal").write_bytes(log)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    with readonly(path):
        yield


CONDITIONS = [
    (full, JournalNoSpaceError),
    (readonly, JournalDeniedError),
    (shm_is_missing, JournalDeniedError),
    (shm_is_no_file, JournalDeniedError),
    (locked, JournalBusyError),
    (owned_alone, JournalBusyError),
]


@pytest.mark.parametrize(("condition", "kind"), CONDITIONS)
def test_sound_journal_is_never_called_damaged(
    small: Path,
    tmp_path: Path,
    condition: Callable[[Path], AbstractContextManager[None]],
    kind: type[JournalError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At start, in `relay check`, in each command: the same kind; and afterwards all is there."""
    monkeypatch.setattr(file, "PATIENCE", 0.05)
    monkeypatch.setattr(file, "BUSY_TIMEOUT", 0.05)
    uses: dict[str, Callable[[], object]] = {
        "start": lambda: asyncio.run(again(small)),
        "check": lambda: checked(small),
        "replay": lambda: replayed(small),
        "export": lambda: handover.write(small, tmp_path / "out.jsonl"),
    }
    with condition(small):
        for name, use in uses.items():
            with pytest.raises(JournalError) as caught:
                use()
            assert type(caught.value) is kind, name
            assert "is damaged" not in str(caught.value), name
    assert asyncio.run(again(small)) is Outcome.DUPLICATE


@pytest.mark.parametrize(("condition", "code"), [(locked, 75), (full, 73), (readonly, 77)])
def test_command_ends_with_the_code_of_what_is_wrong(
    small: Path,
    condition: Callable[[Path], AbstractContextManager[None]],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And with one sentence, never a traceback."""
    monkeypatch.setattr(file, "PATIENCE", 0.05)
    command = ["relay", "events", "replay", "kept", "--journal", str(small)]
    monkeypatch.setattr(sys, "argv", command)
    with condition(small), pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(f"relay: {small}: ")
    assert "Traceback" not in said


async def again(path: Path) -> Outcome:
    async with journal_at(path) as journal:
        return await journal.add(event("kept"))


def checked(path: Path) -> None:
    file.check_header(path)
    file.lock(path, patience=0).close()
    file.check_pages(path)
    file.check_writable(path)


def replayed(path: Path) -> None:
    with journalview.opened(path) as view:
        view.add(event("another"))


async def waited(journal: Journal, number: int) -> float:
    """Add an event in its turn; give the seconds until the refusal."""
    due = time.monotonic() + number * 0.11
    await asyncio.sleep(number * 0.11)
    with pytest.raises(RejectedError) as caught:
        await journal.add(event(f"e-{number}"))
    assert caught.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    return time.monotonic() - due


async def test_another_programs_lock_is_503_within_two_seconds(path: Path) -> None:
    """Feishu waits for 3 s. Whenever the request comes: also while the writer waits already.

    The best of some attempts: what else runs on the machine is not what is measured.
    """
    longest: list[float] = []
    async with journal_at(path) as journal:
        while len(longest) < 4 and min(longest, default=2) >= 2:
            with locked(path):
                waits = await asyncio.gather(*(waited(journal, number) for number in range(20)))
            longest.append(max(waits))
            new = event(f"new-{len(longest)}")
            assert await journal.add(new) is Outcome.ACCEPTED
    assert min(longest) < 2


async def test_no_error_of_sqlites_leaves_the_room(path: Path) -> None:
    """What the loop asks of a file that cannot be read: relay's own error, at once."""
    async with journal_at(path) as journal:
        journal._reader.close()
        for ask in (journal.oldest_pending, journal.used, lambda: journal.published(0, 10)):
            with pytest.raises(JournalError):
                ask()
        journal._backlog.forget()
        with pytest.raises(JournalError):
            await journal.pending(1, 1)
        journal._reader = file.connect(path)


def modes(directory: Path) -> dict[str, int]:
    return {one.name: stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()}


async def test_dispatcher_waits_for_a_file_that_cannot_be_read(path: Path) -> None:
    """And goes on when it can."""
    kafka, metrics = MemoryKafka(), Metrics()
    with capture_logs() as lines:
        async with journal_at(path, metrics) as journal:
            reader, journal._reader = journal._reader, sqlite3.connect(path)
            journal._reader.close()
            async with dispatching(journal, kafka, metrics):
                await until(lambda: "journal_not_readable" in {one["event"] for one in lines})
                journal._reader = reader
                await until(lambda: published(kafka) == ["kept"])


async def test_files_are_for_nobody_else(tmp_path: Path) -> None:
    """The journal, what lies beside it while it runs, and an export; whatever the umask is."""
    before = os.umask(0)
    try:
        place = tmp_path / "data" / "journal.db"
        async with journal_at(place) as journal:
            await journal.add(event())
            assert set(modes(place.parent)) == {
                f"journal.db{end}" for end in ("", "-wal", "-shm", ".lock")
            }
            assert set(modes(place.parent).values()) == {0o600}
        handover.write(place, place.with_name("export.jsonl"))
        assert set(modes(place.parent).values()) == {0o600}
    finally:
        os.umask(before)


def test_journal_of_an_earlier_version_is_closed_to_others(tmp_path: Path) -> None:
    """Once, when it becomes one of this version: what an operator sets afterwards stays."""
    place = tmp_path / "journal.db"
    shutil.copy(Path(__file__).parent / "journals" / "v2.db", place)
    place.chmod(0o644)
    file.prepare(place)
    assert modes(tmp_path) == {"journal.db": 0o600}
    place.chmod(0o640)
    file.prepare(place)
    assert modes(tmp_path) == {"journal.db": 0o640}
