"""What consumers read: the golden pairs, and what holds for every event there could be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contract import exactjson
from relay.contract.normalize import EVENT_TYPES, Router, dead_letter, normalize
from relay.contract.rules.privacy import Guard
from relay.events import DeadLetterReason, Outcome, Record, StoredEvent, Transport
from tests.fakes import MESSAGE_CREATED, payload

CONTRACT = Path(__file__).parent / "contract"
PAIRS = sorted(path.name.removesuffix(".input.json") for path in CONTRACT.glob("*.input.json"))
#: 2026-01-02T03:04:05.678Z
RECEIVED = 1_767_323_045_678
ROUTER = Router("feishu.", {})

ID_FIELDS = {
    "ticket_id",
    "helpdesk_id",
    "chat_id",
    "ticket_message_id",
    "message_id",
    "event_id",
    "notification_id",
}
#: Where the rules of each type apply, as paths from `event`.
RULED = {
    "helpdesk.ticket_message.created_v1": ((), ("ticket",), ("content",)),
    "helpdesk.ticket.created_v1": ((),),
    "helpdesk.ticket.updated_v1": (("object",), ("old_object",)),
    "helpdesk.notification.approve_v1": ((),),
}


def stored(body: object, event_id: str = "e-1", *, replayed: bool = False) -> StoredEvent:
    return StoredEvent(
        seq=1,
        app="default",
        transport=Transport.WEBHOOK,
        received_at=RECEIVED,
        event_id=event_id,
        event_type="",
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        replayed=replayed,
    )


def normalized(event: StoredEvent) -> Record:
    """Give the record, the same whether the body comes parsed or not."""
    record = normalize(event, ROUTER)
    kept = replace(event, content=exactjson.glance(event.body))
    assert record == normalize(kept, ROUTER) == normalize(kept, ROUTER)
    return record


def value_of(record: Record) -> Any:
    assert record.value is not None
    return json.loads(record.value)


@pytest.mark.parametrize("name", PAIRS)
def test_golden_pair(name: str) -> None:
    """The contract in examples: topic, key, headers and value, complete."""
    body = (CONTRACT / f"{name}.input.json").read_bytes()
    expected = json.loads((CONTRACT / f"{name}.output.json").read_bytes())
    content = json.loads(body)
    event_id = content["header"]["event_id"] if "schema" in content else content["uuid"]
    record = normalized(stored(body, event_id))
    headers = {header: value.decode() for header, value in record.headers}
    actual = {
        "topic": record.topic,
        "key": record.key.decode(),
        "headers": headers,
        "value": value_of(record),
    }
    assert expected == actual
    assert len(headers) == len(record.headers)
    assert (record.outcome, record.reason, record.timestamp) == (Outcome.PUBLISHED, None, RECEIVED)


def test_integers_of_golden_pairs_are_not_floats() -> None:
    """`==` takes 1.0 for 1; the text of the value does not."""
    body = (CONTRACT / "huge_integers.input.json").read_bytes()
    record = normalize(stored(body, "e-4"), ROUTER)
    assert record.value is not None
    assert b'"unruled":[-123456789012345678901234567890,18446744073709551616' in record.value
    assert b'"agent_resolution_time_seconds":123456789012345678901234567890,' in record.value


def test_owner_of_a_ticket_event_is_unchanged() -> None:
    """A backfill has one with its id as text, as Feishu's API has it."""
    event = {"ticket_id": "7", "agent_owner": {"id": "ou_1", "name": "Li Lei"}}
    value = value_of(
        normalized(stored(payload(event_type="helpdesk.ticket.created_v1", event=event)))
    )
    assert (value["data"], value.get("unexpected")) == (event, None)


def test_longest_duration_is_an_event() -> None:
    """As seconds it has more digits than Python writes; that is no fault of ours."""
    minutes = int("9" * 4300)
    event = {"ticket_id": "7", "agent_service_duration": minutes}
    record = normalized(stored(payload(event_type="helpdesk.ticket.created_v1", event=event)))
    value = value_of(record)
    assert value["data"] == {"ticket_id": "7", "agent_service_duration_seconds": None}
    assert value["unexpected"] == {"/agent_service_duration": minutes}


def test_replayed_event_says_so() -> None:
    """An operator's second publication can be told from the first."""
    headers = dict(normalize(stored(payload(), replayed=True), ROUTER).headers)
    assert headers["relay_replayed"] == b"1"
    assert "relay_replayed" not in dict(normalize(stored(payload()), ROUTER).headers)


def test_replayed_dead_letter_says_so() -> None:
    """A dead letter is replayed as events are, also one whose body the journal keeps."""
    event = stored(b"[1]", replayed=True)
    first, again = normalize(stored(b"[1]"), ROUTER), normalize(event, ROUTER)
    assert [*first.headers, ("relay_replayed", b"1")] == again.headers
    large = dead_letter(event, ROUTER, DeadLetterReason.TOO_LARGE, keep_value=False)
    assert dict(large.headers)["relay_replayed"] == b"1"


def test_long_connection_is_named() -> None:
    event = stored(payload())
    by_socket = StoredEvent(
        seq=1,
        app="default",
        transport=Transport.LONG_CONNECTION,
        received_at=RECEIVED,
        event_id="e-1",
        event_type="",
        body=event.body,
    )
    assert value_of(normalize(by_socket, ROUTER))["event"]["transport"] == "long_connection"


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (b"[1]", DeadLetterReason.NOT_AN_OBJECT, "the body, or its `event`, is not a JSON object"),
        (
            b'{"schema":"2.0"}',
            DeadLetterReason.NO_EVENT_ID,
            "the body has no event id, or one of over 512 characters",
        ),
        (
            b'{"header":{"event_id":"e"},"event":{}}',
            DeadLetterReason.NO_EVENT_TYPE,
            "the body has no event type",
        ),
    ],
)
def test_dead_letter_carries_the_bytes_and_the_reason(
    body: bytes, reason: DeadLetterReason, detail: str
) -> None:
    """A consumer of dead letters can see what came, when, from where, and why it is here."""
    expected = Record(
        outcome=Outcome.DEAD_LETTER,
        topic="feishu.dead_letter",
        key=b"id",
        value=body,
        headers=[
            ("relay_reason", reason.encode()),
            ("relay_detail", detail.encode()),
            ("relay_app", b"default"),
            ("relay_transport", b"webhook"),
            ("relay_received_at", b"2026-01-02T03:04:05.678Z"),
        ],
        timestamp=RECEIVED,
        reason=reason,
    )
    assert expected == normalize(stored(body, "id"), ROUTER)


def test_dead_letter_that_is_too_large_has_a_size_and_no_value() -> None:
    """The journal keeps its body."""
    event = stored(b"x" * 1000, "id")
    record = dead_letter(event, ROUTER, DeadLetterReason.TOO_LARGE, keep_value=False)
    headers = dict(record.headers)
    assert (
        record.value,
        headers["relay_size"],
        headers["relay_reason"],
    ) == (None, b"1000", b"too_large")


@pytest.mark.parametrize("body", [b"[1]", b"not json", b'{"schema":"2.0","token":"v2"}'])
def test_dead_letter_may_be_kept_off_kafka_but_for_its_headers(body: bytes) -> None:
    """Key, reason and size stay; neither the token nor a customer's word is on the topic."""
    whole = normalize(stored(body, "id"), ROUTER)
    bare = normalize(stored(body, "id"), Router("feishu.", {}, dead_letter_value=False))
    assert (bare.value, bare.key, bare.reason) == (None, b"id", whole.reason)
    assert bare.headers == [*whole.headers, ("relay_size", str(len(body)).encode())]
    event = stored(payload())
    assert normalize(event, Router("feishu.", {}, dead_letter_value=False)) == normalize(
        event, ROUTER
    )


def test_topics_can_be_changed_one_by_one() -> None:
    """An operator may route a type, `other` and dead letters, and choose the prefix."""
    changes = {MESSAGE_CREATED: "messages", "other": "rest", "dead_letter": "dead", "im.v1": "im"}
    router = Router("x.", changes)
    assert router.topics == [
        "x.dead",
        "x.helpdesk.notification",
        "x.helpdesk.ticket",
        "x.im",
        "x.messages",
        "x.rest",
    ]
    assert (
        router.topic(MESSAGE_CREATED),
        router.topic("im.v1"),
        router.topic("never heard of"),
    ) == ("x.messages", "x.im", "x.rest")
    assert router.dead_letter == "x.dead"


def test_event_of_the_type_dead_letter_is_none() -> None:
    """Whoever reads dead letters gets no event, whatever name Feishu gives to a type."""
    record = normalize(stored(payload(event_type="dead_letter")), ROUTER)
    assert (record.outcome, record.topic) == (Outcome.PUBLISHED, "feishu.other")
    changed = Router("x.", {"dead_letter": "dead", "other": "rest"})
    assert (changed.topic("dead_letter"), changed.dead_letter) == ("x.rest", "x.dead")


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        ("1550038110.030212", "2019-02-13T06:08:30.030Z"),
        ("1550038110.5", "2019-02-13T06:08:30.500Z"),
        (1550038110, "2019-02-13T06:08:30.000Z"),
        (1550038110.25, "2019-02-13T06:08:30.250Z"),
        ("soon", None),
        (None, None),
        ("-5", None),
        ([], None),
        ("0.001", "1970-01-01T00:00:00.001Z"),
        ("0", None),
        ("0.0004", None),
        (0, None),
        ("1550038110030", "2019-02-13T06:08:30.030Z"),
        (1550038110030, "2019-02-13T06:08:30.030Z"),
        ("1550038110030.9", "2019-02-13T06:08:30.030Z"),
        ("1550038110030212", "2019-02-13T06:08:30.030Z"),
        ("99999999999.9", "5138-11-16T09:46:39.900Z"),
        ("9" * 18, None),
    ],
)
def test_time_of_schema_1_is_seconds_with_a_fraction(ts: object, expected: str | None) -> None:
    """Zero is no time, as in schema 2.0."""
    body = {"uuid": "u", "ts": ts, "event": {"type": "message"}}
    assert expected == value_of(normalize(stored(body, "u"), ROUTER))["event"]["created_at"]


def test_schema_is_the_one_that_the_door_has_seen() -> None:
    """Where the event id is read as 1.0 has it, so is all else, whatever `header` holds."""
    names = {"app_id": "cli_1", "tenant_key": "t1"}
    body = {
        "uuid": "u",
        "ts": "1550038110.5",
        "header": {"create_time": "1608725989000", "app_id": "cli_2", "tenant_key": "t2"},
        "event": {"type": "message"} | names,
    }
    record = normalize(stored(body, "u"), ROUTER)
    event = value_of(record)["event"]
    assert names | {"created_at": "2019-02-13T06:08:30.500Z"} == {
        name: event[name] for name in ("app_id", "tenant_key", "created_at")
    }
    assert dict(record.headers)["ce_source"] == b"/feishu/t1/cli_1"


@pytest.mark.parametrize(
    "create_time",
    [
        "",
        None,
        0,
        "0",
        -5,
        "1e3",
        1608725989000.5,
        [],
        "9" * 18,
        "1608725989000 ",
        # `re.fullmatch` and a trailing newline, digits outside ASCII
        "1608725989000\n",
        "١٦٠٨٧٢٥٩٨٩",
    ],
)
def test_unusable_create_time_is_unknown(create_time: object) -> None:
    """`created_at` is null and `ce_time` absent; the event goes on."""
    body = payload()
    body["header"]["create_time"] = create_time
    record = normalize(stored(body), ROUTER)
    assert value_of(record)["event"]["created_at"] is None
    assert "ce_time" not in dict(record.headers)


def test_deep_nesting_is_published() -> None:
    """Deeper than orjson writes, as deep as Feishu's nested rich text could ever be."""
    deep: Any = "leaf"
    for _ in range(300):
        deep = [deep]
    record = normalize(stored(payload(event={"deep": deep})), ROUTER)
    assert deep == value_of(record)["data"]["deep"]


@pytest.mark.parametrize("kept", [False, True], ids=["read", "kept"])
@pytest.mark.parametrize("nested", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [600, 950, 980, 1000, 1018])
def test_what_cannot_be_written_is_a_dead_letter(
    depth: int, nested: tuple[bytes, bytes], *, kept: bool
) -> None:
    """Some nesting can be read, but not written again: that is no fault of ours."""
    deep = nested[0] * depth + b"1" + nested[1] * depth
    event = stored(json.dumps(payload(event={"deep": "here"})).encode().replace(b'"here"', deep))
    if kept:
        event = replace(event, content=exactjson.glance(event.body))
    record = normalize(event, ROUTER)
    assert record.reason in {None, DeadLetterReason.NOT_JSON}
    assert record.reason or record.value is not None


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None))
    | st.sampled_from(["0", "12", "-1", "1608725989000", "1603977298000000", "9" * 25, "2.5", ""])
)
NAMES = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(
    [
        *sorted({name for known in EVENT_TYPES.values() for name in known.fields}),
        *("status", "status_code", "comments", "created_at", "customized_fields", "channel"),
        *("agent_service_duration", "agent_service_duration_seconds", "image_keys", "id"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=8)
TYPES = st.sampled_from([*EVENT_TYPES, "im.message.receive_v1"])


def made(event_type: str, event: dict[str, Any]) -> tuple[Record, Any, Any]:
    """Give the record, its value, and the event as its JSON text says it."""
    body = payload(event_type=event_type, event=event)
    record = normalized(stored(body))
    return record, value_of(record), json.loads(json.dumps(event))


@given(TYPES, EVENTS)
def test_any_object_gives_a_record(event_type: str, event: dict[str, Any]) -> None:
    """Total: whatever Feishu sends as `event`, a consumer gets one JSON object under a key."""
    record, value, _ = made(event_type, event)
    assert Outcome.PUBLISHED is record.outcome
    assert record.key
    assert record.key == dict(record.headers)["ce_partitionkey"]
    assert (
        {"event", "ticket_id", "data"} <= set(value) <= {"event", "ticket_id", "data", "unexpected"}
    )


@given(EVENTS)
def test_unknown_type_passes_unchanged(event: dict[str, Any]) -> None:
    """Every integer exact, every name in its place."""
    _, value, given_event = made("im.message.receive_v1", event)
    assert given_event == value["data"]
    assert "unexpected" not in value


@given(TYPES, EVENTS)
def test_unexpected_pointers_resolve_in_the_input(event_type: str, event: dict[str, Any]) -> None:
    """A consumer can look up what did not fit where Feishu put it."""
    _, value, given_event = made(event_type, event)
    for pointer, original in value.get("unexpected", {}).items():
        found = given_event
        for part in pointer.split("/")[1:]:
            found = found[int(part)] if isinstance(found, list) else found[part]
        assert original == found


@given(st.sampled_from(sorted(RULED)), EVENTS)
def test_ids_are_text_wherever_a_rule_applies(event_type: str, event: dict[str, Any]) -> None:
    """A consumer never meets an id as a number, which JavaScript would round."""
    _, value, given_event = made(event_type, event)
    for path in RULED[event_type]:
        source, result = given_event, value["data"]
        for part in path:
            source = source.get(part) if isinstance(source, dict) else None
            result = result.get(part) if isinstance(result, dict) else None
        if not isinstance(source, dict) or not isinstance(result, dict):
            continue
        ruled = {"ticket": ID_FIELDS & set(EVENT_TYPES["helpdesk.ticket.created_v1"].fields)}
        table = EVENT_TYPES[event_type].fields if not path else ruled.get(path[0], {})
        for name in ID_FIELDS & set(table) & set(source):
            assert result[name] is None or isinstance(result[name], str)
            if type(source[name]) is int:
                assert str(source[name]) == result[name]


@given(st.sampled_from(sorted(RULED)), EVENTS)
def test_nothing_without_a_rule_is_lost(event_type: str, event: dict[str, Any]) -> None:
    """A field of tomorrow arrives as it is; where our name took its, `unexpected` has it."""
    _, value, given_event = made(event_type, event)
    for name, content in given_event.items():
        if name not in EVENT_TYPES[event_type].fields:
            kept = value["data"].get(name), value.get("unexpected", {}).get(f"/{name}")
            assert content in kept


@given(st.dictionaries(st.sampled_from(["create_time", "app_id", "tenant_key"]), VALUES), VALUES)
def test_any_header_gives_a_record(header: dict[str, Any], ts: object) -> None:
    """What stands beside the event cannot stop it either."""
    body = payload()
    body["header"] |= header
    body["ts"] = ts
    assert Outcome.PUBLISHED is normalize(stored(body), ROUTER).outcome


@given(VALUES)
def test_any_document_gives_a_record(document: object) -> None:
    """An event or a dead letter; no third thing, and no exception."""
    record = normalized(stored(document))
    assert record.outcome in {Outcome.PUBLISHED, Outcome.DEAD_LETTER}
    assert exactjson.loads(record.value or b"null") is not ...


def message_id(event_type: str, event: dict[str, Any], router: Router = ROUTER) -> str | None:
    record = normalize(stored(payload(event_type=event_type, event=event)), router)
    found = dict(record.headers).get("relay_message_id")
    return found.decode() if found else None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("om_1", "om_1"),
        (7262656095919128578, "7262656095919128578"),
        (2**70, str(2**70)),
        ("消息", "消息"),
        ("a\nb", "a%0Ab"),
        *((odd, None) for odd in ("", None, True, 1.5, [], ["om_1"], {}, {"id": "om_1"})),
    ],
)
def test_message_is_known_by_its_own_id(given: object, expected: str | None) -> None:
    """Where it stands in the event that brings it; whatever else stands there is no id."""
    assert message_id(MESSAGE_CREATED, {"message_id": given}) == expected
    assert message_id("im.message.receive_v1", {"message": {"message_id": given}}) == expected
    body = {"uuid": "u", "event": {"type": "message", "open_message_id": given}}
    headers = dict(normalize(stored(body, "u"), ROUTER).headers)
    assert headers.get("relay_message_id", b"").decode() == (expected or "")


@pytest.mark.parametrize(
    "event_type",
    [
        "im.message.reaction.created_v1",
        "im.message.recalled_v1",
        "card.action.trigger",
        "helpdesk.ticket.created_v1",
        "never heard of",
    ],
)
def test_event_about_a_message_is_not_the_message(event_type: str) -> None:
    """Two reactions to one message are two; a consumer that left one out would lose it."""
    event = {"message_id": "om_1", "message": {"message_id": "om_1"}, "open_message_id": "om_1"}
    assert message_id(event_type, event) is None


def test_message_id_that_is_kept_from_consumers_is_in_no_header() -> None:
    """Left out or hashed, as the field is."""
    event = {"message_id": "om_1"}
    dropped = Router("", {}, None, Guard(drop=("message_id",)))
    assert message_id(MESSAGE_CREATED, event, dropped) is None
    hashed = Router("", {}, None, Guard(hashed=("message_id",), key=b"k" * 32))
    record = normalize(stored(payload(event=event)), hashed)
    data = value_of(record)["data"]["message_id"]
    assert dict(record.headers)["relay_message_id"].decode() == data != "om_1"
