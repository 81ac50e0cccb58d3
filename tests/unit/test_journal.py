"""What an answer of 200 rests on: stored once, in order, bounded; and never another's file."""

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.errors import (
    JournalDamagedError,
    JournalError,
    JournalForeignError,
    JournalLockedError,
    RejectedError,
    RejectReason,
)
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import backlog
from relay.journal import file as journalfile
from relay.journal import journal as journal_module
from relay.journal import writer as journalwriter
from relay.journal.journal import Journal
from relay.journal.rows.identity import Identity
from relay.observe.account import Account
from relay.observe.metrics import Metrics
from tests.fakes import event, journal_at, until

NOW = 1_767_323_045_678


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


@contextmanager
def rows(path: Path) -> Iterator[sqlite3.Connection]:
    """Look at the file as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Hold the file's write lock, so that no commit can happen."""
    with rows(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def disk_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def put(path: Path, content: bytes) -> None:
    """Leave a file where the journal would be."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def damage(path: Path, start: int, end: int) -> None:
    """Overwrite a part of a file."""
    content = bytearray(path.read_bytes())
    content[start:end] = b"\xa5" * (end - start)
    path.write_bytes(content)


def size(path: Path) -> int:
    return path.stat().st_size


async def settle_all(journal: Journal, outcome: Outcome = Outcome.PUBLISHED, at: int = NOW) -> int:
    batch = await journal.pending(10_000, 2**30)
    endings = [Settlement(seq=one.seq, outcome=outcome) for one in batch]
    await journal.settle(endings, at)
    return len(batch)


async def refusal(journal: Journal, event_id: str, body: bytes = b"{}") -> RejectReason:
    with pytest.raises(RejectedError) as caught:
        await journal.add(event(event_id, body))
    return caught.value.reason


async def ids(journal: Journal) -> list[str]:
    return [one.event_id for one in await journal.pending(10_000, 2**30)]


async def test_an_accepted_event_is_in_the_file(path: Path) -> None:
    """Another process sees the row as soon as the answer is given."""
    async with journal_at(path) as journal:
        assert await journal.add(event("e-1", b"body")) is Outcome.ACCEPTED
        with rows(path) as connection:
            assert connection.execute(
                "SELECT seq, app, event_id, transport, body, outcome FROM events"
            ).fetchall() == [(1, "default", "e-1", "webhook", b"body", None)]


async def test_no_answer_before_the_commit(path: Path) -> None:
    """As long as nothing can be committed, nobody is told anything."""
    async with journal_at(path) as journal:
        with write_lock(path):
            adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(3)]
            await asyncio.sleep(0)
            assert left(path) == await asyncio.to_thread(left, path) == []
            assert not any(task.done() for task in adding)
        assert await asyncio.gather(*adding) == [Outcome.ACCEPTED] * 3


async def test_many_waiters_share_a_commit(path: Path) -> None:
    """Fsyncs do not grow with the load."""
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        with write_lock(path):
            adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(300)]
            await asyncio.sleep(0)
        await asyncio.gather(*adding)
    commits = metrics.registry.get_sample_value("relay_commit_seconds_count")
    assert commits is not None
    assert 1 <= commits <= 3


async def test_order_of_calls_is_the_order_of_the_journal(path: Path) -> None:
    async with journal_at(path) as journal:
        expected = [f"e-{n}" for n in range(500)]
        await asyncio.gather(*(journal.add(event(name)) for name in expected))
        assert expected == await ids(journal)


async def test_repeat_in_the_same_commit_is_a_duplicate(path: Path) -> None:
    async with journal_at(path) as journal:
        with write_lock(path):
            names = ["a", "b", "a", "c", "b", "a"]
            adding = [asyncio.create_task(journal.add(event(name))) for name in names]
            await asyncio.sleep(0)
        found = await asyncio.gather(*adding)
        new, old = Outcome.ACCEPTED, Outcome.DUPLICATE
        assert [new, new, old, new, old, old] == found
        assert await ids(journal) == ["a", "b", "c"]


async def test_repeat_is_a_duplicate_whatever_became_of_the_first(path: Path) -> None:
    """Pending, settled, and after a restart; another app's event of the same id is another one."""
    async with journal_at(path) as journal:
        assert await journal.add(event("a")) is Outcome.ACCEPTED
        assert await journal.add(event("a")) is Outcome.DUPLICATE
        await settle_all(journal)
        assert await journal.add(event("a")) is Outcome.DUPLICATE
    async with journal_at(path) as journal:
        assert await journal.add(event("a", b"other bytes")) is Outcome.DUPLICATE
        assert await journal.add(event("a", app="second")) is Outcome.ACCEPTED


async def test_dead_letter_is_stored_like_an_event(path: Path) -> None:
    """And its repeat is a duplicate."""
    async with journal_at(path) as journal:
        letter = event("digest", b"[]", dead_letter=DeadLetterReason.NOT_AN_OBJECT)
        assert await journal.add(letter) is Outcome.DEAD_LETTER
        assert await journal.add(letter) is Outcome.DUPLICATE
        assert await ids(journal) == ["digest"]


async def test_pending_is_bounded_by_count_and_bytes(path: Path) -> None:
    """At least one, however large it is; bytes are counted in bites of rows."""
    async with journal_at(path) as journal:
        await asyncio.gather(*(journal.add(event(f"e-{n}", b"x" * 100)) for n in range(200)))
        assert [len(await journal.pending(n, 2**20)) for n in (0, 3, 900)] == [0, 3, 200]
        for size in (1, 5000):
            found = len(await journal.pending(900, size))
            assert size / 100 <= found <= size / 100 + journal_module.READ_BITE


async def test_settled_events_are_pending_no_more(path: Path) -> None:
    """Each with its own ending; what ended stays as it ended."""
    async with journal_at(path) as journal:
        for n in range(5):
            await journal.add(event(f"e-{n}", received_at=NOW + n))
        assert journal.oldest_pending() == NOW
        endings = [
            Settlement(seq=1, outcome=Outcome.PUBLISHED),
            Settlement(seq=2, outcome=Outcome.PUBLISHED),
            Settlement(seq=3, outcome=Outcome.DEAD_LETTER, reason=DeadLetterReason.INTERNAL_ERROR),
            Settlement(seq=4, outcome=Outcome.DUPLICATE),
        ]
        await journal.settle(endings, NOW)
        await journal.settle([Settlement(seq=1, outcome=Outcome.DUPLICATE)], NOW + 1)
        assert await ids(journal) == ["e-4"]
        assert journal.oldest_pending() == NOW + 4
        with rows(path) as connection:
            assert connection.execute(
                "SELECT outcome, reason, settled_at FROM events"
            ).fetchall() == [
                ("published", None, NOW),
                ("published", None, NOW),
                ("dead_letter", "internal_error", NOW),
                ("duplicate", None, NOW),
                (None, None, None),
            ]


async def test_backlog_counts_as_received_at_the_next_start(path: Path) -> None:
    """So that the account of every process balances."""
    async with journal_at(path) as journal:
        for n in range(4):
            await journal.add(event(f"e-{n}", app=f"app-{n % 2}"))
        await journal.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], NOW)
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        expected = Account(received=3, published=0, duplicate=0, dead_letter=0, pending=3)
        assert expected == metrics.account()
        assert journal.arrived.is_set()
        received = metrics.registry.get_sample_value
        assert received("relay_received_total", {"app": "app-1", "transport": "webhook"}) == 2


async def test_empty_journal_has_nothing_to_dispatch(path: Path) -> None:
    async with journal_at(path) as journal:
        assert not journal.arrived.is_set()
        await journal.add(event())
        assert journal.arrived.is_set()


async def test_replayed_row_counts_once(path: Path) -> None:
    """`relay events replay` is another process: its row is counted when it is first read."""
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        await journal.add(event("a"))
        await settle_all(journal)
        with rows(path) as connection:
            connection.execute("DELETE FROM events")
            connection.execute(
                "INSERT INTO events (app, event_id, event_type, transport, received_at, body,"
                " replayed) VALUES ('default', 'a', 't', 'webhook', 1, x'', 1)"
            )
        for _ in range(2):
            (found,) = await journal.pending(10, 10)
            assert found.replayed
            assert metrics.account().received == 2
        await journal.add(event("b"))
        assert (await ids(journal), metrics.account().received) == (["a", "b"], 3)


async def test_id_belongs_to_the_file(path: Path, tmp_path: Path) -> None:
    """It survives a restart, and no two files share one."""
    async with journal_at(path) as journal, journal_at(tmp_path / "other.db") as other:
        first = journal.id
        assert uuid.UUID(first).version == 4
        assert first != other.id
    async with journal_at(path) as journal:
        assert first == journal.id
        renewed = str(uuid.uuid4())
        await journal.become(Identity(id=renewed))
        assert journal.id == renewed
    async with journal_at(path) as journal:
        assert renewed == journal.id


async def test_only_rows_that_kafka_can_know_are_trusted(path: Path) -> None:
    """Until a process has signed, restarts do not make younger rows trusted."""
    async with journal_at(path) as journal:
        assert journal.identity.reach == 0
        await journal.add(event("a"))
    async with journal_at(path) as journal:
        assert journal.identity.reach == 0
        await journal.become(replace(journal.identity, signature="S", reach=None))
        await journal.add(event("b"))
    async with journal_at(path) as journal:
        assert journal.identity.reach == 2
        await journal.add(event("c"))
    async with journal_at(path) as journal:
        assert journal.identity.reach == 2


async def test_numbers_are_never_used_twice(path: Path) -> None:
    """Not even after everything was deleted: Kafka's offset speaks of them."""
    async with journal_at(path) as journal:
        await journal.add(event("a"))
        await journal.add(event("b"))
        await settle_all(journal)
        await journal.become(replace(journal.identity, signature="S", reach=None))
    with rows(path) as connection:
        connection.execute("DELETE FROM events")
    async with journal_at(path) as journal:
        assert (journal.identity.reach, journal.last_seq()) == (2, 2)
        await journal.add(event("c"))
        (found,) = await journal.pending(1, 1)
        assert found.seq == 3


def insert(connection: sqlite3.Connection, name: str, **columns: object) -> None:
    row = {
        "app": "default",
        "event_id": name,
        "event_type": "t",
        "transport": "webhook",
        "received_at": 1,
        "body": b"x",
        **columns,
    }
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO events ({names}) VALUES ({marks})",  # noqa: S608 - names of this file
        tuple(row.values()),
    )


def left(path: Path) -> list[str]:
    with rows(path) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM events ORDER BY seq")]


async def test_clean_up_reads_no_more_than_it_deletes(path: Path) -> None:
    """However many settled events there are: the writer, and with it every ack, waits for it."""
    async with journal_at(path):
        pass
    now = int(time.time() * 1000)
    with rows(path) as connection:
        connection.execute("BEGIN")
        for n in range(20_000):
            insert(connection, f"young-{n}", outcome="published", settled_at=now)
        connection.execute("COMMIT")
    async with journal_at(path) as journal:
        writer, steps = journal._writer, 0

        def step() -> None:
            nonlocal steps
            steps += 1

        tidied = writer._tidied_at
        writer._connection.set_progress_handler(step, 1000)
        await until(lambda: writer._tidied_at > tidied and not writer._untidy)
        assert steps < 10


async def test_full_journal_refuses_and_goes_on_by_itself(path: Path) -> None:
    """What goes first are the bodies of settled events: their ids still tell duplicates."""
    body = b"x" * 30_000
    metrics = Metrics()
    async with journal_at(path, metrics, max_bytes=3_000_000) as journal:
        taken: list[str] = []
        while not journal._full:
            await journal.add(event(f"e-{len(taken)}", body))
            taken.append(f"e-{len(taken)}")
        assert 3_000_000 / 33_000 < len(taken) < 4_200_000 / 30_000
        assert await refusal(journal, "late") is RejectReason.JOURNAL_FULL
        assert not await journal.probe()
        assert taken == await ids(journal)
        count = await settle_all(journal, at=int(time.time() * 1000))
        metrics.ledger.settled({Outcome.PUBLISHED: count})
        await until(lambda: not journal._full and not journal._writer._untidy)
        assert await journal.probe()
        assert await journal.add(event(taken[0], body)) is Outcome.DUPLICATE
        assert await journal.add(event("new", body)) is Outcome.ACCEPTED
        account = metrics.account()
        assert (account.received, account.pending, account.duplicate) == (len(taken) + 2, 1, 1)


async def test_full_journal_stays_full_while_everything_is_pending(path: Path) -> None:
    """An event is never thrown out for another."""
    async with journal_at(path, max_bytes=1) as journal:
        assert await journal.add(event("a")) is Outcome.ACCEPTED
        looks = journal._writer._tidied_at
        await until(lambda: journal._writer._tidied_at > looks)
        assert await refusal(journal, "b") is RejectReason.JOURNAL_FULL
        assert await ids(journal) == ["a"]


async def letters(journal: Journal, reason: DeadLetterReason | None, count: int, name: str) -> None:
    """End so many events of 10 kB each as dead letters; None: publish them."""
    for n in range(count):
        await journal.add(event(f"{name}-{n}", b"x" * 10_000))
    outcome = Outcome.DEAD_LETTER if reason else Outcome.PUBLISHED
    batch = await journal.pending(1000, 2**30)
    ends = [Settlement(seq=one.seq, outcome=outcome, reason=reason) for one in batch]
    await journal.settle(ends, NOW)


def bodies(path: Path, reason: str) -> int:
    """Count the bodies that are left of a reason."""
    with rows(path) as connection:
        sql = "SELECT count(*) FROM events WHERE reason = ? AND length(body) > 0"
        return int(connection.execute(sql, (reason,)).fetchone()[0])


@pytest.mark.parametrize("reason", [DeadLetterReason.TOO_LARGE, DeadLetterReason.REFUSED])
async def test_dead_letters_keep_their_bodies_when_space_is_short(
    reason: DeadLetterReason, path: Path
) -> None:
    """An operator has yet to decide, and nobody else has them: one at least is kept."""
    async with journal_at(path, max_bytes=1) as journal:
        await journal.add(event("a", b"keep"))
        await journal.settle([Settlement(seq=1, outcome=Outcome.DEAD_LETTER, reason=reason)], NOW)
        looks = journal._writer._tidied_at
        await until(lambda: journal._writer._tidied_at > looks)
        with rows(path) as connection:
            assert connection.execute("SELECT body FROM events").fetchall() == [(b"keep",)]


@pytest.mark.parametrize(
    ("reason", "alone"),
    [
        *((reason, False) for reason in DeadLetterReason),
        (DeadLetterReason.NOT_JSON, True),
        (DeadLetterReason.INTERNAL_ERROR, True),
    ],
)
async def test_no_kind_of_dead_letter_fills_the_journal(
    reason: DeadLetterReason,
    alone: bool,  # noqa: FBT001 - a parameter of the test
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the topic of dead letters has goes; what only the journal has keeps to its share."""
    monkeypatch.setattr(journalwriter, "SIZE_LOOK", 20_000)
    own = alone or reason in {DeadLetterReason.TOO_LARGE, DeadLetterReason.REFUSED}
    with capture_logs() as lines:
        async with journal_at(path, max_bytes=4_000_000, letters_alone=alone) as journal:
            for turn in range(20):
                await letters(journal, reason, 20, f"turn-{turn}")
                await until(lambda: not journal._writer._untidy and not journal._full)
            assert await journal.add(event("good", b"x" * 10_000)) is Outcome.ACCEPTED
            assert await journal.add(event("turn-0-0")) is Outcome.DUPLICATE
    lost = sum(line["events"] for line in lines if line["event"] == "dead_letters_let_go")
    if own:
        assert 90 <= bodies(path, reason) <= 350
        assert lost + bodies(path, reason) == 400
    else:
        assert lost == 0


async def test_bodies_go_before_an_event_must_be_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settled bodies make room while there is some left."""
    monkeypatch.setattr(journalwriter, "SIZE_LOOK", 20_000)
    async with journal_at(path, max_bytes=4_000_000) as journal:
        for n in range(20):
            await letters(journal, None, 20, f"turn-{n}")
            await until(lambda: not journal._writer._untidy)
            assert not journal._full, n


async def test_too_many_waiting_are_refused(path: Path) -> None:
    """A stuck disk costs a bounded number of requests; those that wait are still stored."""
    async with journal_at(path, max_waiting=2) as journal:
        with write_lock(path):
            adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(2)]
            await asyncio.sleep(0)
            assert await refusal(journal, "late") is RejectReason.OVERLOADED
        assert await asyncio.gather(*adding) == [Outcome.ACCEPTED] * 2
        assert await journal.add(event("late")) is Outcome.ACCEPTED


async def test_too_many_bytes_waiting_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded too."""
    monkeypatch.setattr(journal_module, "MAX_WAITING_BYTES", 1000)
    async with journal_at(path) as journal:
        with write_lock(path):
            adding = asyncio.create_task(journal.add(event("a", b"x" * 1000)))
            await asyncio.sleep(0)
            assert await refusal(journal, "b") is RejectReason.OVERLOADED
        assert await adding is Outcome.ACCEPTED
        assert await journal.add(event("b")) is Outcome.ACCEPTED


async def test_abandoned_waiter_changes_nothing(path: Path) -> None:
    """A client that went away: its event is stored, the others get their answer."""
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        with write_lock(path):
            adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(2)]
            await asyncio.sleep(0)
            adding[0].cancel()
        assert await adding[1] is Outcome.ACCEPTED
        assert await ids(journal) == ["e-0", "e-1"]
        assert metrics.account().pending == 2


async def test_close_finishes_what_waits(path: Path) -> None:
    async with journal_at(path) as journal:
        adding = [asyncio.create_task(journal.add(event(f"e-{n}"))) for n in range(20)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*adding) == [Outcome.ACCEPTED] * 20


async def test_second_owner_is_refused(path: Path) -> None:
    """In this process and in another one; the first goes on."""
    script = (
        "import asyncio, sys, pathlib\n"
        "from tests.fakes import journal_at\n"
        "async def main():\n"
        "    async with journal_at(pathlib.Path(sys.argv[1])): pass\n"
        "asyncio.run(main())\n"
    )
    async with journal_at(path) as journal:
        with pytest.raises(JournalLockedError, match="another relay process owns this journal"):
            async with journal_at(path):
                pass
        command = [sys.executable, "-c", script, str(path)]
        other = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=60
        )
        assert "JournalLockedError" in other.stderr
        assert await journal.add(event()) is Outcome.ACCEPTED
    async with journal_at(path) as journal:
        assert await ids(journal) == ["e-1"]


async def make(path: Path, count: int = 60) -> None:
    """Leave a sound journal of several dozen pages."""
    async with journal_at(path) as journal:
        await asyncio.gather(*(journal.add(event(f"e-{n}", b"x" * 4000)) for n in range(count)))


def files(path: Path) -> dict[str, bytes]:
    """What lies there, but for the lock."""
    return {
        file.name: file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".lock"
    }


async def refused(path: Path, error: type[JournalError], message: str) -> None:
    """The file is not taken, not a byte changes of what lies there, and the lock is free again."""
    before = files(path)
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            async with journal_at(path):
                pass
        assert str(path) in str(caught.value)
        assert not isinstance(caught.value, JournalLockedError)
    after = files(path)
    assert before == {name: after.get(name) for name in before}


@pytest.mark.parametrize("content", [b"", b"dear diary", b"\0" * 10_000, b"SQLite format 3\0"])
async def test_foreign_file_is_refused(content: bytes, path: Path) -> None:
    put(path, content)
    await refused(path, JournalForeignError, "is not a relay journal")


async def test_other_database_is_refused(path: Path) -> None:
    put(path, b"")
    with rows(path) as connection:
        connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY)")
    await refused(path, JournalForeignError, "is not a relay journal")


async def test_newer_journal_is_refused(path: Path) -> None:
    await make(path)
    with rows(path) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await refused(path, JournalForeignError, "schema version 99, this relay knows up to")


@pytest.mark.parametrize("page", [1, 2, 5, 20])
async def test_damaged_page_is_refused(page: int, path: Path) -> None:
    """Wherever it is: the schema, a table's root or a leaf."""
    await make(path)
    damage(path, page * 4096, page * 4096 + 4096)
    await refused(
        path,
        JournalDamagedError,
        "is damaged .*; nothing was changed. To start empty, move it away",
    )


async def test_damaged_schema_is_refused(path: Path) -> None:
    """The header is sound, the rest of the first page is not."""
    await make(path)
    damage(path, 100, 4096)
    await refused(path, JournalDamagedError, "is damaged")


@pytest.mark.parametrize("left_over", [100, 4096, 10_000, -4096, -1])
async def test_truncated_file_is_refused(left_over: int, path: Path) -> None:
    await make(path)
    os.truncate(path, left_over % size(path))
    await refused(path, JournalDamagedError, "is damaged")


async def test_damaged_file_keeps_its_log(path: Path, tmp_path: Path) -> None:
    """After a crash the write-ahead log holds what `.recover` needs: it stays beside the file."""
    await make(path)
    crashed = tmp_path / "crashed" / "journal.db"
    put(crashed, b"")
    async with journal_at(path) as journal:
        await journal.add(event("last"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    damage(crashed, 20 * 4096, 21 * 4096)
    before = files(crashed)
    with pytest.raises(JournalDamagedError):
        async with journal_at(crashed):
            pass
    after = files(crashed)
    assert before == {name: after.get(name) for name in before}


async def test_crashed_journal_is_whole(path: Path, tmp_path: Path) -> None:
    """What was committed and never checkpointed comes back from the log."""
    crashed = tmp_path / "crashed.db"
    async with journal_at(path) as journal:
        await journal.add(event("a"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    async with journal_at(crashed) as journal:
        assert await ids(journal) == ["a"]


async def test_check_of_a_large_journal_ends_in_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is checked in part; the start does not wait for the rest."""
    await make(path, 500)
    monkeypatch.setattr(journalfile, "CHECK_BUDGET", -1)
    async with journal_at(path) as journal:
        assert len(await ids(journal)) == 500


async def test_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A directory, a path under a file, a file that is not there."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "journal.db"):
        with pytest.raises(JournalError, match=str(path)):
            async with journal_at(path):
                pass
    with pytest.raises(JournalError, match="cannot be opened"):
        journalfile.connect(tmp_path / "nothing")


async def test_failed_creation_leaves_nothing(path: Path) -> None:
    """A full disk at the first start: the second start finds no half of a journal."""
    put(path, b"")
    path.unlink()  # noqa: ASYNC240 - nothing else runs
    with disk_limit(8192), pytest.raises(JournalError, match="cannot be created"):
        async with journal_at(path):
            pass
    assert files(path) == {}
    async with journal_at(path) as journal:
        assert await journal.add(event()) is Outcome.ACCEPTED


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_log_without_its_journal_is_not_taken(suffix: str, path: Path) -> None:
    """A new journal beside it would swallow what belongs to the old one."""
    leftover = path.with_name(path.name + suffix)
    put(leftover, b"events of another journal")
    with pytest.raises(JournalError, match=f"{leftover}: is left of another journal"):
        async with journal_at(path):
            pass
    assert files(path) == {leftover.name: b"events of another journal"}


async def test_draft_of_a_crashed_creation_is_replaced(path: Path) -> None:
    put(path.with_name("journal.db.new"), b"half")
    async with journal_at(path) as journal:
        assert await journal.add(event()) is Outcome.ACCEPTED
    assert set(files(path)) == {"journal.db"}


async def test_full_disk_is_refused_and_heals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 while it lasts, for the event and for the probe; then it goes on by itself."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 3600)
    metrics = Metrics()
    async with journal_at(path, metrics) as journal:
        await asyncio.gather(*(journal.add(event(f"e-{n}", b"x" * 4000)) for n in range(30)))
        with disk_limit(size(path.with_name("journal.db-wal")) + 1000):
            reason = await refusal(journal, "big", b"x" * 500_000)
            assert reason is RejectReason.JOURNAL_UNAVAILABLE
            assert not await journal.probe()
            assert not await journal.probe()
            assert await refusal(journal, "small") is RejectReason.JOURNAL_UNAVAILABLE
        assert await journal.probe()
        assert await journal.add(event("big", b"x" * 500_000)) is Outcome.ACCEPTED
        assert metrics.account().received == metrics.account().pending == 31
    async with journal_at(path) as journal:
        assert len(await ids(journal)) == 31


async def test_failed_checkpoint_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has everything; the next checkpoint takes it."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 0.01)
    with capture_logs() as lines:
        async with journal_at(path) as journal:
            with rows(path) as reader:
                # A reader holds the log where it is, so the file does not grow.
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM events").fetchall()
                for n in range(30):
                    await journal.add(event(f"e-{n}", b"x" * 10_000))
            with disk_limit(size(path)):
                await until(
                    lambda: "journal_checkpoint_failed" in {line["event"] for line in lines}
                )
            await until(lambda: size(path) > 300_000)
            assert await journal.add(event("after")) is Outcome.ACCEPTED
            assert len(await ids(journal)) == 31


async def test_locked_file_is_refused_and_heals(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds the file's lock for too long (a backup tool): 503, then on."""
    monkeypatch.setattr(journalfile, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(journalwriter, "TIDY_INTERVAL", 0.01)
    async with journal_at(path) as journal:
        with write_lock(path):
            assert await refusal(journal, "a") is RejectReason.JOURNAL_UNAVAILABLE
            tidied = journal._writer._tidied_at
            await until(lambda: journal._writer._tidied_at > tidied)
        assert await journal.add(event("a")) is Outcome.ACCEPTED


async def test_fault_in_one_job_undoes_its_commit_only(path: Path) -> None:
    """The writer's thread outlives it."""

    def fault(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM events")
        raise ZeroDivisionError

    async with journal_at(path) as journal:
        await journal.add(event("a"))
        with pytest.raises(RejectedError, match="cannot be written"):
            await journal._call(fault)
        assert await ids(journal) == ["a"]
        assert await journal.add(event("b")) is Outcome.ACCEPTED


async def test_write_ahead_log_starts_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under steady load it does not grow for ever."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 0.01)
    monkeypatch.setattr(journalwriter, "WAL_PAGES", 20)
    wal = path.with_name("journal.db-wal")

    def sequence() -> int:
        """The checkpoint sequence number in the log's header."""
        return int.from_bytes(wal.read_bytes()[12:16], "big")

    async with journal_at(path) as journal:
        await journal.add(event("first"))
        first, count = sequence(), 0
        async with asyncio.timeout(20):
            while sequence() == first or count < 50:
                await journal.add(event(f"e-{count}", b"x" * 4000))
                count += 1
        assert len(await ids(journal)) == count + 1


async def test_size_counts_the_log(path: Path) -> None:
    async with journal_at(path) as journal:
        await journal.add(event("a", b"x" * 100_000))
        wal = path.with_name("journal.db-wal")
        assert size(path) + size(wal) == journal.size()
        assert journal.size() > 100_000


async def test_read_only_connection_writes_nothing(path: Path) -> None:
    """What commands look through."""
    await make(path, 1)
    with closing(journalfile.connect(path, readonly=True)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM events")


async def test_failed_commit_does_not_disturb_the_next_answers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of a commit that was undone are given again: to new events, which are no repeats."""
    monkeypatch.setattr(journalwriter, "CHECKPOINT_INTERVAL", 3600)
    async with journal_at(path) as journal:
        await journal.add(event("a"))
        with disk_limit(size(path.with_name("journal.db-wal")) + 1000):
            refusing = [journal.add(event(f"lost-{n}", b"x" * 5000)) for n in range(50)]
            answers = await asyncio.gather(*refusing, return_exceptions=True)
        assert {RejectedError} == {type(answer) for answer in answers}
        with write_lock(path):
            adding = [asyncio.create_task(journal.add(event(name))) for name in ("b", "a", "c")]
            await asyncio.sleep(0)
        expected = [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.ACCEPTED]
        assert expected == await asyncio.gather(*adding)


async def test_account_balances_whatever_happens(path: Path) -> None:
    """Accepted, repeated, refused and settled in any mixture, over restarts."""
    for turn in range(3):
        metrics = Metrics()
        async with journal_at(path, metrics, max_waiting=20) as journal:
            names = [f"e-{turn * 5 + n // 2}" for n in range(30)]
            answers = await asyncio.gather(
                *(journal.add(event(name)) for name in names), return_exceptions=True
            )
            refused_ones = [one for one in answers if isinstance(one, RejectedError)]
            assert len(refused_ones) == 10
            (first, *_) = await journal.pending(1, 1)
            await journal.settle([Settlement(seq=first.seq, outcome=Outcome.PUBLISHED)], NOW)
            metrics.ledger.settled({Outcome.PUBLISHED: 1})
            account = metrics.account()
            settled = account.published + account.duplicate + account.dead_letter
            assert account.received == settled + account.pending
            assert len(await ids(journal)) == account.pending


async def test_what_is_too_much_for_memory_comes_from_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order, and within the same bounds."""
    monkeypatch.setattr(backlog, "MAX_BYTES", 400)
    async with journal_at(path) as journal:
        assert await journal.pending(1, 1) == []
        for n in range(4):
            await journal.add(event(f"e-{n}", b"x" * 100))
        assert len(journal._backlog) == 4
        assert [one.event_id for one in await journal.pending(9, 150)] == ["e-0", "e-1"]
        await journal.add(event("e-4", b"x"))
        assert len(journal._backlog) == 0
        assert await ids(journal) == [f"e-{n}" for n in range(5)]


async def test_few_bodies_are_kept_parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as few wait: parsed, a body takes several times its size."""
    monkeypatch.setattr(journal_module, "PARSED", 2)
    callbacks = [replace(event(f"e-{n}"), content={"n": n}) for n in range(4)]
    async with journal_at(path) as journal:
        assert await journal.pending(1, 1) == []
        for callback in callbacks[:3]:
            await journal.add(callback)
        assert [one.content for one in await journal.pending(9, 9**9)] == [{"n": 0}, {"n": 1}, None]
        await journal.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], NOW)
        await journal.settle([Settlement(seq=2, outcome=Outcome.PUBLISHED)], NOW)
        await journal.add(callbacks[3])
        assert [one.content for one in await journal.pending(9, 9**9)] == [None, {"n": 3}]


@pytest.mark.parametrize("seed", range(8))
async def test_pending_in_memory_is_what_the_file_has(
    seed: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between two reads: repeats, settles, replays, refusals, a long queue."""
    monkeypatch.setattr(backlog, "MAX_BYTES", 400)
    chance = random.Random(seed)
    async with journal_at(path) as journal:

        async def add() -> None:
            names = [f"e-{chance.randrange(400)}" for _ in range(chance.randrange(1, 9))]
            await asyncio.gather(*(journal.add(event(name, b"x" * 9)) for name in names))

        async def settle() -> None:
            if batch := await journal.pending(chance.randrange(1, 30), 10_000):
                await journal.settle(
                    [Settlement(seq=e.seq, outcome=Outcome.PUBLISHED) for e in batch], NOW
                )

        async def replay() -> None:
            with rows(path) as connection:
                insert(connection, f"foreign-{time.monotonic_ns()}", replayed=1)
            await add()

        async def refuse() -> None:
            for one in await journal.pending(1, 1):
                await journal.mark_refused([one.seq], DeadLetterReason.TOO_LARGE)

        steps = [add] * 4 + [settle] * 4 + [replay, refuse]
        complete = 0
        for _ in range(150):
            await chance.choice(steps)()
            complete += bool(journal._backlog)
            with rows(path) as connection:
                sql = "SELECT seq, reason FROM events WHERE outcome IS NULL ORDER BY seq"
                expected = connection.execute(sql).fetchall()
            found = await journal.pending(10_000, 2**30)
            assert expected == [(e.seq, e.refused) for e in found]
        assert complete > 10


async def test_crowd_is_waited_for_but_not_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as shared the last commit share the next one; a few alone go on after a while."""
    monkeypatch.setattr(journalwriter, "GATHER", 0.5)
    async with journal_at(path) as journal:
        commits = journal._metrics.commit_seconds
        await asyncio.gather(*(journal.add(event(f"a-{n}")) for n in range(50)))
        before, began = commits._sum.get(), time.perf_counter()
        late = asyncio.get_running_loop().call_later
        adding = [asyncio.create_task(journal.add(event("b-0")))]
        ready = asyncio.Event()
        late(0.05, ready.set)
        await ready.wait()
        assert not adding[0].done(), "it waits for the others"
        adding += [asyncio.create_task(journal.add(event(f"b-{n}"))) for n in range(1, 50)]
        await asyncio.gather(*adding)
        assert time.perf_counter() - began < 0.45, "they are all here"
        assert commits._sum.get() > before
        began = time.perf_counter()
        await journal.add(event("alone"))
        assert time.perf_counter() - began >= 0.45, "nobody else came"
        began = time.perf_counter()
        await journal.add(event("alone again"))
        assert time.perf_counter() - began < 0.45, "the last commit had one only"
