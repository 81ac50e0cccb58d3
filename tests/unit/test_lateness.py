"""The header `relay_late`: on an event that is older than what its ticket has already shown."""

from pathlib import Path
from typing import Any

import pytest

from relay.egress import dispatcher as dispatcher_module
from relay.egress.lateness import Lateness
from relay.errors import KafkaUnavailableError
from relay.events import Callback, Outcome, Record
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, as_json, event, journal_at, payload, until
from tests.unit.test_dispatcher import dispatching, drained

UPDATED = "helpdesk.ticket.updated_v1"


def record(created_at: str | None, *, topic: str = "t", key: bytes = b"77") -> Record:
    return Record(
        outcome=Outcome.PUBLISHED,
        topic=topic,
        key=key,
        value=b"{}",
        headers=[],
        timestamp=0,
        created_at=created_at,
    )


def published(lateness: Lateness, *records: Record) -> list[bool]:
    lateness.begin()
    late = [lateness.late(one) for one in records]
    lateness.published()
    return late


def test_older_than_one_before_it() -> None:
    """In the same batch or an earlier one; the same time is not older."""
    lateness = Lateness()
    assert published(lateness, record("2"), record("1"), record("2")) == [False, True, False]
    assert published(lateness, record("1"), record("3"), record("2")) == [True, False, True]


def test_each_ticket_and_topic_for_itself() -> None:
    lateness = Lateness()
    records = (record("2"), record("1", key=b"78"), record("1", topic="other"), record(None))
    assert published(lateness, *records) == [False] * 4


def test_what_was_never_published_makes_nothing_late() -> None:
    lateness = Lateness()
    lateness.begin()
    assert not lateness.late(record("2"))
    assert published(lateness, record("1")) == [False]


def test_memory_is_bounded_and_keeps_what_moved_last() -> None:
    lateness = Lateness(tickets=2)
    published(lateness, record("5", key=b"a"), record("5", key=b"b"))
    published(lateness, record("6", key=b"a"), record("5", key=b"c"))
    found = published(lateness, *(record("1", key=key) for key in (b"a", b"b", b"c")))
    assert found == [True, False, True]


def ticket_event(event_id: str, created_at: int | None) -> Callback:
    body: dict[str, Any] = payload(
        event_id, event_type=UPDATED, event={"object": {"ticket_id": "77"}}
    )
    body["header"]["create_time"] = str(created_at)
    return event(event_id, as_json(body))


def late(kafka: MemoryKafka) -> dict[bytes, bool]:
    return {
        dict(one.headers)["ce_id"]: dict(one.headers).get("relay_late") == b"1"
        for one in kafka.records
    }


async def test_record_says_that_it_is_late(tmp_path: Path) -> None:
    """Feishu's retry of an old event comes after a newer one: both are published, one is marked."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with (
        journal_at(tmp_path / "j.db", metrics) as journal,
        dispatching(journal, kafka, metrics),
    ):
        await journal.add(ticket_event("new", 1_700_000_060_000))
        await until(lambda: drained(metrics))
        await journal.add(ticket_event("old", 1_700_000_000_000))
        await journal.add(ticket_event("timeless", None))
        await journal.add(ticket_event("newest", 1_700_000_060_001))
        await until(lambda: drained(metrics))
    assert late(kafka) == {b"new": False, b"old": True, b"timeless": False, b"newest": False}


async def test_batch_that_failed_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose commit's answer was lost has been published all the same."""
    monkeypatch.setattr(dispatcher_module, "FIRST_WAIT", 0.001)
    lost = KafkaUnavailableError("no answer")
    kafka, metrics = MemoryKafka(before_commit=[lost], after_commit=[lost]), Metrics()
    async with (
        journal_at(tmp_path / "j.db", metrics) as journal,
        dispatching(journal, kafka, metrics),
    ):
        await journal.add(ticket_event("new", 1_700_000_060_000))
        await until(lambda: drained(metrics))
        await journal.add(ticket_event("old", 1_700_000_000_000))
        await until(lambda: drained(metrics))
    assert late(kafka) == {b"new": False, b"old": True}
