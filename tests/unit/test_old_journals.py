"""Journals that earlier versions have written: what is in them is neither lost nor done twice."""

import shutil
from pathlib import Path

import pytest

from relay.contract.normalize import Router
from relay.errors import JournalLockedError
from relay.events import Outcome
from relay.journal import file, search
from relay.journal import view as journalview
from relay.journal.file import SCHEMA_VERSION
from relay.journal.rows.claimed import Claimed
from relay.journal.search import Filter
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, event, journal_at, until
from tests.unit.test_dispatcher import dispatching, drained, published

KEPT = sorted((Path(__file__).parent / "journals").glob("v*.db"))
#: What Kafka and claims know these journals by: it must stay.
ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(params=KEPT, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copy(request.param, tmp_path / "journal.db"))


async def test_pending_events_go_out_under_the_same_name(path: Path) -> None:
    """And those that had an ending keep it: a repeat is still recognized."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        assert journal.id == ID
        assert journal.claimed == Claimed(seeded=True)
        await until(lambda: drained(metrics))
        for name in ("published", "duplicate", "letter", "replayed", "pending"):
            assert await journal.add(event(name)) is Outcome.DUPLICATE
    assert published(kafka) == ["replayed", "pending"]
    assert dict(kafka.records[0].headers)["relay_replayed"] == b"1"
    assert set(kafka.offsets) == {ID}


async def test_traces_are_kept_from_version_2_on(tmp_path: Path) -> None:
    kafka, metrics = MemoryKafka(), Metrics()
    path = Path(shutil.copy(KEPT[1], tmp_path / "journal.db"))
    async with journal_at(path, metrics) as journal, dispatching(journal, kafka, metrics):
        await until(lambda: drained(metrics))
    traces = {
        dict(record.headers)["ce_id"]: dict(record.headers)["ce_traceparent"]
        for record in kafka.records
    }
    assert traces[b"pending"] == b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_command_of_a_later_version_keeps_off_a_running_relay(tmp_path: Path) -> None:
    """Its rows have columns that the owner of the file does not know."""
    path = Path(shutil.copy(KEPT[0], tmp_path / "journal.db"))
    with journalview.opened(path) as view:
        with (
            file.lock(path),
            pytest.raises(JournalLockedError, match="a relay of an earlier version owns"),
        ):
            view.replay("published")
        view.replay("published")
        assert view.find("published")[0].outcome == "pending"


def test_operator_sees_the_same(path: Path) -> None:
    with search.opened(path, Router("", {}).ids) as journal:
        lives = journal.page(Filter()).lives
    found = {one.event_id: (one.outcome, one.reason) for one in lives}
    assert found == {
        "published": ("published", None),
        "duplicate": ("duplicate", "other_replica"),
        "letter": ("dead_letter", "too_large"),
        "replayed": ("pending", None),
        "pending": ("pending", None),
    }


def test_a_journal_of_each_schema_is_kept() -> None:
    """Who raises the version keeps one of the old, and says how it is carried over."""
    assert [path.stem for path in KEPT] == [f"v{n}" for n in range(1, SCHEMA_VERSION + 1)]
