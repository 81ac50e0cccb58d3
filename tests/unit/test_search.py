"""Looks for events: each finds what it asks for, in pages, in time, whatever wrote the journal."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relay.contract.normalize import Router
from relay.errors import EventNotFoundError, JournalError
from relay.events import DeadLetterReason, Outcome, Settlement, StoredEvent, Transport
from relay.journal import file, search
from relay.journal import view as journalview
from relay.journal.rows import lives
from relay.journal.rows.lives import Life
from relay.journal.search import Filter
from tests.fakes import MESSAGE_CREATED, as_json, event, journal_at, payload

NOW = 1_767_323_045_678
IDS = Router("", {}).ids
TICKET = "6626871355780366331"
TOPIC = "feishu.helpdesk.ticket_message"
OTHER = "im.message.receive_v1"


def body(event_id: str, ticket: str, message_id: str | None = None) -> bytes:
    content = {"ticket": {"ticket_id": ticket}, "message_id": message_id, "text": "about 5"}
    return as_json(payload(event_id, event=content))


def ended(
    one: StoredEvent, outcome: Outcome = Outcome.PUBLISHED, reason: str | None = None, **facts: Any
) -> Settlement:
    return Settlement(seq=one.seq, outcome=outcome, reason=reason, event=one, **facts)


async def fill(path: Path) -> None:
    """Ten events: of two apps, types and transports, of all endings, and two that wait."""
    async with journal_at(path) as journal:
        for n in range(10):
            made = event(f"e-{n}", body(f"e-{n}", TICKET if n % 2 else "77", f"om_{n}"))
            if n in {3, 8}:
                made = replace(made, app="second", event_type=OTHER)
            if n in {4, 9}:
                made = replace(made, transport=Transport.LONG_CONNECTION)
            await journal.add(replace(made, received_at=NOW + n))
        batch = await journal.pending(8, 2**20)
        facts: list[dict[str, Any]] = [
            {"topic": TOPIC, "ticket": TICKET if n % 2 else "77", "message_id": f"om_{n}"}
            for n in range(8)
        ]
        ends = [ended(one, **fact) for one, fact in zip(batch, facts, strict=True)]
        letters: dict[str, Any] = {"topic": "feishu.dead_letter"}
        ends[1] = ended(batch[1], Outcome.DEAD_LETTER, DeadLetterReason.NO_EVENT_TYPE, **letters)
        ends[2] = ended(batch[2], Outcome.DEAD_LETTER, DeadLetterReason.TOO_LARGE, **letters)
        ends[5] = ended(batch[5], Outcome.DUPLICATE, "other_replica", ticket=TICKET)
        await journal.settle(ends, NOW + 100, NOW + 50, [(n, 40 + n) for n in range(7)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "journal.db"
    asyncio.run(fill(place))
    return place


@pytest.fixture
def old(path: Path) -> Path:
    """The same events in a journal that version 3 has settled."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DELETE FROM lives; UPDATE journal SET lives_from = 9")
    return path


def found(path: Path, wanted: Filter) -> list[int]:
    """Give the events' numbers, asked for page by page."""
    with search.opened(path, IDS) as journal:
        return [int(one.event_id[2:]) for page in journal.every(wanted) for one in page.lives]


ASKED = [
    (Filter(), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    (Filter(app="second"), [8, 3]),
    (Filter(app="nobody"), []),
    (Filter(event_type=OTHER), [8, 3]),
    (Filter(event_type=OTHER, app="default"), []),
    (Filter(transport="long_connection"), [9, 4]),
    (Filter(outcome="pending"), [9, 8]),
    (Filter(outcome="published"), [7, 6, 4, 3, 0]),
    (Filter(outcome="dead_letter"), [2, 1]),
    (Filter(outcome="duplicate"), [5]),
    (Filter(outcome="withheld"), []),
    (Filter(reason="too_large"), [2]),
    (Filter(reason="nothing"), []),
    (Filter(since=NOW + 7), [9, 8, 7]),
    (Filter(until=NOW + 2), [1, 0]),
    (Filter(since=NOW + 2, until=NOW + 4), [3, 2]),
    (Filter(event_id="e-4"), [4]),
    (Filter(event_id="e-4", app="second"), []),
    (Filter(event_id="e"), []),
    (Filter(text="e-9"), [9]),
    (Filter(text="om_6"), [6]),
    (Filter(text="om_9"), [9]),
    (Filter(text="om_"), []),
    (Filter(text="5"), []),
    (Filter(message_id="om_7"), [7]),
    (Filter(message_id="om_7", ticket="77"), []),
    (Filter(ticket="5"), []),
    (Filter(ticket=""), []),
    (Filter(ticket=TICKET, outcome="published"), [7, 3]),
    (Filter(ticket=TICKET, outcome="pending"), [9]),
]


@pytest.mark.parametrize(("wanted", "numbers"), ASKED)
def test_what_is_asked_for_is_found(path: Path, wanted: Filter, numbers: list[int]) -> None:
    assert found(path, wanted) == numbers


@pytest.mark.parametrize(("wanted", "numbers"), ASKED)
def test_what_an_earlier_version_has_settled_is_found(
    old: Path, wanted: Filter, numbers: list[int]
) -> None:
    """By its body, where nothing is noted of it."""
    assert found(old, wanted) == numbers


def test_ticket_is_found_whatever_became_of_its_events(path: Path) -> None:
    """What is no event, by its record, has none: 1."""
    assert found(path, Filter(ticket=TICKET)) == found(path, Filter(text=TICKET)) == [9, 7, 5, 3]


@pytest.mark.parametrize("ticket", ["x" * 300, "007", "客服\x00", "' OR 1=1 --", "%", "9" * 25])
@pytest.mark.parametrize("settle", [True, False])
async def test_any_ticket_is_found(tmp_path: Path, ticket: str, *, settle: bool) -> None:
    path = tmp_path / "journal.db"
    async with journal_at(path) as journal:
        await journal.add(event("e-1", body("e-1", ticket)))
        await journal.add(event("e-2", body("e-2", "another")))
        if settle:
            batch = await journal.pending(9, 2**20)
            names = (ticket, "another")
            ends = [ended(one, ticket=name) for one, name in zip(batch, names, strict=True)]
            await journal.settle(ends, NOW)
    numbers = [1] if settle or ticket != "客服\x00" else []  # JSON writes the last one otherwise
    assert found(path, Filter(ticket=ticket)) == found(path, Filter(text=ticket)) == numbers


def test_life_says_what_is_known(path: Path) -> None:
    with search.opened(path, IDS) as journal:
        life, found_body = journal.event("e-3")
        waiting, _ = journal.event("e-9", "default")
        with pytest.raises(EventNotFoundError):
            journal.event("e-3", "default")
        with pytest.raises(EventNotFoundError):
            journal.event("nothing")
    assert found_body == body("e-3", TICKET, "om_3")
    assert life.stored_at is None
    assert life == Life(
        seq=4,
        app="second",
        event_id="e-3",
        event_type=OTHER,
        transport=Transport.WEBHOOK,
        received_at=NOW + 3,
        outcome="published",
        reason=None,
        settled_at=NOW + 100,
        size=len(found_body),
        replayed=False,
        claimed_at=NOW + 50,
        ticket=TICKET,
        message_id="om_3",
        topic=TOPIC,
        partition=3,
        offset=43,
    )
    assert (waiting.outcome, waiting.ticket, waiting.topic) == ("pending", TICKET, None)


def test_pages_follow_each_other(path: Path) -> None:
    """And the last one says that it is."""
    seen: list[str] = []
    with search.opened(path, IDS) as journal:
        page = journal.page(Filter(), limit=4)
        while True:
            seen.append("".join(one.event_id[2:] for one in page.lives))
            if page.before is None:
                break
            assert page.looked_to == page.lives[-1].received_at
            page = journal.page(Filter(), page.before, 4)
        assert journal.page(Filter(), 1).lives == ()
    assert seen == ["9876", "5432", "10"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time is up as soon as it is looked at; a look covers two events."""
    clock = iter(range(10**6))
    monkeypatch.setattr(search, "FIRST_SLICE", 2)
    stub = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("relay.journal.search.time", stub)
    return iter(())


def test_page_says_how_far_it_came(path: Path, slow: None) -> None:
    """Each comes further than the one before, and the last one is the last."""
    del slow
    with search.opened(path, IDS) as journal:
        first = journal.page(Filter(reason="too_large"))
        pages = list(journal.every(Filter(event_id="e-0")))
    assert (first.lives, first.before, first.looked_to) == ((), 9, NOW + 8)
    assert [(page.before, len(page.lives)) for page in pages] == [
        (9, 0),
        (7, 0),
        (5, 0),
        (3, 0),
        (None, 1),
    ]


def test_look_is_broken_off_when_time_is_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid a statement too; the next page looks there again."""
    monkeypatch.setattr(search, "_STEPS", 1)
    monkeypatch.setattr(search, "FIRST_SLICE", 2)
    with search.opened(path, IDS) as journal:
        page = journal.page(Filter(), seconds=0)
        assert (len(page.lives), page.before) == (2, 9)
        connection = journal._connection
        with pytest.raises(TimeoutError), search._until(connection, 0):
            connection.execute("SELECT count(*) FROM events").fetchall()
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(10,)]
        with pytest.raises(sqlite3.OperationalError), search._until(connection, None):
            connection.execute("SELECT nothing")


def test_dead_letters_are_counted_by_reason(path: Path) -> None:
    with journalview.opened(path) as view:
        view.discard("e-2")
    with search.opened(path, IDS) as journal:
        assert journal.reasons() == {"no_event_type": 1, "discarded": 1}
    assert found(path, Filter(reason="discarded")) == [2]
    assert found(path, Filter(reason="too_large")) == []


def test_latest_of_each_type_is_told(path: Path) -> None:
    with search.opened(path, IDS) as journal:
        latest, seq = journal.latest()
        assert latest == {("default", MESSAGE_CREATED): NOW + 9, ("second", OTHER): NOW + 8}
        assert journal.latest(seq)[1] == seq == 10
        assert journal.id


def test_seldom_type_is_told_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_LATEST", 1)
    with search.opened(path, IDS) as journal:
        latest, seq = journal.latest()
        assert latest == {("default", MESSAGE_CREATED): NOW + 9, ("second", OTHER): NOW + 3}
        assert set(journal.latest(seq)[0]) == {("default", MESSAGE_CREATED)}


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_journal_of_each_version_can_be_looked_into(tmp_path: Path, version: int) -> None:
    """Without carrying it over: its relay may run."""
    kept = Path(__file__).parent / "journals" / f"v{version}.db"
    path = Path(shutil.copy(kept, tmp_path / "journal.db"))
    with search.opened(path, IDS) as journal:
        page = journal.page(Filter(ticket="77"))
        assert len(page.lives) == 5
        assert journal.page(Filter(outcome="pending")).lives == page.lives[:2]
        assert journal.event("published")[0].topic == (TOPIC if version == lives.SINCE else None)
        assert journal.reasons() == ({"too_large": 1} if version == lives.SINCE else {})
        assert set(journal.latest()[0]) == {("default", MESSAGE_CREATED)}
    with closing(sqlite3.connect(path)) as connection:
        assert file.version(connection) == version


def test_empty_journal_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    file.prepare(path)
    with search.opened(path, IDS) as journal:
        assert journal.page(Filter()) == journal.page(Filter(), 5) == search.Page(lives=())
        assert journal.reasons() == {}
        assert journal.latest() == ({}, 0)
    with pytest.raises(JournalError), search.opened(tmp_path / "none.db", IDS):
        pass


def test_many_are_replayed_and_what_cannot_be_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they came, a few in each transaction."""
    monkeypatch.setattr(journalview, "STEP", 2)
    steps: list[float] = []
    with journalview.opened(path, steps.append) as view:
        view.erase("e-0")
        done = view.replay_seqs([99, 10, 4, 2, 1])
        assert (done.done, sum(done.left.values())) == (2, 3)
        assert steps == [0.4, 0.8, 1.0]
        assert view.replay_seqs([]).done == 0
    assert numbers_of(path, "pending") == [3, 1, 9, 8]


def numbers_of(path: Path, outcome: str) -> Sequence[int]:
    return found(path, Filter(outcome=outcome))


def test_many_are_discarded_and_what_cannot_be_is_told(path: Path) -> None:
    with journalview.opened(path) as view:
        done = view.discard_seqs([1, 2, 3])
    assert done.done == 2
    assert list(done.left.values()) == [1]
    assert found(path, Filter(reason="discarded")) == [2, 1]
