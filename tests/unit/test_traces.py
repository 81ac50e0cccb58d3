"""W3C trace context: which requests name a trace, and what a record says of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from relay.events import Callback, StoredEvent, Transport
from relay.observe import traces
from relay.observe.metrics import Metrics
from tests.fakes import MemoryKafka, event, journal_at, until
from tests.unit.test_dispatcher import dispatching, drained

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def stored(traceparent: str | None, *, event_id: str = "e-1", app: str = "default") -> StoredEvent:
    return StoredEvent(
        seq=1,
        app=app,
        transport=Transport.WEBHOOK,
        received_at=1,
        event_id=event_id,
        event_type="t",
        body=b"{}",
        traceparent=traceparent,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GIVEN, GIVEN),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        pytest.param(f"00-{TRACE}-{PARENT}-03", f"00-{TRACE}-{PARENT}-03", id="random"),
        pytest.param(f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-03", id="unknown flags"),
        pytest.param(f"cc-{TRACE}-{PARENT}-01-what-is-new", GIVEN, id="a later version"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", None, id="no version"),
        pytest.param(f"00-{TRACE}-{PARENT}-01-more", None, id="more than its version has"),
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", None, id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", None, id="no parent"),
        pytest.param(f"00-{TRACE.upper()}-{PARENT}-01", None, id="upper case"),
        pytest.param(f"{GIVEN}\n", None, id="a line's end"),
        pytest.param("", None, id="nothing"),
        pytest.param("00-é", None, id="no ASCII"),
    ],
)
def test_request_names_a_trace_as_w3c_says(text: str, expected: str | None) -> None:
    assert expected == traces.parse(text)


def test_record_passes_on_the_request_s_own() -> None:
    """As long as relay exports no span, nobody would find one of its own."""
    assert GIVEN.encode() == traces.traceparent(stored(GIVEN), exported=False)


def test_record_names_the_span_that_is_exported() -> None:
    place = traces.trace(stored(GIVEN))
    assert (place.trace_id, place.parent_id, place.flags) == (TRACE, PARENT, 1)
    expected = f"00-{TRACE}-{place.span_id}-01".encode()
    assert expected == traces.traceparent(stored(GIVEN), exported=True)
    assert place.span_id != PARENT


@pytest.mark.parametrize("exported", [False, True])
def test_new_trace_is_the_same_at_each_publication(exported: bool) -> None:  # noqa: FBT001
    """And another one for another event, or another app's."""
    events = [stored(None), stored(None, event_id="e-2"), stored(None, app="billing")]
    made = [traces.traceparent(one, exported=exported) for one in events]
    assert made == [traces.traceparent(one, exported=exported) for one in events]
    assert len(set(made)) == len(events)
    assert all(traces.parse(one.decode()) == one.decode() for one in made)
    assert all(traces.trace(one).sampled for one in events)


def test_unsampled_trace_stays_so() -> None:
    assert not traces.trace(stored(f"00-{TRACE}-{PARENT}-02")).sampled


async def test_trace_survives_a_restart(tmp_path: Path) -> None:
    """It is on disk with its event."""
    kafka, metrics = MemoryKafka(), Metrics()
    named, other = replace(event("named"), traceparent=GIVEN), event("other")
    async with journal_at(tmp_path / "j.db") as journal:
        await asyncio.gather(journal.add(named), journal.add(other))
    async with (
        journal_at(tmp_path / "j.db", metrics) as journal,
        dispatching(journal, kafka, metrics),
    ):
        await until(lambda: drained(metrics))
        await journal.add(replace(event("from memory"), traceparent=GIVEN))
        await until(lambda: drained(metrics))
    assert [_told(kafka, name) for name in ("named", "from memory")] == [GIVEN.encode()] * 2
    assert _told(kafka, "other") == _new(other)


def _told(kafka: MemoryKafka, event_id: str) -> bytes:
    headers = [dict(record.headers) for record in kafka.records]
    return next(one["ce_traceparent"] for one in headers if one["ce_id"] == event_id.encode())


def _new(callback: Callback) -> bytes:
    return traces.traceparent(stored(None, event_id=callback.event_id), exported=False)
