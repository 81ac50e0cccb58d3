"""However many settled events a journal has: no statement reads all rows, but slice by slice."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.contract.normalize import Router
from relay.errors import EventNotFoundError
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import file, handover, search
from relay.journal import view as journalview
from relay.journal import writer as journalwriter
from relay.journal.rows.claimed import Claimed
from relay.journal.search import Filter
from relay.observe.metrics import Metrics
from tests.fakes import MESSAGE_CREATED, event, journal_at, until

#: What reads few rows: those that wait, a range of seqs, one event, the apps' names.
BOUNDED = (
    "USING INDEX events_pending",
    "USING COVERING INDEX events_pending",
    "(app=? AND event_id=?)",
    "USING COVERING INDEX sqlite_autoindex_events_1 (app>?)",
    "(rowid>? AND rowid<?)",
    "(rowid=?)",
    "USING COVERING INDEX lives_rare (kind=?)",
    "USING INDEX lives_rare (kind=? AND rowid>? AND rowid<?)",
)
#: The rows that came with the present transaction.
NEW_ROWS = "SELECT app, event_id, seq FROM events WHERE seq >"
SETTLED = 30_000


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every statement that the room gives to SQLite from now on."""
    seen: set[str] = set()
    connect = file.connect

    def traced(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.set_trace_callback(seen.add)
        return connection

    monkeypatch.setattr(file, "connect", traced)
    return seen


async def test_no_statement_reads_all_rows(
    tmp_path: Path, statements: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own plan of each, once everything that the room can do has been done."""
    monkeypatch.setattr(journalwriter, "TIDY_INTERVAL", 0.01)
    path = tmp_path / "journal.db"
    async with journal_at(path) as journal:
        for n in range(5):
            await journal.add(event(f"e-{n}"))
        assert len(await journal.pending(10, 10**6)) == 5
        assert journal.oldest_pending()
        endings = (Outcome.PUBLISHED, Outcome.DUPLICATE, Outcome.DEAD_LETTER)
        await journal.settle(
            [Settlement(seq=n, outcome=one) for n, one in enumerate(endings, 1)], 1
        )
        await journal.add(event("e-4"))
        await journal.mark_refused([5], DeadLetterReason.TOO_LARGE)
        await journal.note_claimed(Claimed(seeded=True))
        await journal.become(replace(journal.identity, id="another"))
        assert journal.published(0, 10) is not None
        assert await journal.probe()
        await until(lambda: any(one.startswith("DELETE") for one in statements))
    async with journal_at(path, max_bytes=1) as journal:
        await journal.settle([Settlement(seq=4, outcome=Outcome.PUBLISHED)], 2**50)
        await until(lambda: any("x'', traceparent FROM events" in one for one in statements))
    use_commands(path, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        plans = {one: plan(connection, one) for one in statements if explainable(one)}
    assert len(plans) > 30
    bad = {one: found for one, found in plans.items() if not all(map(bounded(one), found))}
    assert not bad, bad


def use_commands(path: Path, directory: Path) -> None:
    """All that an operator can call."""
    use_looks(path)
    with journalview.opened(path) as view:
        view.undecided()
        view.latest("default")
        list(view.bodies("default", ["a", "b"]))
        for app in (None, "default"):
            with pytest.raises(EventNotFoundError):
                view.find("nothing", app)
        view.add(event("added"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET outcome = 'published' WHERE event_id = 'added'")
    with journalview.opened(path) as view:
        view.replay("added")
    handover.write(path, directory / "out.jsonl")
    assert handover.read(directory / "out.jsonl", directory / "heir.db").added


def use_looks(path: Path) -> None:
    """At what is noted, and at what an earlier version has settled."""
    asked = (
        Filter(),
        Filter(text="a", app="default", outcome="published"),
        Filter(ticket="a", message_id="b", since=1, until=2**50),
        Filter(outcome="pending", event_type=MESSAGE_CREATED, transport="webhook"),
        Filter(outcome="dead_letter", reason="nothing"),
        Filter(event_id="e-1"),
    )
    for first in (0, 3):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE journal SET lives_from = ?", (first,))
        with search.opened(path, Router("", {}).ids) as journal:
            for wanted in asked:
                journal.page(wanted)
            journal.event("e-1")
            journal.reasons()
            journal.latest()


def explainable(statement: str) -> bool:
    return bool(re.match(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement))


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    marks = statement.count("?")
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * marks)
    return [str(row[3]) for row in rows]


def bounded(statement: str) -> Callable[[str], bool]:
    def is_so(step: str) -> bool:
        if not re.match(r"(SCAN|SEARCH) (events|lives)\b", step) or any(
            one in step for one in BOUNDED
        ):
            return True
        # An end of the table, or so many rows from a place on.
        least = re.search(r"(min|max)\((seq|app)\)", statement) is not None
        return least or "LIMIT" in statement or statement.startswith(NEW_ROWS)

    return is_so


def fill(path: Path, count: int) -> None:
    """Leave settled rows, with the ids of two apps in no order."""
    file.prepare(path)
    with closing(file.connect(path)) as connection:
        connection.execute(
            "INSERT INTO events (app, event_id, event_type, transport, received_at, body, outcome)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " SELECT iif(i % 2, 'default', 'other'), hex(randomblob(16)), 'type-' || (i % 3),"
            " 'webhook', i, randomblob(100), 'published' FROM n",
            (count,),
        )
        connection.execute("UPDATE journal SET lives_from = ?", (count + 1,))


async def test_start_counts_what_waits_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as many steps with 30,000 settled events as with none."""
    path, steps = tmp_path / "journal.db", 0
    fill(path, SETTLED)
    connect = file.connect

    def step() -> None:
        nonlocal steps
        steps += 1

    def counted(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.set_progress_handler(step, 100)
        return connection

    monkeypatch.setattr(file, "check_pages", lambda _: None)
    monkeypatch.setattr(file, "connect", counted)
    metrics = Metrics()
    async with journal_at(path, metrics):
        assert metrics.account().received == 0
    assert steps < 50


@pytest.mark.parametrize("budget", [-1.0, 0.05])
def test_look_for_damage_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float
) -> None:
    """Also within one step of SQLite's; it is broken off, not waited for."""
    path = tmp_path / "journal.db"
    fill(path, SETTLED)
    broken_off: list[bool] = []
    within = file._quick_check

    def noted(connection: sqlite3.Connection) -> str:
        found = within(connection)
        broken_off.append(connection.in_transaction)
        return found

    monkeypatch.setattr(file, "CHECK_BUDGET", budget)
    monkeypatch.setattr(file, "_quick_check", noted)
    file.check_pages(path)
    assert broken_off == [False]


def test_rows_are_found_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies between them: gaps, other apps, other endings; and it tells how far it is."""
    monkeypatch.setattr(journalview, "FIRST_SLICE", 7)
    monkeypatch.setattr(journalview, "SLICE", 7)
    path = tmp_path / "journal.db"
    fill(path, 60)
    with closing(file.connect(path)) as connection:
        connection.execute("DELETE FROM events WHERE seq BETWEEN 10 AND 40")
        connection.execute("UPDATE events SET outcome = 'dead_letter' WHERE seq IN (3, 45, 50)")
        connection.execute("UPDATE events SET outcome = NULL WHERE seq IN (2, 59)")
        connection.execute("UPDATE events SET reason = 'too_large' WHERE seq IN (1, 60)")
    done: list[float] = []
    with journalview.opened(path, done.append) as view:
        assert view.undecided() == 2
        assert done[:2] == pytest.approx([7 / 60, 14 / 60])
        assert done == sorted(done)
        assert done[-1] == 1
        assert view.latest("default") == {"type-0": 57, "type-1": 55, "type-2": 59}
        assert len(list(view.bodies("other", ["type-0", "type-1"]))) == 9
        with search.opened(path, Router("", {}).ids) as journal:
            row = journal.page(Filter(), limit=1).lives[0]
        found = view.find(row.event_id)[0]
        assert (found.seq, row.seq) == (60, 60)
        assert found == view.find(row.event_id, row.app)[0]
        with pytest.raises(EventNotFoundError):
            view.find(row.event_id, "another")


def test_empty_journal_has_no_slices(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    file.prepare(path)
    with journalview.opened(path) as view:
        assert view.undecided() == 0
        with pytest.raises(EventNotFoundError):
            view.find("nothing")
