"""What is remembered, and for how long: whatever the clocks say meanwhile."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.errors import RejectedError
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import file as journalfile
from relay.journal import retention
from relay.journal import writer as journalwriter
from relay.journal.journal import Journal
from relay.journal.retention import Retention
from relay.observe import clock
from relay.settings import SHORTEST_DEDUPE_WINDOW
from tests.fakes import event, journal_at, until

HOUR = 3600.0
DAY = 24 * HOUR
WINDOW = 16 * HOUR


class Clocks:
    """The machine's two clocks, in the test's hands."""

    def __init__(self) -> None:
        self.boot, self.wall = 1000.0, 1_767_323_045.0

    def go(self, seconds: float) -> None:
        """Time passes."""
        self.boot += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(clock, "boot", lambda: made.boot)
    monkeypatch.setattr(time, "time", lambda: made.wall)
    monkeypatch.setattr(journalwriter, "TIDY_INTERVAL", 0.01)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@contextmanager
def rows(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def left(path: Path) -> list[str]:
    with rows(path) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM events ORDER BY seq")]


async def publish(journal: Journal, *names: str) -> None:
    """Store events and settle all that is pending, at the time of the wall clock."""
    for name in names:
        await journal.add(event(name))
    batch = await journal.pending(1000, 2**30)
    ends = [Settlement(seq=one.seq, outcome=Outcome.PUBLISHED) for one in batch]
    await journal.settle(ends, int(time.time() * 1000))


async def tidied(journal: Journal) -> None:
    """Wait until the clean-up has seen the clocks as they are now, and is done."""
    writer = journal._writer
    for _ in range(2):
        at = writer._tidied_at
        await until(lambda at=at: writer._tidied_at > at and not writer._untidy)  # type: ignore[misc]


async def go(journal: Journal, clocks: Clocks, seconds: float, step: float = HOUR) -> None:
    """Let time pass while the journal is open."""
    while seconds > 0:
        clocks.go(min(step, seconds))
        seconds -= step
        await tidied(journal)


async def test_events_go_a_window_after_they_are_settled(path: Path, clocks: Clocks) -> None:
    """The clean-up may note at once that they are settled, or when the first hour has passed."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "a", "b")
        await go(journal, clocks, 3 * HOUR)
        await publish(journal, "c")
        await go(journal, clocks, WINDOW - 4 * HOUR)
        assert left(path) == ["a", "b", "c"]
        await go(journal, clocks, 2 * HOUR)
        assert left(path) == ["c"]
        await go(journal, clocks, 3 * HOUR)
        assert left(path) == []
        assert await journal.add(event("a")) is Outcome.ACCEPTED


@pytest.mark.parametrize("days", [-400, -2, 0.8, 2, 400])
@pytest.mark.parametrize("moment", [5, 5 * DAY], ids=["for a moment", "for days"])
async def test_clock_that_jumps_forgets_nothing(
    path: Path, clocks: Clocks, days: float, moment: float
) -> None:
    """However far, either way, there and back; and it is logged."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, *(f"e-{n}" for n in range(300)))
        await go(journal, clocks, HOUR)
        with capture_logs() as logs:
            clocks.wall += days * DAY
            await go(journal, clocks, min(moment, 10 * HOUR))
            clocks.wall -= days * DAY
            await tidied(journal)
        assert len(left(path)) == 300
        assert await journal.add(event("e-7")) is Outcome.DUPLICATE
        jumps = [line["seconds"] for line in logs if line["event"] == "clock_jumped"]
        assert jumps == [days * DAY, -days * DAY]


@pytest.mark.parametrize("days", [-400, -2, 2, 400])
async def test_event_settled_under_a_wrong_clock_does_not_stop_the_clean_up(
    path: Path, clocks: Clocks, days: int
) -> None:
    async with journal_at(path, window=WINDOW) as journal:
        clocks.wall += days * DAY
        await publish(journal, "wrong")
        clocks.wall -= days * DAY
        await publish(journal, "right")
        await go(journal, clocks, WINDOW + 2 * HOUR)
        assert left(path) == []


async def test_boot_clock_that_jumps_forgets_nothing(path: Path, clocks: Clocks) -> None:
    """A machine that was moved: what its clocks do not agree on does not count."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "a")
        await go(journal, clocks, HOUR)
        clocks.boot += 10 * DAY
        await go(journal, clocks, HOUR)
        assert left(path) == ["a"]


async def test_sleep_of_the_machine_counts(path: Path, clocks: Clocks) -> None:
    """Both clocks go on meanwhile: repeats do, too."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "a")
        await tidied(journal)
        await go(journal, clocks, HOUR)
        await go(journal, clocks, 10 * DAY, step=10 * DAY)
        assert left(path) == []


@pytest.mark.parametrize("open_for", [30.0, HOUR, 5 * HOUR])
async def test_only_open_time_counts(path: Path, clocks: Clocks, open_for: float) -> None:
    """Over restarts, with days between them; a stop notes what is open since the last note."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "a")
    passed = 0.0
    while passed < WINDOW:
        assert left(path) == ["a"], passed
        clocks.go(3 * DAY)
        async with journal_at(path, window=WINDOW) as journal:
            steps = max(open_for, WINDOW / 8)
            await go(journal, clocks, steps)
            passed += steps
    async with journal_at(path, window=WINDOW) as journal:
        await tidied(journal)
        assert left(path) == []


async def test_crash_forgets_no_more_than_a_minute(path: Path, clocks: Clocks) -> None:
    """What is open for too short a time to be noted only keeps events for longer."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "a")
        await go(journal, clocks, 3 * HOUR)
        with rows(path) as connection:
            (noted,) = connection.execute("SELECT open_for FROM journal").fetchone()
        assert 3 * HOUR * 1000 - retention.NOTE_INTERVAL <= noted <= 3 * HOUR * 1000


async def test_what_must_stay_stays(path: Path, clocks: Clocks) -> None:
    """What is undecided, and what stands behind something pending; the latter until it is not."""
    names = ("old", "large", "fault", "letter")
    reasons = (None, "too_large", "internal_error", "no_event_id")
    async with journal_at(path, window=WINDOW) as journal:
        for name in (*names, "pending", "behind"):
            await journal.add(event(name))
        ends = [
            Settlement(seq=seq, outcome=Outcome.DEAD_LETTER, reason=reason)
            for seq, reason in enumerate(reasons, 1)
        ]
        await journal.settle(ends, 1)
        with rows(path) as connection:
            connection.execute("UPDATE events SET outcome = 'published' WHERE event_id = 'behind'")
        await go(journal, clocks, WINDOW + HOUR)
        assert left(path) == ["large", "fault", "pending", "behind"]
        await publish(journal)
        await go(journal, clocks, WINDOW - HOUR)
        assert left(path) == ["large", "fault", "pending", "behind"]
        await go(journal, clocks, 2 * HOUR)
        assert left(path) == ["large", "fault"]


async def test_what_is_forgotten_is_overwritten(path: Path, clocks: Clocks) -> None:
    """After a stop no file beside the journal has it either."""
    mark = b"a customer's words " * 9
    async with journal_at(path, window=WINDOW) as journal:
        for n in range(50):
            await journal.add(event(f"e-{n}", mark + b"x" * n * 99))
        await publish(journal)
        await go(journal, clocks, WINDOW + 2 * HOUR)
        assert left(path) == []
    files = list(path.parent.glob(path.name + "*"))
    assert path in files
    assert not [one for one in files if mark in one.read_bytes()]


async def test_letter_whose_body_is_nowhere_else_stays(path: Path, clocks: Clocks) -> None:
    """Of each kind, until an operator decides; an event that is on its topic does not."""
    async with journal_at(path, window=WINDOW, letters_alone=True) as journal:
        for reason in DeadLetterReason:
            await journal.add(event(reason))
        await publish(journal, "published")
        with rows(path) as connection:
            sql = "UPDATE events SET reason = event_id, outcome = 'dead_letter' WHERE seq < ?"
            connection.execute(sql, (len(DeadLetterReason) + 1,))
            discarded = "UPDATE events SET reason = 'discarded' WHERE event_id = 'no_event_id'"
            connection.execute(discarded)
        await go(journal, clocks, WINDOW + 2 * HOUR)
        assert left(path) == [one for one in DeadLetterReason if one != "no_event_id"]


async def test_dead_letter_without_its_body_goes_like_any_other(path: Path, clocks: Clocks) -> None:
    """A full journal has let go of it: there is nothing left to decide."""
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "fault", "large", "kept")
        with rows(path) as connection:
            sql = "UPDATE events SET reason = ?, body = ? WHERE event_id = ?"
            connection.execute(sql, ("internal_error", b"", "fault"))
            connection.execute(sql, ("too_large", b"", "large"))
            connection.execute(sql, ("too_large", b"x", "kept"))
        await go(journal, clocks, WINDOW + HOUR)
        assert left(path) == ["kept"]


async def test_discarded_dead_letter_goes_later(
    path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left standing is looked at again."""
    monkeypatch.setattr(journalwriter, "TIDY_AGAIN", 0.1)
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "large", "old")
        with rows(path) as connection:
            connection.execute("UPDATE events SET reason = 'too_large' WHERE event_id = 'large'")
        await go(journal, clocks, WINDOW + HOUR)
        assert left(path) == ["large"]
        with rows(path) as connection:
            connection.execute("UPDATE events SET reason = 'discarded'")
        await until(lambda: not left(path))


async def test_marks_do_not_pile_up(path: Path, clocks: Clocks) -> None:
    """One for each minute in which something was settled, within a window."""
    async with journal_at(path, window=WINDOW) as journal:
        for n in range(40):
            await publish(journal, f"e-{n}")
            await go(journal, clocks, HOUR)
        await go(journal, clocks, 3 * WINDOW)
        with rows(path) as connection:
            assert connection.execute("SELECT count(*) FROM marks").fetchone()[0] == 1
        assert left(path) == []


async def test_clean_up_that_fails_is_made_up_for(
    path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no event, and is done when the file can be written again."""
    monkeypatch.setattr(journalfile, "BUSY_TIMEOUT", 0.01)
    async with journal_at(path, window=WINDOW) as journal:
        await publish(journal, "old")
        await go(journal, clocks, HOUR)
        with rows(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(RejectedError, match="cannot be written"):
                await journal.add(event("a"))
            clocks.go(WINDOW)
            tidied = journal._writer._tidied_at
            await until(lambda: journal._writer._tidied_at > tidied)
            assert left(path) == ["old"]
            connection.execute("ROLLBACK")
        await until(lambda: left(path) == [])
        assert await journal.add(event("a")) is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("age", "stale"),
    [
        (0, False),
        (8 * 3600_000, False),
        (8 * 3600_000 + 1, True),
        (24 * 3600_000, True),
        (-300_000, False),
        (-300_001, True),
    ],
)
def test_age_of_a_signed_request(age: int, *, stale: bool) -> None:
    assert Retention.stale(1_767_323_045_000, 1_767_323_045_000 + age) is stale


def test_whatever_passes_is_remembered() -> None:
    """The last retry is signed 7.1 hours after the first; clocks may differ by the skew, twice."""
    last = 7.1 * HOUR + (retention.OLDEST_REQUEST + 2 * retention.CLOCK_SKEW) / 1000
    assert last <= SHORTEST_DEDUPE_WINDOW
    assert Retention(SHORTEST_DEDUPE_WINDOW).claim_seconds >= last


def test_clock_counts_on() -> None:
    before = clock.boot()
    assert 0 <= clock.boot() - before < 60
