"""The simulator's requests, judged by the code that opens real ones."""

import io
import itertools
import json
import random
import time
from collections import Counter

import pytest
from rich.console import Console

from relay.contract.normalize import EVENT_TYPES, Router, normalize
from relay.errors import STATUS, RejectedError
from relay.events import Callback, RawCallback, StoredEvent, Transport
from relay.ingress import authentic
from relay.simulator.run import phrase, sentence, table
from relay.simulator.samples import Helpdesk
from relay.simulator.sender import EXPECTED, NO_ANSWER, Answer, Delivery, Kind, Simulator, Summary
from relay.simulator.sender import SimulatorOptions as Options

KEY, TOKEN = "an encrypt key", "a token"
LIMIT = 4096


def deliveries(count: int, **options: object) -> list[Delivery]:
    settings = {"url": "", "verification_token": TOKEN, "max_body_bytes": LIMIT, "seed": 1}
    simulator = Simulator(Options(**(settings | options)))  # type: ignore[arg-type]
    return [simulator.next() for _ in range(count)]


def open_delivery(delivery: Delivery, key: str) -> Callback:
    raw = RawCallback(
        app="default",
        transport=Transport.WEBHOOK,
        body=delivery.body,
        received_at=int(time.time() * 1000),
        timestamp=delivery.headers.get("X-Lark-Request-Timestamp", ""),
        nonce=delivery.headers.get("X-Lark-Request-Nonce", ""),
        signature=delivery.headers.get("X-Lark-Signature", ""),
    )
    keys = (authentic.EncryptKey(key),) if key else ()
    credentials = authentic.Credentials(keys=keys, tokens=(TOKEN.encode(),))
    opened = authentic.open(raw, credentials)
    assert isinstance(opened, Callback)
    return opened


def status_of(delivery: Delivery, key: str) -> int:
    if len(delivery.body) > LIMIT:
        return 413
    try:
        open_delivery(delivery, key)
    except RejectedError as error:
        return STATUS[error.reason]
    return 200


@pytest.mark.parametrize("key", [KEY, ""])
def test_each_request_deserves_the_answer_that_is_expected_for_it(key: str) -> None:
    """Every forgery is refused for what it is, and only events come in."""
    sent = deliveries(600, encrypt_key=key, hostile=0.6, repeat=0.2)
    for delivery in sent:
        assert EXPECTED[delivery.kind] == status_of(delivery, key), delivery.kind
    without = {Kind.UNASKED_CIPHER} if key else {
        Kind.BAD_SIGNATURE, Kind.NO_SIGNATURE, Kind.STALE, Kind.PLAIN_BODY, Kind.TRUNCATED,
    }  # fmt: skip
    assert set(Kind) - without == {delivery.kind for delivery in sent}


def test_a_target_that_checks_no_token_gets_none_forged() -> None:
    sent = deliveries(300, encrypt_key=KEY, verification_token="", hostile=1)
    assert Kind.WRONG_TOKEN not in {delivery.kind for delivery in sent}


def test_a_repeat_is_the_same_event_signed_anew() -> None:
    sent = deliveries(200, encrypt_key=KEY, repeat=0.5)
    first: dict[str, Delivery] = {}
    repeats = 0
    for delivery in sent:
        earlier = first.setdefault(delivery.sample.event_id, delivery)
        if delivery.kind is Kind.REPEAT:
            repeats += 1
            assert open_delivery(earlier, KEY).body == open_delivery(delivery, KEY).body
            assert (
                earlier.headers["X-Lark-Request-Nonce"] != delivery.headers["X-Lark-Request-Nonce"]
            )
            assert earlier.body != delivery.body
        else:
            assert earlier is delivery
    assert 40 < repeats < 100


def test_the_same_seed_tells_the_same_story() -> None:
    def story(seed: int) -> list[tuple[str, str, str]]:
        sent = deliveries(50, seed=seed, repeat=0.1, hostile=0.1)
        return [(one.kind, one.sample.event_id, one.sample.ticket_id) for one in sent]

    assert story(7) == story(7)
    assert story(7) != story(8)


def test_what_is_invented_fits_the_contract() -> None:
    """All four types come; nothing in them is unexpected; ids and records agree."""
    router, seen = Router("feishu.", {}), Counter[str]()
    for seq, delivery in enumerate(deliveries(1500, encrypt_key=KEY, tickets=5)):
        callback = open_delivery(delivery, KEY)
        seen[callback.event_type] += 1
        stored = StoredEvent(
            seq=seq,
            app=callback.app,
            transport=callback.transport,
            received_at=callback.received_at,
            event_id=callback.event_id,
            event_type=callback.event_type,
            body=callback.body,
        )
        value = json.loads(normalize(stored, router).value or b"")
        assert "unexpected" not in value
        assert delivery.sample.event_id == value["event"]["id"]
        assert delivery.sample.ticket_id == (value["ticket_id"] or "")
    assert set(EVENT_TYPES) == set(seen)


def test_a_ticket_is_created_first_and_closed_at_the_end() -> None:
    lives: dict[str, list[dict[str, object]]] = {}
    for delivery in deliveries(400, tickets=3):
        sample = delivery.sample
        kind = sample.event_type.split(".")[1]
        lives.setdefault(sample.ticket_id, []).append({"type": kind, **sample.payload["event"]})
    del lives[""]
    finished = list(lives.values())[:-3]
    assert len(finished) > 10
    for life in finished:
        assert [step["type"] for step in life].index("ticket") == 0
        assert "status" in life[0]
        closing = [step["object"] for step in life if "object" in step]
        assert any(step["closed_at"] for step in closing)  # type: ignore[index]


def test_at_most_so_many_tickets_are_open_and_quirks_of_real_traffic_occur() -> None:
    sent = [one.sample.payload["event"] for one in deliveries(2000, tickets=2)]
    messages = [event for event in sent if "ticket_message_id" in event]
    assert {str, int} == {type(message["position"]) for message in messages}
    assert {str, int} == {type(message["chat_id"]) for message in messages}
    comments = [message["ticket"].get("comments") for message in messages]
    assert {dict, list, type(None)} == {type(comment) for comment in comments}
    assert all(("sender_id" in message) == (message["sender_type"] != 1) for message in messages)
    texts = "".join(message["text"] for message in messages)
    assert "VPN" in texts
    assert "连不上" in texts


def test_a_helpdesk_without_tickets_still_has_one() -> None:
    clock = itertools.count(1_700_000_000_000)
    desk = Helpdesk(random.Random(1), tickets=0, app_id="a", token="t", clock=lambda: next(clock))
    assert desk.next().payload["header"]["app_id"] == "a"


def answer(kind: Kind, status: int, latency: float = 0.001) -> Answer:
    return Answer(
        kind=kind,
        event_id="e",
        event_type="helpdesk.ticket.created_v1",
        ticket_id="1",
        status=status,
        expected=EXPECTED[kind],
        latency=latency,
    )


def test_the_summary_counts_what_was_not_as_it_must_be() -> None:
    summary = Summary()
    for number in range(100):
        summary.add(answer(Kind.EVENT, 200, latency=number / 1000))
    summary.add(answer(Kind.EVENT, 503, latency=0.2))
    summary.add(answer(Kind.EMPTY, 400))
    summary.add(answer(Kind.REPEAT, NO_ANSWER, latency=3))
    assert summary.sent == 103
    assert summary.unexpected == 2
    assert summary.slowest == 0.2
    assert 0.049 <= summary.quantile(0.5) <= 0.051
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(table(summary))
    shown = console.export_text()
    assert "must be 200 OK" in shown
    assert "503 Service Unavailable" in shown
    assert "no answer" in shown
    assert "2 answers not as it must be" in sentence(summary, 2)


def test_an_empty_summary_is_a_sentence_too() -> None:
    assert sentence(Summary(), 1) == "Nothing was sent."
    assert Summary().quantile(0.99) == 0


@pytest.mark.parametrize(
    ("status", "words"), [(200, "200 OK"), (413, "413 Too Large"), (599, "599"), (0, "no answer")]
)
def test_a_status_has_a_name(status: int, words: str) -> None:
    assert phrase(status) == words
