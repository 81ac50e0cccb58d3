"""Traces: the span of an event reaches a collector, and its record names that span."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from structlog.testing import capture_logs

from relay.events import Outcome, Settlement, StoredEvent, Transport
from relay.observe.spans import PATIENCE, Spans
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
    refusing: bool = False
    refused: int = 0

    async def take(self, request: web.Request) -> web.Response:
        """Read an export, as OTLP over HTTP says, or refuse it."""
        if self.refusing:
            self.refused += 1
            return web.Response(status=401)
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


@contextmanager
def hanging_collector() -> Iterator[str]:
    """Give the URL of one that takes a connection and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"


def settle(spans: Spans, count: int) -> None:
    """Hand over the spans of so many events."""
    events = [
        StoredEvent(
            seq=seq,
            app="default",
            transport=Transport.WEBHOOK,
            received_at=1,
            event_id=f"e-{seq}",
            event_type="",
            body=b"{}",
        )
        for seq in range(count)
    ]
    settlements = [Settlement(seq=event.seq, outcome=Outcome.PUBLISHED) for event in events]
    spans.settled(events, settlements, 2)


async def settle_and_close(url: str, count: int) -> None:
    spans = Spans(url)
    settle(spans, count)
    await spans.close()


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


async def test_collector_that_hangs_is_waited_for_as_long_as_promised() -> None:
    """However many spans are left; that they are lost is told."""
    with hanging_collector() as url, capture_logs() as lines:
        began = time.monotonic()
        await settle_and_close(url, 2048)
        assert time.monotonic() - began < PATIENCE + 1
    assert [line["event"] for line in lines] == ["spans_not_exported"]


async def test_collector_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    with hanging_collector() as url:
        code = (
            "import asyncio; from tests.integration import test_spans as spans;"
            f"print('began', flush=True); asyncio.run(spans.settle_and_close({url!r}, 2048))"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout
        assert await process.stdout.readline() == b"began\n"
        async with asyncio.timeout(PATIENCE + 3):
            assert await process.wait() == 0


async def test_lost_spans_are_told_when_that_changes() -> None:
    """Once, without what the URL holds besides the collector's address."""
    async with collector() as one:
        with capture_logs() as lines:
            spans = Spans(one.url.replace("//", "//user:hidden@") + "?api-key=hidden")
            one.refusing = True
            for refused in (1, 2):
                settle(spans, 1)
                await until(lambda n=refused: one.refused == n)  # type: ignore[misc]
            one.refusing = False
            settle(spans, 1)
            await spans.close()
    address = one.url.removesuffix("/v1/traces")
    assert [(line["event"], line["log_level"], line.get("error")) for line in lines] == [
        ("spans_not_exported", "warning", f"{address} takes no spans"),
        ("spans_exported_again", "info", None),
    ]


def _attributes(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}
