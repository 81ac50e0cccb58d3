"""An event as the dispatcher gets it: of a row of the file, or of what was just put there."""

from typing import Any

from relay.events import Callback, StoredEvent, Transport, refusal

COLUMNS = (
    "seq, app, transport, received_at, event_id, event_type, body, replayed, reason, origin,"
    " traceparent"
)


def from_row(row: tuple[Any, ...]) -> StoredEvent:
    """Make a StoredEvent of a row of the columns of `COLUMNS`."""
    (seq, app, transport, received_at, event_id, event_type, body, replayed, reason, *rest) = row
    origin, traceparent = rest
    return StoredEvent(
        seq=seq,
        app=app,
        transport=Transport(transport),
        received_at=received_at,
        event_id=event_id,
        event_type=event_type,
        body=body,
        replayed=bool(replayed),
        refused=refusal(reason),
        origin=origin,
        traceparent=traceparent,
    )


def from_callback(callback: Callback, seq: int, stored_at: int, *, parsed: bool) -> StoredEvent:
    """Make a StoredEvent of what has just been put into the file."""
    return StoredEvent(
        seq=seq,
        app=callback.app,
        transport=callback.transport,
        received_at=callback.received_at,
        event_id=callback.event_id,
        event_type=callback.event_type,
        body=callback.body,
        traceparent=callback.traceparent,
        stored_at=stored_at,
        content=callback.content if parsed else None,
    )
