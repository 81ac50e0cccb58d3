"""Exports each event's way through relay as a span, to an OpenTelemetry collector (OTLP over HTTP).

Needs the extra `traces`. It never holds up an event: a collector that is slow or away loses spans.
"""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from relay import __version__
from relay.events import Settlement, StoredEvent
from relay.observe import logs, traces

log = structlog.get_logger()

#: Nanoseconds of a millisecond.
_MILLISECOND = 1_000_000
#: Seconds that a stop waits for the collector.
PATIENCE = 3.0


class Spans:
    """One span an event, from its arrival to its ending; the ids are those its record tells."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is a collector's URL, as `http://collector:4318/v1/traces`."""
        self._ids = _Ids()
        resource = Resource.create({SERVICE_NAME: "relay", SERVICE_VERSION: __version__})
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._exporter = _Exporter(endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("relay", __version__)

    def settled(
        self, events: Sequence[StoredEvent], settlements: Sequence[Settlement], settled_at: int
    ) -> None:
        """Hand over the spans of a batch. `settled_at` is Unix time in milliseconds."""
        for event, settlement in zip(events, settlements, strict=True):
            place = traces.trace(event)
            self._ids.place = place
            parent = SpanContext(
                trace_id=int(place.trace_id, 16),
                span_id=int(place.parent_id or "0", 16),
                is_remote=True,
                trace_flags=TraceFlags(place.flags),
            )
            span = self._tracer.start_span(
                f"relay {event.event_type}",
                set_span_in_context(NonRecordingSpan(parent)) if place.parent_id else None,
                kind=SpanKind.PRODUCER,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.message.id": event.event_id,
                    "relay.app": event.app,
                    "relay.transport": str(event.transport),
                    "relay.outcome": str(settlement.outcome),
                },
                start_time=event.received_at * _MILLISECOND,
            )
            span.end(settled_at * _MILLISECOND)

    async def close(self) -> None:
        """Send what is left, for a few seconds at most.

        OpenTelemetry keeps to no time, and a thread of the loop's own would hold up its end.
        """
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has not waited for it
                loop.call_soon_threadsafe(over.set)

        threading.Thread(target=shut_down, name="spans", daemon=True).start()
        try:
            async with asyncio.timeout(PATIENCE):
                await over.wait()
        except TimeoutError:
            self._exporter.give_up()


class _Exporter(SpanExporter):
    """Tells when spans are lost and when they arrive again, by nothing of the URL but its host."""

    def __init__(self, endpoint: str) -> None:
        self._otlp = OTLPSpanExporter(endpoint=endpoint, timeout=PATIENCE)
        url = urlsplit(endpoint)
        self._error = f"{url.scheme}://{url.netloc.rpartition('@')[2]} takes no spans"
        self._changes = logs.Changes(log, "spans_exported_again")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; it is not sent again if that fails."""
        result = self._otlp.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._changes.working()
        else:
            self._changes.failing("spans_not_exported", self._error)
        return result

    def give_up(self) -> None:
        """Lose what is left."""
        self._changes.failing("spans_not_exported", self._error)
        self.shutdown()

    def shutdown(self) -> None:
        """End the connections."""
        self._otlp.shutdown()  # type: ignore[no-untyped-call]  # the library lacks it


class _Ids(IdGenerator):
    """Gives the ids that `traces` has made, instead of random ones."""

    place: traces.Trace

    def generate_span_id(self) -> int:
        """Give the span's."""
        return int(self.place.span_id, 16)

    def generate_trace_id(self) -> int:
        """Give the trace's."""
        return int(self.place.trace_id, 16)
