"""The long connection over real sockets: what Feishu sends, and what it should never send."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.errors import RejectedError, RejectReason
from relay.events import Challenge, Outcome, RawCallback, Transport
from relay.ingress import frames, longconn
from relay.ingress.frame_pb2 import Frame
from relay.ingress.longconn import LongConnection
from relay.ingress.pipeline import Pipeline
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from relay.settings import App
from tests import fakes
from tests.fakes import journal_at, until
from tests.gateway import APP_ID, APP_SECRET, TICKET, Gateway, control, data, event, gateway
from tests.ports import free_port

NAME = "connected"


@dataclass
class Place:
    """A relay's side and Feishu's."""

    feishu: Gateway
    connection: LongConnection
    journal: Journal
    pipeline: Pipeline
    metrics: Metrics

    async def stored(self) -> list[str]:
        return [one.event_id for one in await self.journal.pending(10_000, 2**30)]

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"app": NAME, **labels}) or 0

    async def connected(self, times: int = 1) -> None:
        await until(lambda: len(self.feishu.sockets) == times)
        await until(lambda: self.metric("relay_long_connection_up") == 1)

    async def acknowledged(self, count: int) -> dict[str, int]:
        await until(lambda: len(self.feishu.acks) == count)
        return self.feishu.codes()


@asynccontextmanager
async def connecting(path: Path, feishu: Gateway, accept: Any = None) -> AsyncIterator[Place]:
    """Run a connection for as long as the context lasts, and end it as a drain does."""
    metrics = Metrics()
    async with journal_at(path / "journal.db", metrics) as journal:
        app = App(app_id=APP_ID, app_secret=APP_SECRET, long_connection=True)
        pipeline = Pipeline({NAME: app}, journal)
        credentials = (APP_ID, APP_SECRET)
        connection = LongConnection(
            NAME, credentials, feishu.url, accept or pipeline.accept, metrics
        )
        running = asyncio.create_task(connection.run())
        try:
            yield Place(feishu, connection, journal, pipeline, metrics)
        finally:
            await asyncio.wait_for(connection.stop(), 10)
            await running


@pytest.fixture
async def feishu() -> AsyncIterator[Gateway]:
    async with gateway() as place:
        yield place


@pytest.fixture
async def place(tmp_path: Path, feishu: Gateway) -> AsyncIterator[Place]:
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        yield place


async def still_works(place: Place) -> None:
    """The connection is the one it was, and takes events."""
    before = len(place.feishu.acks)
    await place.feishu.push(event("e-after"))
    await until(lambda: len(place.feishu.acks) > before)
    assert place.feishu.codes()["e-after"] == 200
    assert "e-after" in await place.stored()
    assert len(place.feishu.sockets) == 1


async def test_event_is_acknowledged_with_its_own_frame(place: Place) -> None:
    """All of it comes back: ids beyond 2^63, headers in order, and what relay does not know."""
    sent = event("e-1")
    unknown = b"\xfa\x01\x05later"  # field 31
    await place.feishu.push(sent.SerializeToString() + unknown)
    await place.acknowledged(1)
    (ack,) = place.feishu.acks
    assert await place.stored() == ["e-1"]
    assert ack.payload == b'{"code":200}'
    assert (7, 8234567890123456789, sent.service, 1) == (
        ack.seq_id,
        ack.log_id,
        ack.service,
        ack.method,
    )
    headers = [(one.key, one.value) for one in ack.headers]
    assert [(one.key, one.value) for one in sent.headers] == headers[:-1]
    key, milliseconds = headers[-1]
    assert key == "biz_rt"
    assert milliseconds.isdigit()
    assert unknown in ack.SerializeToString()


@pytest.mark.parametrize("event_type", ["card.action.trigger", "url.preview.get", "card.x"])
@pytest.mark.parametrize("schema", ["1.0", "2.0"])
async def test_callback_of_a_card_is_answered_with_nothing_to_show(
    event_type: str, schema: str, place: Place
) -> None:
    """`{}` in base64, as the SDKs answer: any other data is an error to whoever has clicked."""
    body: dict[str, Any] = fakes.payload("e-1", event_type=event_type, token="", event={})
    if schema == "1.0":
        body = {"uuid": "e-1", "event": {"type": event_type}}
    for times in (1, 2):
        await place.feishu.push(data(json.dumps(body).encode(), "e-1"))
        await until(lambda: len(place.feishu.acks) == times)  # noqa: B023 - at once
    assert {ack.payload for ack in place.feishu.acks} == {b'{"code":200,"data":"e30="}'}
    (stored,) = await place.journal.pending(10, 2**20)
    assert (stored.event_id, stored.event_type) == ("e-1", event_type)


async def test_callback_that_cannot_be_taken_has_no_answer(tmp_path: Path, feishu: Gateway) -> None:
    async def accept(_: RawCallback) -> Outcome | Challenge:
        raise RejectedError(RejectReason.JOURNAL_FULL, "full")

    async with connecting(tmp_path, feishu, accept) as place:
        await place.connected()
        body = fakes.payload("e-1", event_type="card.action.trigger", token="")
        await feishu.push(data(json.dumps(body).encode(), "e-1"))
        await until(lambda: feishu.acks)
    assert feishu.acks[0].payload == b'{"code":500}'


async def test_ids_above_two_to_the_63rd_are_exact(place: Place) -> None:
    sent = event("e-1")
    sent.seq_id, sent.log_id = 2**64 - 1, 2**63 + 1
    await place.feishu.push(sent)
    await place.acknowledged(1)
    assert (place.feishu.acks[0].seq_id, place.feishu.acks[0].log_id) == (2**64 - 1, 2**63 + 1)


async def test_ack_waits_for_the_disk(tmp_path: Path, feishu: Gateway) -> None:
    """And while it waits, others are served and pings go out."""
    commit = asyncio.Event()

    async def accept(raw: RawCallback) -> Outcome | Challenge:
        if b"slow" in raw.body:
            await commit.wait()
        return Outcome.ACCEPTED

    feishu.config["PingInterval"] = 1
    async with connecting(tmp_path, feishu, accept) as place:
        await place.connected()
        await feishu.push(event("slow"))
        await feishu.push(event("fast"))
        assert await place.acknowledged(1) == {"fast": 200}
        pings = len(feishu.pings)
        await until(lambda: len(feishu.pings) > pings)
        assert feishu.codes() == {"fast": 200}
        commit.set()
        assert await place.acknowledged(2) == {"fast": 200, "slow": 200}


async def test_no_more_is_read_than_may_wait(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest waits with Feishu, and comes when there is room."""
    monkeypatch.setattr(longconn, "MAX_IN_FLIGHT", 2)
    commit = asyncio.Event()
    waiting, most = 0, 0

    async def accept(raw: RawCallback) -> Outcome | Challenge:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await commit.wait()
        waiting -= 1
        return Outcome.ACCEPTED

    async with connecting(tmp_path, feishu, accept) as place:
        await place.connected()
        for number in range(10):
            await feishu.push(event(f"e-{number}"))
        await until(lambda: most == 2)
        commit.set()
        assert set((await place.acknowledged(10)).values()) == {200}
    assert most == 2


async def test_500_at_once_are_acknowledged_within_3_s(place: Place) -> None:
    began = time.monotonic()
    for number in range(500):
        await place.feishu.push(event(f"e-{number}"))
    codes = await place.acknowledged(500)
    assert time.monotonic() - began < 3
    assert set(codes.values()) == {200}
    assert len(await place.stored()) == 500


async def test_repeat_is_acknowledged_and_stored_once(place: Place) -> None:
    for _ in range(3):
        await place.feishu.push(event("e-1"))
    await place.acknowledged(3)
    assert await place.stored() == ["e-1"]
    assert place.metric("relay_received_total", transport="long_connection") == 3


async def test_both_transports_are_one(tmp_path: Path, feishu: Gateway) -> None:
    """An event that came by webhook is a repeat here."""
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        app = App(verification_token=fakes.TOKEN)
        webhook = Pipeline({NAME: app}, place.journal)
        body = json.dumps(fakes.payload("e-1")).encode()
        raw = RawCallback(app=NAME, transport=Transport.WEBHOOK, body=body, received_at=1)
        assert await webhook.accept(raw) is Outcome.ACCEPTED
        await feishu.push(event("e-1"))
        assert await place.acknowledged(1) == {"e-1": 200}
        assert await place.stored() == ["e-1"]


async def test_unverifiable_webhook_of_a_connected_app_is_refused(place: Place) -> None:
    """Nobody is let in by the other door because this one needs no key."""
    for body in ({}, fakes.payload("e-1", token=""), fakes.payload("e-1"), fakes.challenge("")):
        content = json.dumps(body).encode()
        raw = RawCallback(app=NAME, transport=Transport.WEBHOOK, body=content, received_at=1)
        with pytest.raises(RejectedError):
            await place.pipeline.accept(raw)
    assert await place.stored() == []


async def test_dead_letter_is_acknowledged(place: Place) -> None:
    """It is on disk; Feishu need not send it again."""
    await place.feishu.push(data(b'{"no": "event"}', "m-1"))
    await place.feishu.push(data(b"[]", "m-2"))
    assert await place.acknowledged(2) == {"m-1": 200, "m-2": 200}
    assert len(await place.stored()) == 2


@pytest.mark.parametrize("content", [b"", b"hello", b"{", b'{"a": 1e400}', b"\xff\xfe"])
async def test_payload_that_cannot_be_read_is_a_dead_letter(content: bytes, place: Place) -> None:
    """The connection itself is authentic: what comes over it is Feishu's, and is kept."""
    await place.feishu.push(data(content, "m-1"))
    assert await place.acknowledged(1) == {"m-1": 200}
    (stored,) = await place.journal.pending(10, 2**20)
    assert (stored.body, stored.event_id) == (content, hashlib.sha256(content).hexdigest())
    await still_works(place)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (RejectedError(RejectReason.JOURNAL_FULL, "full"), "journal_full"),
        (RejectedError(RejectReason.JOURNAL_UNAVAILABLE, "no"), "journal_unavailable"),
        (ZeroDivisionError(), "internal_error"),
    ],
)
async def test_what_cannot_be_stored_is_not_acknowledged(
    fault: Exception, reason: str, tmp_path: Path, feishu: Gateway
) -> None:
    async def accept(raw: RawCallback) -> Outcome | Challenge:
        raise fault

    async with connecting(tmp_path, feishu, accept) as place:
        await place.connected()
        await feishu.push(event("e-1"))
        assert await place.acknowledged(1) == {"e-1": 500}
        assert place.metric("relay_rejected_total", reason=reason) == 1


def parts(content: bytes, message_id: str, cuts: list[int]) -> list[Frame]:
    edges = [0, *cuts, len(content)]
    total = str(len(edges) - 1)
    return [
        data(content[a:b], message_id, {"sum": total, "seq": str(number)})
        for number, (a, b) in enumerate(pairwise(edges))
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_parts_are_joined_in_any_order(order: tuple[int, ...], place: Place) -> None:
    """Also when a cut goes through a character; the one ack is for the part that came last."""
    content = json.dumps(fakes.payload("e-1", token=""), ensure_ascii=False).encode()
    middle = content.index("你".encode()) + 1
    frames = parts(content, "m-1", [10, middle])
    for number in order:
        await place.feishu.push(frames[number])
    await place.acknowledged(1)
    assert str(order[-1]) in [h.value for h in place.feishu.acks[0].headers if h.key == "seq"]
    assert await place.stored() == ["e-1"]


async def test_part_twice_changes_nothing(place: Place) -> None:
    """Before the whole is there or after."""
    first, second = parts(event("e-1").payload, "m-1", [20])
    for frame in (first, first, second, second):
        await place.feishu.push(frame)
    await still_works(place)
    assert place.feishu.codes() == {"m-1": 200, "e-after": 200}
    assert await place.stored() == ["e-1", "e-after"]


async def test_missing_part_is_never_acknowledged(place: Place) -> None:
    first, _ = parts(event("e-1").payload, "m-1", [20])
    await place.feishu.push(first)
    await still_works(place)
    assert "m-1" not in place.feishu.codes()


HOSTILE: dict[str, tuple[bytes | Frame, str]] = {
    "garbage": (b"\xff\xff\xff\xff", "not_a_frame"),
    "cut": (event("x").SerializeToString()[:-50], "not_a_frame"),
    "empty": (b"", "unknown_kind"),
    "method": (Frame(seq_id=1, log_id=1, service=1, method=77), "unknown_kind"),
    "card": (event("x", type="card"), "unknown_kind"),
    "control": (control("goodbye"), "unknown_kind"),
    "huge sum": (event("x", sum="2000000000"), "impossible_parts"),
    "sum 0": (event("x", sum="0"), "impossible_parts"),
    "negative seq": (event("x", sum="2", seq="-1"), "impossible_parts"),
    "seq beyond sum": (event("x", sum="2", seq="2"), "impossible_parts"),
    "seq of words": (event("x", sum="2", seq="one"), "impossible_parts"),
    "seq of other digits": (event("x", sum="2", seq="١"), "impossible_parts"),
    "sum of words": (event("x", sum="two"), "impossible_parts"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_frame_is_ignored_and_counted(name: str, place: Place) -> None:
    content, reason = HOSTILE[name]
    await place.feishu.push(content)
    await still_works(place)
    assert list(place.feishu.codes()) == ["e-after"]
    assert place.metric("relay_long_connection_ignored_total", reason=reason) == 1


async def test_text_message_is_ignored_and_counted(place: Place) -> None:
    """Each of them; one line in the log says so."""
    with capture_logs() as logs:
        for _ in range(3):
            await place.feishu.sockets[-1].send_str("hello")
        await still_works(place)
    assert place.metric("relay_long_connection_ignored_total", reason="text") == 3
    assert [one["reason"] for one in logs if one["event"] == "long_connection_ignored"] == ["text"]


async def test_message_whose_parts_do_not_come_is_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped silently; as it is not acknowledged, Feishu sends it again."""
    monkeypatch.setattr(frames, "MAX_AGE", 0.05)
    await place.feishu.push(event("m", sum="2", seq="0"))
    counted = partial(place.metric, "relay_long_connection_ignored_total", reason="missing_parts")
    await until(lambda: counted() == 1)
    assert place.feishu.codes() == {}


async def test_parts_that_disagree_are_ignored(place: Place) -> None:
    await place.feishu.push(event("m", sum="2", seq="0"))
    await place.feishu.push(event("m", sum="3", seq="1"))
    await still_works(place)
    assert place.metric("relay_long_connection_ignored_total", reason="impossible_parts") == 1


async def test_encoded_payload_is_not_guessed(place: Place) -> None:
    """It is not acknowledged as taken, so that it can come again."""
    frame = event("e-1")
    frame.payload_encoding = "gzip"
    await place.feishu.push(frame)
    assert await place.acknowledged(1) == {"e-1": 500}
    assert place.metric("relay_long_connection_ignored_total", reason="encoded") == 1
    await still_works(place)


async def test_ping_names_the_service_and_comes_again(tmp_path: Path, feishu: Gateway) -> None:
    feishu.config["PingInterval"] = 1
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        await until(lambda: len(feishu.pings) >= 2)
        assert (
            bytes.fromhex("0800100018f681801020002a0c0a0474797065120470696e67")
            == feishu.pings[0].SerializeToString()
        )


@pytest.mark.parametrize("interval", [0, None, -5, "soon", 10**9, True, 1.5])
async def test_senseless_ping_interval_is_not_taken_over(
    interval: object, tmp_path: Path, feishu: Gateway
) -> None:
    """Not from the endpoint, and not from a pong."""
    feishu.config["PingInterval"] = interval
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        await feishu.push(control("pong", json.dumps({"PingInterval": interval}).encode()))
        for content in (b"", b"{", b"[]", b'"x"', b"\xff"):
            await feishu.push(control("pong", content))
        await feishu.push(control("ping"))
        await still_works(place)
        assert len(feishu.pings) == 1


async def test_pong_changes_the_ping_interval(place: Place) -> None:
    """At once: the next ping is not two minutes away any more."""
    await until(lambda: len(place.feishu.pings) == 1)
    await place.feishu.push(control("pong", b'{"PingInterval": 1}'))
    await until(lambda: len(place.feishu.pings) == 2, seconds=4)


async def test_dropped_connection_comes_back_within_2_s(place: Place) -> None:
    """Whatever `ReconnectCount` says; it is 1 here."""
    dropped = time.monotonic()
    await place.feishu.sockets[-1].close()
    await place.connected(2)
    assert place.feishu.called_at[-1] - dropped < 2
    await place.feishu.sockets[-1].close()
    await place.connected(3)
    assert place.metric("relay_long_connection_reconnects_total", reason="dropped") == 2
    await place.feishu.push(event("e-1"))
    assert await place.acknowledged(1) == {"e-1": 200}


async def test_deaf_connection_is_noticed(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "SILENCE", 0.2)
    feishu.config["PingInterval"] = 1
    async with connecting(tmp_path, feishu) as place:
        await place.connected(2)
        assert place.metric("relay_long_connection_reconnects_total", reason="deaf") == 1


async def test_any_frame_shows_that_somebody_is_there(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "SILENCE", 0.0)
    feishu.config["PingInterval"] = 1
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        for _ in range(12):
            await feishu.push(control("pong"))
            await asyncio.sleep(0.15)
        assert len(feishu.sockets) == 1


@pytest.mark.parametrize("code", [1, 1000040343, 1000040350])
async def test_passing_refusal_is_tried_again_soon(
    code: int, tmp_path: Path, feishu: Gateway
) -> None:
    feishu.refusals.append({"code": code, "msg": "system busy", "data": {}})
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            assert place.metric("relay_long_connection_reconnects_total", reason="unreachable") == 1
    (line,) = [one for one in logs if one["event"] == "long_connection_unreachable"]
    assert str(code) in line["error"]
    assert "system busy" in line["error"]


@pytest.mark.parametrize("code", [403, 514, 1000040344, 1000040345, 1000040351, 99, None, "x", []])
async def test_refused_app_is_reported_and_tried_slowly(
    code: object, tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "REFUSED_WAIT", 0.3)
    feishu.refusals.append({"code": code, "msg": "no"})
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            assert feishu.called_at[1] - feishu.called_at[0] > 0.14
            assert place.metric("relay_long_connection_reconnects_total", reason="refused") == 1
    assert "long_connection_refused" in [one["event"] for one in logs]


@pytest.mark.parametrize(
    "answer",
    [{}, {"code": 0}, {"code": 0, "data": {}}, {"code": 0, "data": {"URL": "http://x"}}],
)
async def test_endpoint_without_an_address_is_tried_again(
    answer: dict[str, Any], tmp_path: Path, feishu: Gateway
) -> None:
    feishu.refusals.append(answer)
    async with connecting(tmp_path, feishu) as place:
        await place.connected()
        assert place.metric("relay_long_connection_reconnects_total", reason="unreachable") == 1


async def test_refused_handshake_says_why(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "REFUSED_WAIT", 0.1)
    monkeypatch.setattr(longconn, "FIRST_WAIT", 0.1)
    many = {"Handshake-Status": "514", "Handshake-Autherrcode": "1000040350"}
    feishu.handshakes += [
        (403, {"Handshake-Status": "403", "Handshake-Msg": "not allowed"}),
        (400, many),
        (502, {}),
    ]
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            assert place.metric("relay_long_connection_reconnects_total", reason="refused") == 1
            assert place.metric("relay_long_connection_reconnects_total", reason="unreachable") == 2
    errors = " ".join(str(one.get("error")) for one in logs)
    for text in ("403 not allowed", "514 1000040350", "502"):
        assert text in errors


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ws://127.0.0.1:{port}/", "the long connection's server cannot be reached: "),
        ("ws://[", "the long connection's server cannot be reached: InvalidUrlClientError"),
    ],
)
async def test_address_that_leads_nowhere_is_tried_again(
    address: str, said: str, tmp_path: Path, feishu: Gateway
) -> None:
    url = address.format(port=free_port())
    feishu.refusals.append({"code": 0, "data": {"URL": url}})
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            assert place.metric("relay_long_connection_reconnects_total", reason="unreachable") == 1
    (line,) = [one for one in logs if one["event"] == "long_connection_unreachable"]
    assert line["error"].startswith(said)
    assert (f"(127.0.0.1:{url[15:-1]})" in line["error"]) is url.endswith("/")
    assert url not in line["error"]


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """Take connections at a port, and say nothing."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_handshake_that_hangs_is_given_up(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "HANDSHAKE_TIMEOUT", 0.1)
    with capture_logs() as logs:
        async with silent() as port:
            feishu.refusals.append({"code": 0, "data": {"URL": f"ws://127.0.0.1:{port}/"}})
            async with connecting(tmp_path, feishu) as place:
                await place.connected()
    (line,) = [one for one in logs if one["event"] == "long_connection_unreachable"]
    assert line["error"].startswith("the long connection's server does not answer (127.0.0.1:")


async def test_fault_that_nobody_foresaw_is_tried_again(tmp_path: Path, feishu: Gateway) -> None:
    """An answer nested deeper than Python reads."""
    feishu.texts.append("[" * 200_000)
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            name = "relay_long_connection_reconnects_total"
            assert place.metric(name, reason="internal_error") == 1
    (line,) = [one for one in logs if one["event"] == "long_connection_failed"]
    assert line["error"] == "RecursionError"


async def test_feishu_away_at_start_is_tried_until_it_is_there(tmp_path: Path) -> None:
    """Nothing listens; whoever waits for it is not disturbed."""
    place = Gateway(url=f"http://127.0.0.1:{free_port()}")
    async with connecting(tmp_path, place) as here:
        await until(
            lambda: here.metric("relay_long_connection_reconnects_total", reason="unreachable") == 1
        )
        assert here.metric("relay_long_connection_up") == 0


async def test_stop_during_a_call_that_hangs_is_quick(tmp_path: Path) -> None:
    async with silent() as port:
        began = time.monotonic()
        async with connecting(tmp_path, Gateway(url=f"http://127.0.0.1:{port}")):
            await asyncio.sleep(0.1)
        assert time.monotonic() - began < 3


async def test_stop_between_two_attempts_is_quick(tmp_path: Path, feishu: Gateway) -> None:
    """However long the wait is."""
    feishu.refusals.append({"code": 514, "msg": "no"})
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await until(lambda: "long_connection_refused" in [one["event"] for one in logs])
            began = time.monotonic()
        assert time.monotonic() - began < 3
    assert place.metric("relay_long_connection_reconnects_total", reason="refused") == 0
    assert len(feishu.calls) == 1


async def test_connection_ends_with_its_task(feishu: Gateway) -> None:
    """Nobody said stop: whoever cancels it wants no other connection."""

    async def accept(raw: RawCallback) -> Outcome | Challenge:
        raise AssertionError

    metrics = Metrics()
    connection = LongConnection(NAME, (APP_ID, APP_SECRET), feishu.url, accept, metrics)
    running = asyncio.create_task(connection.run())

    def up() -> float | None:
        return metrics.registry.get_sample_value("relay_long_connection_up", {"app": NAME})

    await until(lambda: up() == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert up() == 0
    await until(lambda: len(feishu.closed_with) == 1)
    await asyncio.wait_for(connection.stop(), 1)
    assert len(feishu.calls) == 1


async def test_stop_acknowledges_what_is_under_way_and_closes(
    tmp_path: Path, feishu: Gateway
) -> None:
    """It takes nothing more: Feishu gives later events to another client."""
    entered, commit = asyncio.Event(), asyncio.Event()

    async def accept(raw: RawCallback) -> Outcome | Challenge:
        entered.set()
        await commit.wait()
        return Outcome.ACCEPTED

    async with connecting(tmp_path, feishu, accept) as place:
        await place.connected()
        await feishu.push(event("e-1"))
        await entered.wait()
        stopping = asyncio.create_task(place.connection.stop())
        await asyncio.sleep(0.05)
        await feishu.push(event("e-2"))
        commit.set()
        await stopping
        await until(lambda: feishu.closed_with == [1000])
        assert feishu.codes() == {"e-1": 200}


async def test_secrets_are_in_no_log(
    tmp_path: Path, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the app's secret, and not the address, which is one."""
    monkeypatch.setattr(longconn, "REFUSED_WAIT", 0.1)
    monkeypatch.setattr(longconn, "FIRST_WAIT", 0.1)
    feishu.refusals += [{"code": 514, "msg": "auth"}, {"code": 1}]
    feishu.handshakes += [(403, {}), (500, {})]
    with capture_logs() as logs:
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            await feishu.push(b"\xff\xff")
            await feishu.push(event("e-1"))
            await place.acknowledged(1)
            await feishu.sockets[-1].close()
            await place.connected(2)
        exposition = place.metrics.exposition().decode()
    written = json.dumps(logs, default=repr) + exposition
    assert len(logs) > 5
    assert TICKET not in written
    assert APP_SECRET not in written
    assert feishu.calls[0] == {"AppID": APP_ID, "AppSecret": APP_SECRET}


async def test_apps_have_connections_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        gateway() as one,
        gateway() as other,
        connecting(tmp_path / "a", one) as first,
        connecting(tmp_path / "b", other) as second,
    ):
        await first.connected()
        await second.connected()
        await one.push(event("e-1"))
        await other.push(event("e-2"))
        await first.acknowledged(1)
        await second.acknowledged(1)
        assert (await first.stored(), await second.stored()) == (["e-1"], ["e-2"])
