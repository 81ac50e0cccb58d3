"""Feishu's webhook over real sockets: every answer, and clients that are slow, stuck or hostile."""

import asyncio
import gc
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.admin import AdminServer
from relay.contract.normalize import Router, normalize
from relay.errors import RejectedError, RejectReason
from relay.events import Challenge, DeadLetterReason, Interaction, Outcome, RawCallback
from relay.ingress import listener
from relay.ingress import webhook as webhook_module
from relay.ingress.pipeline import Pipeline
from relay.ingress.webhook import WebhookServer
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from relay.settings import Admin, App, Webhook
from tests.fakes import KEY, TOKEN, as_json, challenge, encrypt, journal_at, payload, sign, until

OLDEST = 8 * 3600
MAX_BODY = 20_000
READ_TIMEOUT = 0.4
EVENT = "/webhook/event"
SUCCESS = {"msg": "success"}
APPS = {
    "default": App.model_validate({"encrypt_key": KEY, "verification_token": TOKEN}),
    "plain": App.model_validate(
        {"verification_token": TOKEN, "previous_verification_token": "previous"}
    ),
    "rotating": App.model_validate({"encrypt_key": "new", "previous_encrypt_key": KEY}),
}


async def never() -> str:
    """Say why no callback is taken."""
    return "this is no relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A listening webhook and what is behind it."""

    port: int
    journal: Journal
    metrics: Metrics
    webhook: WebhookServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as a document."""
        return json.loads(self.body)


@asynccontextmanager
async def place_at(
    path: Path, *, max_bytes: int = 2**30, max_waiting: int = 1000, idle_timeout: float = 620
) -> AsyncIterator[Place]:
    metrics = Metrics()
    settings = Webhook(
        host="127.0.0.1",
        port=0,
        max_body_bytes=MAX_BODY,
        read_timeout=READ_TIMEOUT,
        idle_timeout=idle_timeout,
    )
    async with journal_at(
        path / "journal.db", metrics, max_bytes=max_bytes, max_waiting=max_waiting
    ) as journal:
        pipeline = Pipeline(APPS, journal)
        admin = AdminServer(Admin(), journal, metrics, lambda: False)
        webhook = WebhookServer(settings, APPS, pipeline.accept, metrics, admin.unready)
        port = await webhook.start()
        try:
            yield Place(port=port, journal=journal, metrics=metrics, webhook=webhook)
        finally:
            await webhook.stop()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_at(tmp_path) as found:
        yield found


def head(
    path: str, headers: dict[str, str], *, method: str = "POST", length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: relay"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(status=int(first.split()[1]), headers=headers, body=body)


async def send(port: int, parts: Iterable[bytes]) -> Answer:
    """Send bytes as they are and read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await read_answer(reader)
    finally:
        writer.close()


async def post(
    port: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    path: str = EVENT,
    method: str = "POST",
) -> Answer:
    return await send(port, [head(path, headers or {}, method=method, length=len(body)) + body])


async def post_event(port: int, event_id: str, *, path: str = EVENT) -> Answer:
    body = encrypt(as_json(payload(event_id)))
    return await post(port, body, sign(body), path=path)


def rejections(place: Place) -> dict[tuple[str, str], float]:
    """The refusals counted so far, by app and reason."""
    found = {}
    for metric in place.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "relay_rejected_total":
                found[sample.labels["app"], sample.labels["reason"]] = sample.value
    return found


async def pending(place: Place) -> list[str]:
    return [event.event_id for event in await place.journal.pending(1000, 2**30)]


async def test_event_is_answered_and_stored(place: Place) -> None:
    """And its repeat is answered the same way and not stored again."""
    for _ in range(2):
        answer = await post_event(place.port, "e-1")
        assert (answer.status, answer.json) == (200, SUCCESS)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["server"] == "relay"
        assert "retry-after" not in answer.headers
    assert await pending(place) == ["e-1"]
    account = place.metrics.account()
    assert (account.received, account.duplicate, account.pending) == (2, 1, 1)
    assert place.metrics.registry.get_sample_value("relay_accept_seconds_count") == 2


async def test_each_app_has_a_path_and_an_identity(place: Place) -> None:
    """`default` has two paths; the same event id at two apps is two events."""
    plain = as_json(payload("e-1", token="previous"))
    answers = [
        await post_event(place.port, "e-1", path=f"{EVENT}?from=feishu"),
        await post_event(place.port, "e-1", path=f"{EVENT}/default"),
        await post_event(place.port, "e-1", path=f"{EVENT}/rotating"),
        await post(place.port, plain, path=f"{EVENT}/plain?from=feishu"),
    ]
    assert [answer.status for answer in answers] == [200] * 4
    found = await place.journal.pending(10, 2**20)
    assert [event.app for event in found] == ["default", "rotating", "plain"]


async def test_every_form_of_challenge_is_echoed(place: Place) -> None:
    """At once, and nothing is stored."""
    plain = as_json(challenge(value='say "你好"'))
    signed = encrypt(plain)
    answers = [
        await post(place.port, plain),
        await post(place.port, encrypt(plain)),
        await post(place.port, signed, sign(signed)),
        await post(place.port, plain, path=f"{EVENT}/plain"),
    ]
    for answer in answers:
        assert (answer.status, answer.json) == (200, {"challenge": 'say "你好"'})
        assert answer.headers["content-type"] == "application/json"
    assert await pending(place) == []
    assert place.metrics.account().received == 0


async def test_challenge_that_utf8_cannot_carry_is_echoed(place: Place) -> None:
    """JSON allows half of a character as an escape; so does the answer."""
    plain = b'{"challenge":"\\ud800","token":"%s","type":"url_verification"}' % TOKEN.encode()
    answer = await post(place.port, plain)
    assert (answer.status, answer.json) == (200, {"challenge": "\ud800"})


@pytest.mark.parametrize("plain", [b"{", b'{"a":1e400}', b"9" * 5000, b"[" * 4000, b"\xff"])
async def test_authentic_body_that_cannot_be_read_is_taken(place: Place, plain: bytes) -> None:
    """Refused, it would come four times more and then be gone; the topic of dead letters has it."""
    body = encrypt(plain)
    for _ in range(2):
        answer = await post(place.port, body, sign(body))
        assert (answer.status, answer.json) == (200, SUCCESS)
    (stored,) = await place.journal.pending(10, 2**20)
    assert stored.body == plain
    record = normalize(stored, Router("feishu.", {}))
    assert (record.reason, record.value) == (DeadLetterReason.NOT_JSON, plain)


async def test_fault_of_ours_is_answered_and_counted() -> None:
    """In the same form as everything else, without a stack; the next request is served."""
    faults = [ZeroDivisionError("secret")]

    async def accept(_: RawCallback) -> Outcome:
        if faults:
            raise faults.pop()
        return Outcome.ACCEPTED

    metrics = Metrics()
    webhook = WebhookServer(Webhook(host="127.0.0.1", port=0), APPS, accept, metrics, never)
    port = await webhook.start()
    try:
        with capture_logs() as lines:
            first, second = await post(port, b"{}"), await post(port, b"{}")
    finally:
        await webhook.stop()
    assert (first.status, first.json["error"], second.status) == (500, "internal_error", 200)
    assert "secret" not in f"{first.body!r} {lines}"
    assert [(line["event"], line["error"]) for line in lines] == [
        ("request_failed", "ZeroDivisionError")
    ]


async def test_authentic_body_without_event_is_accepted(place: Place) -> None:
    """A retry would bring the same bytes: 200, stored, a dead letter."""
    for content in ([1], {"schema": "2.0"}, payload("e-9", event_type="")):
        body = encrypt(as_json(content))
        answer = await post(place.port, body, sign(body))
        assert (answer.status, answer.json) == (200, SUCCESS)
    assert len(await pending(place)) == 3


async def test_unknown_event_type_is_accepted(place: Place) -> None:
    body = encrypt(as_json(payload("e-1", event_type="im.message.receive_v1")))
    answer = await post(place.port, body, sign(body))
    assert (answer.status, answer.json) == (200, SUCCESS)


def _bad_requests() -> dict[str, tuple[bytes, dict[str, str], str, RejectReason]]:
    good = encrypt(as_json(payload()))
    wrong_token = encrypt(as_json(payload(token="wrong")))
    empty = encrypt(b"{}")
    old, ahead = str(int(time.time()) - OLDEST - 10), str(int(time.time()) + 310)
    broken = as_json({"encrypt": "AAAA"})
    return {
        "no signature": (good, {}, "", RejectReason.SIGNATURE),
        "wrong signature": (good, sign(good, "other"), "", RejectReason.SIGNATURE),
        "signature of other bytes": (good + b" ", sign(good), "", RejectReason.SIGNATURE),
        "wrong token": (wrong_token, sign(wrong_token), "", RejectReason.TOKEN),
        "missing token": (as_json(payload(token="")), {}, "/plain", RejectReason.TOKEN),
        "wrong plain token": (as_json(payload(token="x")), {}, "/plain", RejectReason.TOKEN),
        "challenge with a wrong token": (as_json(challenge("x")), {}, "", RejectReason.TOKEN),
        "plain body": (as_json(payload()), sign(as_json(payload())), "", RejectReason.PLAIN_BODY),
        "old": (good, sign(good, KEY, old), "", RejectReason.STALE),
        "ahead": (good, sign(good, KEY, ahead), "", RejectReason.STALE),
        "no time": (good, sign(good, KEY, ""), "", RejectReason.STALE),
        "nothing": (b"", {}, "", RejectReason.NOT_JSON),
        "no JSON": (b"<xml/>", {}, "/plain", RejectReason.NOT_JSON),
        "no envelope": (b"<xml/>", sign(b"<xml/>"), "", RejectReason.NOT_JSON),
        "not decryptable": (broken, sign(broken), "", RejectReason.NOT_DECRYPTABLE),
        "encrypted without a key": (good, {}, "/plain", RejectReason.NOT_DECRYPTABLE),
        "empty object": (b"{}", {}, "/plain", RejectReason.EMPTY),
        "empty object inside": (empty, sign(empty), "", RejectReason.EMPTY),
    }


STATUS = {
    RejectReason.SIGNATURE: 401,
    RejectReason.TOKEN: 401,
    RejectReason.PLAIN_BODY: 401,
    RejectReason.STALE: 401,
    RejectReason.NOT_JSON: 400,
    RejectReason.NOT_DECRYPTABLE: 400,
    RejectReason.EMPTY: 400,
}


@pytest.mark.parametrize("case", list(_bad_requests()))
async def test_refused_request_says_why_and_leaves_nothing(case: str, place: Place) -> None:
    """A code and a sentence; no secret, no payload, no stack; the connection stays usable."""
    body, headers, path, reason = _bad_requests()[case]
    answer = await post(place.port, body, headers, path=EVENT + path)
    assert (STATUS[reason], {"error", "detail"}) == (answer.status, set(answer.json))
    assert reason == answer.json["error"]
    assert answer.headers["content-type"] == "application/json"
    assert "retry-after" not in answer.headers
    for secret in (KEY, TOKEN, "你好", "Traceback"):
        assert secret not in answer.body.decode()
    assert await pending(place) == []
    assert {(path[1:] or "default", reason): 1} == rejections(place)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/webhook",
        "/webhook/",
        "/webhook/event/a/b",
        "/Webhook/event",
        "/webhook/events",
        "/webhookevent",
        "/a/webhook/event",
        "/metrics",
        "/?/webhook/event",
        "http://relay",
        "http://relay/",
        "http://relay?/webhook/event",
        "http://webhook/event",
        "http://relay/webhook/event/a/b",
    ],
)
async def test_other_path_is_unknown(path: str, place: Place) -> None:
    """And the answer names the right one: somebody has typed it into Feishu's console."""
    answer = await post(place.port, b"{}", path=path)
    assert (answer.status, answer.json["error"]) == (404, "unknown_path")
    assert "/webhook/event, or to /webhook/event/NAME" in answer.json["detail"]


FORMS = [
    "/webhook/event{}",
    "/webhook/event{}/",
    "/webhook/event{}///",
    "//webhook/event{}",
    "/webhook//event{}",
    "///webhook//event{}//",
    "/webhook/event{}?a=b",
    "/webhook/event{}/?next=/a/b",
    "http://relay/webhook/event{}",
    "http://relay:8080/webhook/event{}/",
    "https://relay//webhook//event{}",
    "HTTP://relay/webhook/event{}?a=http://b/c",
]


@pytest.mark.parametrize("form", FORMS)
async def test_each_form_of_a_url_is_the_same_path(form: str, place: Place) -> None:
    """As proxies rewrite it, and people type it."""
    body = encrypt(as_json(payload("e-1")))
    answer = await post(place.port, body, sign(body), path=form.format(""))
    assert (answer.status, answer.json) == (200, SUCCESS)
    plain = as_json(payload("e-1"))
    answer = await post(
        place.port, plain, path=form.format("//plain" if "//w" in form else "/plain")
    )
    assert (answer.status, answer.json) == (200, SUCCESS)
    assert [one.app for one in await place.journal.pending(10, 2**20)] == ["default", "plain"]


CALLBACKS = ["card.action.trigger", "url.preview.get", "card.x", "url.y_v2"]


@pytest.mark.parametrize("event_type", CALLBACKS)
@pytest.mark.parametrize("schema", ["1.0", "2.0"])
async def test_callback_of_a_card_is_answered_with_nothing_to_show(
    event_type: str, schema: str, place: Place
) -> None:
    """Any other body is an error to the person who has clicked; Feishu's repeat gets the same."""
    body: dict[str, Any] = payload("e-1", event_type=event_type, event={"token": "c-1"})
    if schema == "1.0":
        body = {"uuid": "e-1", "token": TOKEN, "event": {"type": event_type, "token": "c-1"}}
    sealed = encrypt(as_json(body))
    for _ in range(2):
        answer = await post(place.port, sealed, sign(sealed))
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["content-type"] == "application/json"
        plain = await post(place.port, as_json(body), path=EVENT + "/plain")
        assert (plain.status, plain.body) == (200, b"{}")
    stored = await place.journal.pending(10, 2**20)
    records = [normalize(one, Router("feishu.", {"card.*": "cards"})) for one in stored]
    assert [one.event_type for one in stored] == [event_type] * 2
    expected = "feishu.cards" if event_type.startswith("card") else "feishu.other"
    assert {(one.outcome, one.topic) for one in records} == {(Outcome.PUBLISHED, expected)}


@pytest.mark.parametrize(
    "event_type",
    ["card", "url", "cards.x", "urls.x", "im.card.x", "Card.action.trigger", "drive.file.edit_v1"],
)
async def test_other_types_are_answered_as_ever(event_type: str, place: Place) -> None:
    body = encrypt(as_json(payload("e-1", event_type=event_type)))
    answer = await post(place.port, body, sign(body))
    assert (answer.status, answer.json) == (200, SUCCESS)


async def test_callback_of_which_no_event_can_be_made_shows_no_error_either(place: Place) -> None:
    """It is a dead letter; whoever has clicked cannot help it."""
    for body in (
        payload("", event_type="card.action.trigger"),
        payload("e-2", event_type="card.action.trigger") | {"event": []},
    ):
        sealed = encrypt(as_json(body))
        answer = await post(place.port, sealed, sign(sealed))
        assert (answer.status, answer.body) == (200, b"{}")
    assert len(await pending(place)) == 2


async def test_callback_that_cannot_be_taken_is_told_so() -> None:
    """`{}` means: on disk. The person may click again."""
    body = encrypt(as_json(payload("e-1", event_type="card.action.trigger")))
    accept = Pipeline(APPS, None).accept
    webhook = WebhookServer(Webhook(host="127.0.0.1", port=0), APPS, accept, Metrics(), never)
    try:
        answer = await post(await webhook.start(), body, sign(body))
    finally:
        await webhook.stop()
    assert (answer.status, answer.json["error"]) == (503, "journal_unavailable")


@pytest.mark.parametrize("name", ["nobody", "%2e%2e", "a%2Fb", "x" * 1000])
async def test_other_app_is_unknown(name: str, place: Place) -> None:
    """Its name becomes no label: a stranger cannot make metrics grow."""
    answer = await post(place.port, b"{}", path=f"{EVENT}/{name}")
    assert answer.status == 404
    assert "/webhook/event is the app named default" in answer.json["detail"]
    assert name not in answer.json["detail"]
    assert {""} == {app for app, _ in rejections(place)}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_method_is_told_the_right_one(method: str, place: Place) -> None:
    answer = await post(place.port, b"{}", method=method)
    assert (answer.status, answer.json["error"]) == (405, "method")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "size"), [("GET", 2), ("POST", MAX_BODY + 1)], ids=["method", "too large"]
)
async def test_stranger_cannot_make_metrics_grow(method: str, size: int, place: Place) -> None:
    """Whatever the refusal: an app that is not configured is no label."""
    for n in range(3):
        await post(place.port, b"x" * size, method=method, path=f"{EVENT}/nobody-{n}")
    assert {app for app, _ in rejections(place)} <= {"", *APPS}


async def test_path_that_is_no_text_leaves_metrics_readable(place: Place) -> None:
    """Bytes that UTF-8 does not know, in a path that anybody may call."""
    await send(place.port, [b"GET /webhook/event/\xff\xfe HTTP/1.1\r\nHost: relay\r\n\r\n"])
    assert b"relay_rejected_total" in place.metrics.exposition()


async def test_body_at_the_limit_passes_and_beyond_is_refused(place: Place) -> None:
    plain = as_json(payload("e-1"))
    fits = plain + b" " * (MAX_BODY - len(plain))
    assert (await post(place.port, fits, path=f"{EVENT}/plain")).status == 200
    answer = await post(place.port, fits + b" ", path=f"{EVENT}/plain")
    assert (answer.status, answer.json["error"]) == (413, "too_large")


async def test_length_is_what_is_read_not_what_is_said(place: Place) -> None:
    """Chunks beyond the limit are refused while they come, whatever was announced."""

    def endless() -> Iterable[bytes]:
        yield head(EVENT, {"Transfer-Encoding": "chunked"})
        for _ in range(10):
            yield b"%x\r\n" % 4000 + b"x" * 4000 + b"\r\n"

    answer = await send(place.port, endless())
    assert (answer.status, answer.json["error"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


async def test_announced_length_is_not_believed(place: Place) -> None:
    """A huge Content-Length with a small body costs the read timeout, not memory."""
    answer = await send(place.port, [head(EVENT, {}, length=10**12) + b"{}"])
    assert (answer.status, answer.json["error"]) == (408, "timeout")


async def test_chunked_body_passes(place: Place) -> None:
    """In whatever pieces it comes."""
    body = encrypt(as_json(payload("e-1")))
    parts = [head(EVENT, {**sign(body), "Transfer-Encoding": "chunked"})]
    parts += [
        b"%x\r\n" % len(body[n : n + 7]) + body[n : n + 7] + b"\r\n" for n in range(0, len(body), 7)
    ]
    answer = await send(place.port, [*parts, b"0\r\n\r\n"])
    assert (answer.status, answer.json) == (200, SUCCESS)


async def test_compressed_body_is_not_unpacked(place: Place) -> None:
    """The signature is over the bytes on the wire."""
    body = encrypt(as_json(payload("e-1")))
    answer = await post(place.port, body, {**sign(body), "Content-Encoding": "gzip"})
    assert (answer.status, answer.json) == (200, SUCCESS)


async def test_client_that_asks_first_is_told_to_go_on(place: Place) -> None:
    """Expect: 100-continue; the body is sent after the interim answer."""
    body = encrypt(as_json(payload("e-1")))
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    async with asyncio.timeout(10):
        writer.write(head(EVENT, {**sign(body), "Expect": "100-continue"}, length=len(body)))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await read_answer(reader)
    writer.close()
    assert (answer.status, answer.json) == (200, SUCCESS)


async def test_connection_is_used_again(place: Place) -> None:
    """Also after a refusal; also for requests that were sent without waiting."""
    body = encrypt(as_json(payload("e-1")))
    good, bad = head(EVENT, sign(body), length=len(body)) + body, head("/", {}, length=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    async with asyncio.timeout(10):
        writer.write(good + bad + good)
        statuses = [(await read_answer(reader)).status for _ in range(3)]
    writer.close()
    assert statuses == [200, 404, 200]


async def test_idle_connection_is_kept_as_long_as_the_settings_say(tmp_path: Path) -> None:
    """Closed by the balancer, never by relay: between two requests, and no longer."""
    async with place_at(tmp_path, idle_timeout=1) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        async with asyncio.timeout(20):
            for n in range(3):
                body = encrypt(as_json(payload(f"e-{n}")))
                writer.write(head(EVENT, sign(body), length=len(body)) + body)
                assert (await read_answer(reader)).status == 200
                answered = time.monotonic()
                if n < 2:
                    await asyncio.sleep(0.2)
            assert await reader.read() == b""
        assert time.monotonic() - answered > 0.9
        writer.close()


@pytest.mark.parametrize("cut", [1, 30, -1], ids=["first byte", "half a head", "all but a byte"])
async def test_half_a_request_keeps_a_connection_from_being_idle(cut: int, tmp_path: Path) -> None:
    """It is on its way when the time is over: it is answered; then the time counts anew."""
    async with place_at(tmp_path, idle_timeout=0.5) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        async with asyncio.timeout(20):
            for n in range(2):
                body = encrypt(as_json(payload(f"e-{n}")))
                beginning = head(EVENT, sign(body), length=len(body))
                writer.write(beginning[:cut])
                # Longer than a connection may be idle.
                await asyncio.sleep(1.0)
                writer.write(beginning[cut:] + body)
                assert (await read_answer(reader)).status == 200
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("begun", [b"", b"POST /webhook/event HTTP/1.1\r\nHost: re"])
async def test_connection_that_never_asked_is_not_kept_for_so_long(
    begun: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`idle_timeout` is between two requests: a stranger who sends nothing gains nothing."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.3)
    async with place_at(tmp_path, idle_timeout=600) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(begun)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/", "/?probe=1", "http://relay.example.com/"])
async def test_balancer_is_told_that_callbacks_are_taken(
    method: str, target: str, place: Place
) -> None:
    """At the path that cloud balancers ask by default; it is no refusal, and keeps connections."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    async with asyncio.timeout(10):
        for _ in range(2):
            writer.write(head(target, {}, method=method))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            if method == "GET":
                assert json.loads(await reader.readexactly(18)) == {"status": "ready"}
    writer.close()
    assert rejections(place) == {}


async def test_balancer_is_told_that_nothing_can_be_taken(tmp_path: Path) -> None:
    """And not why: anybody may ask."""
    async with place_at(tmp_path, max_bytes=1) as place:
        assert (await post_event(place.port, "e-1")).status == 200
        assert (await post_event(place.port, "e-2")).status == 503
        answer = await post(place.port, b"", path="/", method="GET")
        assert (answer.status, answer.json) == (503, {"status": "not ready"})
        assert answer.headers["retry-after"] == "5"


async def test_balancer_is_told_that_this_replica_leaves(place: Place) -> None:
    """At once, while events are still taken: its answer of a second ago is no longer good."""
    assert (await post(place.port, b"", path="/", method="GET")).status == 200
    place.webhook.leave()
    answer = await post(place.port, b"", path="/", method="GET")
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert (await post_event(place.port, "e-1")).status == 200


async def test_crowd_that_asks_costs_one_look(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written tries a commit when it is asked."""
    monkeypatch.setattr(webhook_module, "HEALTH_FOR", 600)
    asked = 0

    async def look() -> str:
        nonlocal asked
        asked += 1
        return ""

    place.webhook._unready = look
    answers = [await post(place.port, b"", path="/", method="GET") for _ in range(5)]
    assert {200} == {answer.status for answer in answers}
    assert asked == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_root_is_for_asking_only(method: str, place: Place) -> None:
    answer = await post(place.port, b"", path="/", method=method)
    assert (answer.status, answer.json["error"]) == (404, "unknown_path")


async def test_trickling_body_is_cut_off_and_delays_nobody(place: Place) -> None:
    """The clock runs for the whole body, not for each byte."""

    async def trickle() -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(head(EVENT, {}, length=1000))
        answering = asyncio.create_task(read_answer(reader))
        with suppress(ConnectionError):
            while not answering.done():
                writer.write(b" ")
                await asyncio.sleep(0.01)
        writer.close()
        return await answering

    started = time.monotonic()
    trickling = asyncio.create_task(trickle())
    answer = await post_event(place.port, "e-1")
    assert (answer.status, trickling.done()) == (200, False)
    answer = await trickling
    assert (answer.status, answer.json["error"]) == (408, "timeout")
    assert answer.headers["connection"] == "close"
    assert time.monotonic() - started < 10 * READ_TIMEOUT


async def test_body_that_breaks_off_is_malformed(place: Place) -> None:
    """The client is gone: there is nobody to answer, but it is counted and nothing is stored."""
    _, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(head(EVENT, {}, length=1000) + b"{")
    await writer.drain()
    writer.close()
    await until(lambda: rejections(place))
    assert set(rejections(place)) <= {("default", "malformed"), ("default", "timeout")}
    assert (await post_event(place.port, "e-1")).status == 200


async def test_broken_chunk_is_malformed(place: Place) -> None:
    parts = [head(EVENT, {"Transfer-Encoding": "chunked"}), b"5\r\nabcde\r\n", b"xyz\r\n"]
    answer = await send(place.port, parts)
    assert answer.status == 400
    assert (await post_event(place.port, "e-1")).status == 200


async def test_head_that_never_ends_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection without a whole request is not kept for ever."""
    monkeypatch.setattr(listener, "HEAD_TIMEOUT", 0.3)
    async with place_at(tmp_path) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"POST /webhook/event HTTP/1.1\r\nHost: re")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_idle_and_slow_clients_delay_nobody(place: Place) -> None:
    """500 connections that say nothing, 50 that are in the middle of a body."""
    crowd = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(550)]
    for _, writer in crowd[:50]:
        writer.write(head(EVENT, {}, length=1000) + b"{")
    for n in range(10):
        started = time.monotonic()
        assert (await post_event(place.port, f"e-{n}")).status == 200
        assert time.monotonic() - started < 1
    answers = await asyncio.gather(*(read_answer(reader) for reader, _ in crowd[:50]))
    assert {408} == {answer.status for answer in answers}
    for _, writer in crowd:
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST /webhook/event HTTP/9.9\r\n\r\n",
        b"POST /webhook/event HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhook/event HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /webhook/event HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /webhook/event HTTP/1.1\r\nHost: a\r\n : b\r\n\r\n",
        b"POST /webhook/event HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"POST /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused(request_bytes: bytes, place: Place) -> None:
    """4xx or a closed connection, no stack; and the next client is served."""
    try:
        answer = await send(place.port, [request_bytes])
    except (asyncio.IncompleteReadError, ConnectionError):
        answer = None
    if answer is not None:
        assert 400 <= answer.status < 500
        assert b"Traceback" not in answer.body
    assert (await post_event(place.port, "e-1")).status == 200


async def test_refused_body_is_let_go_of_at_once(place: Place) -> None:
    """Not kept by the error's own traceback until some collection: strangers may send many."""
    gc.collect()
    gc.disable()
    try:
        for size, status in ((MAX_BODY - 1, 401), (MAX_BODY + 1, 413)):
            answer = await post(place.port, b"x" * size)
            assert answer.status == status
        # The answer may be here a turn of the loop before its request has ended.
        # A look at all objects takes seconds where each line is counted; what is kept stays so.
        await until(lambda: not any(isinstance(one, RejectedError) for one in gc.get_objects()), 60)
    finally:
        gc.enable()


async def test_bodies_being_read_are_bounded_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes when there is no room is told to come again; then there is room again."""
    monkeypatch.setattr(webhook_module, "MAX_READING_BYTES", 30_000)
    slow = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(3)]
    for _, writer in slow:
        writer.write(head(EVENT, {}, length=15_000) + b"x" * 14_999)
    answers = await asyncio.gather(*(read_answer(reader) for reader, _ in slow))
    assert sorted(answer.status for answer in answers) == [408, 408, 503]
    for _, writer in slow:
        writer.close()
    assert place.webhook._reading_bytes == 0
    assert (await post_event(place.port, "e-1")).status == 200


def limited(place: Place, most: int) -> listener.Listener:
    server = place.webhook._server
    server._most = most
    return server


async def test_oldest_idle_connection_goes_for_a_new_one(place: Place) -> None:
    """One with a request under way does not, while there is an idle one."""
    server = limited(place, 3)
    busy, *idle = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(3)]
    busy[1].write(head(EVENT, {}, length=100) + b"x")
    await until(lambda: any(one._current_request for one in server.connections))
    assert (await post_event(place.port, "e-1")).status == 200
    assert await idle[0][0].read() == b""
    assert (await read_answer(busy[0])).status == 408
    for _, writer in (busy, *idle):
        writer.close()


async def test_connection_that_has_brought_events_stays_before_strangers(place: Place) -> None:
    """A balancer keeps few, for long: they would be the oldest when a crowd comes."""
    server = limited(place, 4)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    crowd = []
    async with asyncio.timeout(20):
        for n in range(3):
            body = encrypt(as_json(payload(f"e-{n}")))
            writer.write(head(EVENT, sign(body), length=len(body)) + body)
            assert (await read_answer(reader)).status == 200
            for _ in range(8):
                crowd.append(await asyncio.open_connection("127.0.0.1", place.port))
                await until(lambda: len(server.connections) <= 4)
    for _, one in (*crowd, (reader, writer)):
        one.close()


#: Beginnings of a request that keep a connection busy.
UNFINISHED = {
    "nothing": b"",
    "half a head": b"POST /webhook/event HTTP/1.1\r\nHost: x\r\n",
    "a byte of a body": head(EVENT, {}, length=100) + b"x",
    "a chunk of a body": head(EVENT, {"Transfer-Encoding": "chunked"}) + b"1\r\nx\r\n",
    "a path that is refused": head("/", {}, length=100) + b"x",
    "a method that is refused": head(EVENT, {}, length=100).replace(b"POST", b"PUT") + b"x",
}


@pytest.mark.parametrize("beginning", UNFINISHED.values(), ids=UNFINISHED)
async def test_limit_of_connections_is_a_limit(place: Place, beginning: bytes) -> None:
    """Whatever they are busy with; and a good request still gets its answer."""
    server = limited(place, 5)
    # Seconds that aiohttp waits for the rest of a request that is refused: ten, else.
    server._kwargs["lingering_time"] = 1.0
    opened = []
    for _ in range(60):
        opened.append(await asyncio.open_connection("127.0.0.1", place.port))
        opened[-1][1].write(beginning)
    await until(lambda: len(server.connections) <= 5)
    async with asyncio.timeout(5):
        for reader, _ in opened[:-5]:
            with suppress(ConnectionError):
                await reader.read()
    assert (await post_event(place.port, "e-1")).status == 200
    assert len(server.connections) <= 5
    for _, writer in opened:
        writer.close()


async def test_delivery_on_its_way_to_the_disk_keeps_its_connection(place: Place) -> None:
    """Its event may be on disk already: closed without a 200, it would come again."""
    limited(place, 2)
    stored = asyncio.Event()
    accept = place.webhook._accept

    async def slow(raw: RawCallback) -> Outcome | Challenge | Interaction:
        await stored.wait()
        return await accept(raw)

    place.webhook._accept = slow
    waiting = [asyncio.create_task(post_event(place.port, f"e-{n}")) for n in range(2)]
    await until(lambda: len(place.webhook._server.accepting) == 2)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    stored.set()
    assert [(await one).status for one in waiting] == [200, 200]
    assert not place.webhook._server.accepting


async def test_full_journal_answers_503(tmp_path: Path) -> None:
    """Feishu will come again; a challenge and a refusal need no space."""
    async with place_at(tmp_path, max_bytes=1) as place:
        assert (await post_event(place.port, "e-1")).status == 200
        answer = await post_event(place.port, "e-2")
        assert (answer.status, answer.json["error"]) == (503, "journal_full")
        assert answer.headers["retry-after"] == "5"
        assert (await post(place.port, encrypt(as_json(challenge())))).status == 200
        assert (await post(place.port, b"{}")).status == 401
        assert rejections(place)["default", "journal_full"] == 1


async def test_too_many_waiting_answer_503(tmp_path: Path) -> None:
    """Every event is answered: those that were stored with 200, the others with 503."""
    async with place_at(tmp_path, max_waiting=1) as place:
        answers = await asyncio.gather(*(post_event(place.port, f"e-{n}") for n in range(50)))
        refused = [answer for answer in answers if answer.status != 200]
        assert {(503, "overloaded", "5")} >= {
            (answer.status, answer.json["error"], answer.headers["retry-after"])
            for answer in refused
        }
        assert len(await pending(place)) == 50 - len(refused)


async def test_stop_answers_what_is_under_way(place: Place, tmp_path: Path) -> None:
    """A request that waits for its commit gets its 200; then nobody listens any more."""
    body = encrypt(as_json(payload("e-1")))
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writer.write(head(EVENT, sign(body), length=len(body)) + body)
        await until(lambda: place.journal._waiting)
        stopping = asyncio.create_task(place.webhook.stop())
        await until(lambda: place.webhook._draining)
        other.execute("ROLLBACK")
    async with asyncio.timeout(10):
        answer = await read_answer(reader)
        await stopping
    writer.close()
    assert (answer.status, answer.json) == (200, SUCCESS)
    assert await pending(place) == ["e-1"]
    with pytest.raises(OSError):  # noqa: PT011 - refused, in the system's words
        await asyncio.open_connection("127.0.0.1", place.port)


async def test_draining_server_takes_nothing_new(place: Place) -> None:
    """On a connection that is still open."""
    place.webhook._draining = True
    answer = await post_event(place.port, "e-1")
    assert (answer.status, answer.json["error"]) == (503, "draining")
    assert answer.headers["retry-after"] == "5"
    assert await pending(place) == []


def _mutations(count: int) -> Iterable[bytes]:
    """Requests with a few bytes changed, cut, doubled or put in."""
    chance = random.Random(20260102)
    body = encrypt(as_json(payload("e-1")))
    request = head(EVENT, sign(body), length=len(body)) + body
    for _ in range(count):
        data = bytearray(request)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data) if chance.random() < 0.5 else 120)
            match chance.randrange(4):
                case 0:
                    data[place : place + 1] = bytes([chance.randrange(256)])
                case 1:
                    del data[place : place + chance.randint(1, 40)]
                case 2:
                    data[place:place] = bytes(chance.randrange(256) for _ in range(4))
                case _:
                    data[place:place] = data[place : place + 30]
        yield bytes(data)


async def _status(port: int, request: bytes) -> int | None:
    """Send the request and end the sending side; the answer's status, if there is one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            writer.write(request)
            writer.write_eof()
            line = await reader.readline()
            await reader.read()
    except ConnectionError:
        return None
    finally:
        writer.close()
    return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else None


async def test_mutated_requests_never_break_it(place: Place) -> None:
    """Never a 500, never a hang, and whatever is answered 200 is in the journal."""
    statuses = set()
    for request in _mutations(400):
        statuses.add(await _status(place.port, request))
    assert {status for status in statuses if status and status >= 500} <= {503}
    assert {None, 200, 400, 401, 404, 405} >= statuses - {408, 413, 414, 431}
    assert set(await pending(place)) <= {"e-1"}
    assert (await post_event(place.port, "e-2")).status == 200


#: What a caller may send, and the answer's status.
CALLS = {
    "event": (encrypt(as_json(payload("e-1"))), EVENT, 200),
    "challenge": (encrypt(as_json(challenge())), EVENT, 200),
    "unsigned": (b"{}", EVENT, 401),
    "unknown path": (b"{}", "/other", 404),
}


@pytest.mark.parametrize(("body", "path", "status"), CALLS.values(), ids=CALLS)
async def test_leaving_server_answers_and_closes_each_connection(
    body: bytes, path: str, status: int, place: Place
) -> None:
    """A balancer that keeps connections would go on sending here until it is too late."""
    for leaving in (False, True):
        if leaving:
            place.webhook.leave()
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        signed = sign(body) if status == 200 else {}
        async with asyncio.timeout(10):
            writer.write(head(path, signed, length=len(body)) + body)
            answer = await read_answer(reader)
            assert answer.status == status
            assert leaving is ("close" in answer.headers.get("connection", "").lower())
            if leaving:
                assert await reader.read() == b""
        writer.close()


def _parting_requests() -> dict[str, bytes]:
    """One request for each kind of answer."""
    challenge = {"challenge": "c", "type": "url_verification", "token": TOKEN}
    bodies = {
        "event": as_json(payload("e-1")),
        "challenge": as_json(challenge),
        "card": as_json(payload("e-2", event_type=CALLBACKS[0])),
    }
    found = {}
    for name, plain in bodies.items():
        body = encrypt(plain)
        found[name] = head(EVENT, sign(body), length=len(body)) + body
    body = as_json(challenge)
    found["plain challenge"] = head(EVENT, {}, length=len(body)) + body
    found["signature"] = head(EVENT, {}, length=2) + b"{}"
    found["not JSON"] = head(f"{EVENT}/plain", {}, length=1) + b"{"
    found["too large"] = head(EVENT, {}, length=MAX_BODY + 1) + b"x" * (MAX_BODY + 1)
    found["no body in time"] = head(EVENT, {}, length=2) + b"{"
    found["unknown app"] = head(f"{EVENT}/nobody", {}, length=2) + b"{}"
    found["unknown path"] = head("/nowhere", {}, length=2) + b"{}"
    found["method"] = head(EVENT, {}, method="GET")
    found["health"] = head("/", {}, method="GET")
    found["health, without a body"] = head("/", {}, method="HEAD")
    found["kept alive by wish"] = head(EVENT, {"Connection": "keep-alive"}, length=2) + b"{}"
    return found


async def _last_answer(port: int, request: bytes) -> bytes:
    """Send a request and read until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("kind", list(_parting_requests()))
async def test_every_answer_of_a_leaving_server_closes_its_connection(
    kind: str, place: Place
) -> None:
    """A caller that goes on by a connection of which nobody told him meets a closed one."""
    place.webhook.leave()
    answer = await _last_answer(place.port, _parting_requests()[kind])
    assert b"\r\nconnection: close\r\n" in answer.lower()


async def test_full_journal_closes_the_connections_of_a_leaving_server(tmp_path: Path) -> None:
    async with place_at(tmp_path, max_bytes=1) as place:
        assert (await post_event(place.port, "e-1")).status == 200
        place.webhook.leave()
        answer = await _last_answer(place.port, _parting_requests()["card"])
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
