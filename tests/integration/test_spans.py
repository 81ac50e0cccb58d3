"""Traces: the span of an event reaches a collector, and its record names that span."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from relay.settings import Traces
from tests.fakes import as_json, encrypt, payload, sign, until
from tests.integration.test_app import TOPIC, running, settings
from tests.integration.test_publisher import committed
from tests.ports import free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """What an OpenTelemetry collector on loopback has been told."""

    url: str
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        """Read an export, as OTLP over HTTP says."""
        told = ExportTraceServiceRequest.FromString(await request.read())
        for of_a_resource in told.resource_spans:
            names = {one.key: one.value.string_value for one in of_a_resource.resource.attributes}
            self.services.add(names["service.name"])
            for scope in of_a_resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    port = free_port()
    one = Collector(f"http://127.0.0.1:{port}/v1/traces")
    app = web.Application()
    app.router.add_post("/v1/traces", one.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield one
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


async def test_event_s_way_is_a_span_of_the_request_s_trace(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Its id is in the record; an unsampled trace is left alone."""
    began = time.time_ns()
    async with collector() as one:
        config = settings(tmp_path, embedded_kafka, topic_prefix)
        config = config.model_copy(update={"traces": Traces(endpoint=one.url)})
        async with running(config) as run:
            for event_id, flags in (("e-1", "01"), ("e-2", "00"), ("e-3", "01")):
                body = encrypt(as_json(payload(event_id)))
                headers = sign(body) | {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
                url = f"http://127.0.0.1:{run.relay.webhook_port}/webhook/event"
                async with run.session.post(url, data=body, headers=headers) as answer:
                    assert answer.status == 200
            await until(lambda: len(one.spans) == 2)
    records = [dict(r.headers) for r in await committed(embedded_kafka, topic_prefix + TOPIC, 3)]
    told = {headers["ce_id"].decode(): headers["ce_traceparent"].decode() for headers in records}
    spans = {_attributes(span)["messaging.message.id"]: span for span in one.spans}
    assert set(spans) == {"e-1", "e-3"}
    for event_id, span in spans.items():
        assert told[event_id] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert began - 10**6 <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert spans["e-1"].name == "relay helpdesk.ticket_message.created_v1"
    assert _attributes(spans["e-1"])["relay.outcome"] == "published"
    assert told["e-2"].startswith(f"00-{TRACE}-")
    assert told["e-2"].endswith("-00")
    assert one.services == {"relay"}


async def test_collector_that_is_away_holds_up_nothing(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Events are published, and a stop waits for it a few seconds at most."""
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    away = Traces(endpoint=f"http://127.0.0.1:{free_port()}/v1/traces")
    async with running(config.model_copy(update={"traces": away})) as run:
        assert await run.post("e-1") == 200
        await until(lambda: run.relay.metrics.account().published == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 10


def _attributes(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}
