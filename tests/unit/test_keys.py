"""Where an event goes and by which key, as an operator wants it: paths, wildcards, what holds else.

The paths are those of docs/configuration.md, and the events are in the form of Feishu's pages.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.contract.normalize import (
    EVENT_TYPES,
    LONGEST_TYPE,
    MOST_ROUTES,
    Router,
    normalize,
)
from relay.events import Callback, Record
from relay.observe.metrics import Metrics
from tests.fakes import MESSAGE_CREATED, MemoryKafka, as_json, event, journal_at, payload, until
from tests.unit.test_dispatcher import dispatching, drained
from tests.unit.test_normalize import stored
from tests.unit.test_settings import load

RECEIVE, UPDATED = "im.message.receive_v1", "helpdesk.ticket.updated_v1"
CREATED, APPROVE = "helpdesk.ticket.created_v1", "helpdesk.notification.approve_v1"

NO_KEYS: list[Any] = ["", None, True, 1.5, [], ["oc_1"], {}, {"id": "oc_1"}]


def record(
    event_type: str,
    content: dict[str, Any],
    keys: dict[str, str],
    topics: dict[str, str] | None = None,
) -> Record:
    body = payload("e-1", event_type=event_type, event=content)
    return normalize(stored(body), Router("", topics or {}, keys))


def key(event_type: str, content: dict[str, Any], keys: dict[str, str]) -> str:
    """Give the key, which stands in the header, too."""
    made = record(event_type, content, keys)
    assert dict(made.headers)["ce_partitionkey"] == made.key
    return made.key.decode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"message": {"chat_id": "oc_1"}}, "oc_1"),
        ({"message": {"chat_id": 7262656095919128578}}, "7262656095919128578"),
        ({"message": {"chat_id": 2**70}}, str(2**70)),
        ({"message": {"chat_id": "客服"}}, "客服"),
        *(({"message": {"chat_id": odd}}, "e-1") for odd in NO_KEYS),
        *(({"message": odd}, "e-1") for odd in NO_KEYS),
        ({"chat_id": "oc_1"}, "e-1"),
        ({"message": {"chat_id": "\ud800"}}, "e-1"),
        ({}, "e-1"),
    ],
)
def test_key_stands_at_the_path(content: dict[str, Any], expected: str) -> None:
    """As text; whatever else stands there, the event goes out by its own id."""
    assert key(RECEIVE, content, {RECEIVE: "message.chat_id"}) == expected
    assert key(RECEIVE, content, {"im.*": "message.chat_id"}) == expected


def test_key_is_an_events_own_id_without_a_path() -> None:
    """No default changes."""
    assert key(RECEIVE, {"message": {"chat_id": "oc_1"}}, {}) == "e-1"
    assert key(RECEIVE, {"message": {"chat_id": "oc_1"}}, {"drive.*": "message.chat_id"}) == "e-1"


def test_other_types_still_fall_back_to_a_ticket() -> None:
    content = {"ticket_id": "77", "message": {}}
    assert key(RECEIVE, content, {RECEIVE: "message.chat_id"}) == "77"


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("im.message.receive_v1", "a"),
        ("im.message.recalled_v1", "b"),
        ("im.message.reaction.created_v1", "c"),
        ("im.chat.updated_v1", "d"),
        ("im", "e-1"),
        ("image.created_v1", "e-1"),
        ("Im.chat.updated_v1", "e-1"),
    ],
)
def test_longest_prefix_wins(event_type: str, expected: str) -> None:
    """And a whole name goes before each wildcard, in whatever order they stand."""
    paths = {
        "im.*": "x.d",
        "im.message.receive_v1": "x.a",
        "im.message.*": "x.b",
        "im.message.reaction.*": "x.c",
    }
    content = {"x": {name: name for name in "abcd"}}
    assert key(event_type, content, paths) == expected
    assert key(event_type, content, dict(reversed(paths.items()))) == expected


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("im.message.receive_v1", "messages"),
        ("im.message.recalled_v1", "im.messages"),
        ("im.chat.updated_v1", "im"),
        ("im", "other"),
        ("imx.y", "other"),
        ("drive.file.edit_v1", "drive"),
        (MESSAGE_CREATED, "helpdesk.ticket_message"),
    ],
)
def test_topics_take_a_wildcard(event_type: str, expected: str) -> None:
    topics = {
        "im.*": "im",
        "im.message.*": "im.messages",
        "im.message.receive_v1": "messages",
        "drive.*": "drive",
    }
    for given in (topics, dict(reversed(topics.items()))):
        router = Router("f.", given)
        assert router.topic(event_type) == f"f.{expected}"
        assert router.topics == sorted(
            {*Router("f.", {}).topics} | {f"f.{t}" for t in given.values()}
        )


def test_wildcard_of_an_operator_goes_before_the_defaults() -> None:
    """A whole name of his goes before it; what no type goes to any more is no topic of ours."""
    router = Router("", {"helpdesk.*": "desk", MESSAGE_CREATED: "messages"})
    assert {name: router.topic(name) for name in EVENT_TYPES} == {
        MESSAGE_CREATED: "messages",
        CREATED: "desk",
        UPDATED: "desk",
        APPROVE: "desk",
    }
    assert router.topics == ["dead_letter", "desk", "messages", "other"]
    narrow = Router("", {"helpdesk.ticket.*": "tickets"})
    assert narrow.topic(MESSAGE_CREATED) == "helpdesk.ticket_message"
    assert narrow.topic(UPDATED) == "tickets"


def test_wildcard_catches_no_dead_letter() -> None:
    router = Router("", {"dead_letter.*": "x", "other.*": "y"})
    assert (router.dead_letter, router.topic("dead_letter"), router.topic("other.z")) == (
        "dead_letter",
        "other",
        "y",
    )


@pytest.mark.parametrize(
    ("event_type", "content", "expected"),
    [
        (MESSAGE_CREATED, {"ticket": {"ticket_id": "1"}, "ticket_id": "2"}, "1"),
        (MESSAGE_CREATED, {"ticket": {}, "ticket_id": "2", "object": {"ticket_id": "3"}}, "2"),
        (MESSAGE_CREATED, {"ticket": None, "object": {"ticket_id": "3"}}, "3"),
        (CREATED, {"ticket_id": "2", "ticket": {"ticket_id": "1"}}, "2"),
        (CREATED, {"ticket_id": "", "object": {"ticket_id": 3}, "ticket": {}}, "3"),
        (CREATED, {"object": {"ticket_id": "3"}, "ticket": {"ticket_id": "1"}}, "1"),
        (UPDATED, {"object": {"ticket_id": "3"}, "ticket_id": "2"}, "3"),
        (UPDATED, {"object": [], "ticket_id": "2"}, "2"),
        (UPDATED, {"object": {"ticket_id": None}, "ticket": {"ticket_id": "1"}}, "1"),
        (UPDATED, {"old_object": {"ticket_id": "9"}}, "e-1"),
    ],
)
def test_known_type_falls_back_to_the_other_places_of_a_ticket_id(
    event_type: str, content: dict[str, Any], expected: str
) -> None:
    """Its own place goes first."""
    assert key(event_type, content, {}) == expected
    subject = dict(record(event_type, content, {}).headers).get("ce_subject", b"e-1")
    assert subject.decode() == expected


@pytest.mark.parametrize(
    ("event_type", "keys", "content", "expected"),
    [
        (MESSAGE_CREATED, {MESSAGE_CREATED: "chat_id"}, {"chat_id": "oc_1"}, "oc_1"),
        (MESSAGE_CREATED, {"helpdesk.*": "chat_id"}, {"chat_id": "oc_1"}, "oc_1"),
        (MESSAGE_CREATED, {MESSAGE_CREATED: "chat_id"}, {"chat_id": None}, "77"),
        (MESSAGE_CREATED, {MESSAGE_CREATED: "chat_id"}, {}, "77"),
        (APPROVE, {"helpdesk.*": "helpdesk_id"}, {"helpdesk_id": "6"}, "6"),
        (APPROVE, {"helpdesk.*": "nowhere"}, {"notification_id": "5"}, "5"),
    ],
)
def test_path_of_a_known_type_changes_the_key_alone(
    event_type: str, keys: dict[str, str], content: dict[str, Any], expected: str
) -> None:
    """The ticket id stays what it is, and is the key where the path leads nowhere."""
    ticket = {"ticket": {"ticket_id": "77"}} if event_type == MESSAGE_CREATED else {}
    made = record(event_type, ticket | content, keys)
    assert made.key.decode() == expected
    assert dict(made.headers).get("ce_subject") == (b"77" if ticket else None)


def test_key_of_an_event_is_read_exactly_whether_it_comes_parsed_or_not() -> None:
    """An integer beyond 64 bits is a float to orjson."""
    body = payload("e-1", event_type=RECEIVE, event={"n": 2**64 + 1})
    assert normalize(stored(body), Router("", {}, {RECEIVE: "n"})).key == str(2**64 + 1).encode()


def test_what_is_remembered_of_types_is_bounded() -> None:
    """Whoever can sign events can make up their types."""
    router = Router("", {"im.*": "im"}, {"im.*": "chat_id"})
    for number in range(MOST_ROUTES * 2 + 1):
        assert router.route(f"im.{number}").topic == "im"
        assert router.route("x" * (LONGEST_TYPE + 1 + number)).topic == "other"
    assert 0 < len(router._routes) <= MOST_ROUTES
    assert max(map(len, router._routes)) <= LONGEST_TYPE
    assert router.route("im.0") == router.route("im.0")


def documented() -> dict[str, str]:
    """Give the table of docs/configuration.md: what may be set, and to what."""
    paper = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    table = paper.partition("| events | `kafka.keys` | path |")[2].partition("\n\n")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if "`" in line]
    return {name: path.strip(" `") for names, path in rows for name in re.findall("`(.+?)`", names)}


@pytest.mark.parametrize("name", documented())
def test_documented_path_is_a_setting_and_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = documented()
    loaded = load(monkeypatch, {"RELAY_KAFKA__KEYS": json.dumps(paths)})
    content: Any = "the key"
    for field in reversed(paths[name].split(".")):
        content = {field: content}
    body = payload(event_type=name.replace("*", "something_v1"), event=content)
    assert normalize(stored(body), Router(*loaded.kafka.routes)).key == b"the key"


def test_documented_families_are_those_that_people_use() -> None:
    families = {name.partition(".")[0].partition("_")[0] for name in documented()}
    assert {"im", "approval", "contact", "calendar", "drive", "card", "url"} <= families


def keyed(event_id: str, event_type: str, content: dict[str, Any], created_at: int) -> Callback:
    body = payload(event_id, event_type=event_type, event=content)
    body["header"]["create_time"] = str(created_at)
    return event(event_id, as_json(body))


async def test_late_is_told_for_each_key(tmp_path: Path) -> None:
    """Of chats as of tickets; an event that has no key but its id is never late."""
    kafka, metrics = MemoryKafka(), Metrics()
    router = Router("", {}, {"im.*": "message.chat_id"})
    chat = {name: {"message": {"chat_id": name}} for name in ("oc_1", "oc_2")}
    events = [
        keyed("new", RECEIVE, chat["oc_1"], 1_700_000_060_000),
        keyed("old", RECEIVE, chat["oc_1"], 1_700_000_000_000),
        keyed("elsewhere", RECEIVE, chat["oc_2"], 1_700_000_000_000),
        keyed("keyless", RECEIVE, {}, 1_700_000_060_000),
        keyed("keyless too", RECEIVE, {}, 1_700_000_000_000),
        keyed("approved", APPROVE, {"notification_id": "5"}, 1_700_000_060_000),
        keyed("asked", APPROVE, {"notification_id": "5"}, 1_700_000_000_000),
    ]
    async with (
        journal_at(tmp_path / "j.db", metrics) as journal,
        dispatching(journal, kafka, metrics, router),
    ):
        for one in events:
            await journal.add(one)
        await until(lambda: drained(metrics))
    late = {
        dict(one.headers)["ce_id"] for one in kafka.records if ("relay_late", b"1") in one.headers
    }
    assert late == {b"old", b"asked"}
