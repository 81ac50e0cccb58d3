"""W3C trace context: which trace an event belongs to, and how its record says so. Pure.

https://www.w3.org/TR/trace-context/ and CloudEvents' Distributed Tracing extension. What is made
here for an event is the same each time, so a record that is published again names the same trace.
"""

import re
from hashlib import sha256
from typing import NamedTuple

from relay.events import StoredEvent

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NOTHING = "0"
#: Bits of the flags that W3C has defined: sampled, and random.
_FLAGS = 0b11
#: Of a new trace: whoever follows its parent's choice would otherwise never record one.
_SAMPLED = 1


class Trace(NamedTuple):
    """An event's place in its trace; ids are lower-case hex."""

    trace_id: str
    #: The span that the request came from; None where it named none.
    parent_id: str | None
    #: The span of this event's way through relay.
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether the trace is to be recorded."""
        return bool(self.flags & _SAMPLED)


def parse(text: str) -> str | None:
    """Take a request's `traceparent`, in the form of version 00; None if it is none."""
    match = _TRACEPARENT.fullmatch(text)
    if not match:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if not (trace_id.strip(_NOTHING) and parent_id.strip(_NOTHING)) or (more and version == "00"):
        return None
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & _FLAGS:02x}"


def trace(event: StoredEvent) -> Trace:
    """Give the event's place in the request's trace, or in a new one."""
    digest = sha256(f"{event.app}\n{event.event_id}".encode()).hexdigest()
    span_id = digest[32:48]
    if event.traceparent is None:
        return Trace(digest[:32], None, span_id, _SAMPLED)
    _, trace_id, parent_id, flags = event.traceparent.split("-")
    return Trace(trace_id, parent_id, span_id, int(flags, 16))


def traceparent(event: StoredEvent, *, exported: bool) -> bytes:
    """Give what the record says: the span of relay if that is `exported`, else the request's."""
    if event.traceparent and not exported:
        return event.traceparent.encode()
    place = trace(event)
    return f"00-{place.trace_id}-{place.span_id}-{place.flags:02x}".encode()
