"""The contract for machines says what the records are, and refuses what they are not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from typer.testing import CliRunner

from relay.cli.main import app
from relay.contract import examples, glossary, schemas
from relay.contract.normalize import EVENT_TYPES, Router, dead_letter, normalize
from relay.contract.rules.table import properties, shapes
from relay.events import DeadLetterReason, Record, StoredEvent, Transport
from relay.settings.topics import DEAD_LETTER, OTHER
from tests.fakes import MESSAGE_CREATED

SHIPPED = Path(__file__).parents[2] / "docs" / "schemas"
RECORDS = sorted((Path(__file__).parent / "contract").glob("*.output.json"))
ROUTER = Router("feishu.", {})
SCHEMAS = {name: Draft202012Validator(one) for name, one in schemas.schemas().items()}
#: What Feishu sends, and the names that rules make of it: Feishu may send those, too.
FIELDS = sorted(
    {
        name
        for known in EVENT_TYPES.values()
        for table in (known.fields, *shapes(known.fields).values())
        for name in (*table, *properties(table)["properties"])
    }
)
NAMES = st.sampled_from(FIELDS) | st.text(max_size=8)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=8,
)


#: Every field that Feishu's pages and SDKs document, by type and path, with its type.
DOCUMENTED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "feishu-fields.json").read_bytes()
)
#: What relay may make of a documented type; `number` also of what is renamed.
MADE_OF = {
    "string": {"string"},
    "boolean": {"boolean"},
    # Codes become names, instants RFC 3339, ids text.
    "integer": {"integer", "number", "string"},
    "number": {"number"},
    "object": {"object"},
    "object[]": {"array"},
    "string[]": {"array"},
}


def found(document: dict[str, Any], path: str) -> set[str]:
    """Give the types that a schema allows at a path of `data`; null is allowed anywhere."""
    place = {"$ref": document["properties"]["data"]["$ref"]}
    for name in path.split("."):
        step = properties_at(document, place)
        place = (
            step[name.removesuffix("[]")]
            if name.removesuffix("[]") in step
            else step[f"{name}_seconds"]
        )
        if name.endswith("[]"):
            place = place["items"]
    return types_of(document, place)


def alternatives(document: dict[str, Any], place: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow references, and each way that the value may go."""
    if "$ref" in place:
        return alternatives(document, document["$defs"][place["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in place:
        return [end for one in place["anyOf"] for end in alternatives(document, one)]
    return [place]


def properties_at(document: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for one in alternatives(document, place):
        made |= one.get("properties", {})
    return made


def types_of(document: dict[str, Any], place: dict[str, Any]) -> set[str]:
    types: set[str] = set()
    for one in alternatives(document, place):
        named = one["type"]
        types |= {named} if isinstance(named, str) else set(named)
    return types - {"null"}


@pytest.mark.parametrize(
    ("event_type", "path"), [(name, path) for name, paths in DOCUMENTED.items() for path in paths]
)
def test_documented_field_has_a_type(event_type: str, path: str) -> None:
    """A consumer's code generator makes a member of it, with that type."""
    documented = DOCUMENTED[event_type][path]
    types = found(schemas.schema(event_type), path)
    if path == "position":
        assert types == {"integer"}  # the pages say text, events have numbers
    elif path.endswith("customized_fields[].value"):
        assert types == {"string", "array"}
    else:
        assert types
        assert types <= MADE_OF[documented]


def test_every_known_type_is_documented() -> None:
    assert set(DOCUMENTED) == set(EVENT_TYPES)


def message(topic: str, name: str) -> Any:
    """Find a topic's message in the AsyncAPI document as a tool would, by its references."""
    document = schemas.asyncapi(ROUTER)
    reference = document["channels"][topic]["messages"][name]["$ref"]
    assert reference == f"#/components/messages/{name}"
    return document["components"]["messages"][name]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_one_of_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(schemas.schema(name))
    assert schemas.schema(name)["$id"] == f"urn:feishu-relay:{name}:1"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name.split(".output")[0])
def test_golden_record_is_valid(path: Path) -> None:
    """Its value by its type's schema, its headers by the AsyncAPI document."""
    record = json.loads(path.read_bytes())
    name = record["headers"]["ce_dataschema"].removeprefix("urn:feishu-relay:").removesuffix(":1")
    SCHEMAS[name].validate(record["value"])
    described = message(record["topic"], name)
    document = schemas.asyncapi(ROUTER)
    reference = {"$ref": f"#/components/messages/{name}/payload"}
    Draft202012Validator(document | reference).validate(record["value"])
    headers = record["headers"] | {"ce_traceparent": "00-1-1-01"}
    Draft202012Validator(described["headers"]).validate(headers)
    assert set(headers) <= set(described["headers"]["properties"])


def stored(body: object, *, replayed: bool = False) -> StoredEvent:
    return StoredEvent(
        seq=1,
        app="default",
        transport=Transport.BACKFILL,
        received_at=1,
        event_id="e",
        event_type="",
        body=json.dumps(body).encode(),
        replayed=replayed,
    )


def value_of(event_type: str, content: dict[str, Any]) -> Any:
    """Give the value of an event's record."""
    body = {"schema": "2.0", "header": {"event_id": "e", "event_type": event_type}}
    value = normalize(stored(body | {"event": content}), ROUTER).value
    assert value is not None
    return json.loads(value)


@given(st.sampled_from(sorted(EVENT_TYPES)), st.dictionaries(NAMES, ANYTHING, max_size=8))
def test_any_record_is_valid(event_type: str, content: dict[str, Any]) -> None:
    SCHEMAS[event_type].validate(value_of(event_type, content))


@pytest.mark.parametrize(
    ("event_type", "content", "pointer"),
    [
        ("helpdesk.ticket.created_v1", {"status_code": "open"}, "/status_code"),
        (
            "helpdesk.ticket.updated_v1",
            {"old_object": {"agent_resolution_time_seconds": []}},
            "/old_object/agent_resolution_time_seconds",
        ),
        (
            "helpdesk.ticket_message.created_v1",
            {"sender_type_code": 2, "ticket": {"bot_service_duration_seconds": "7"}},
            "/ticket/bot_service_duration_seconds",
        ),
    ],
)
def test_name_of_ours_that_feishu_sends_alone_is_valid(
    event_type: str, content: dict[str, Any], pointer: str
) -> None:
    """It stands if it fits; else it is where all is that does not."""
    value = value_of(event_type, content)
    SCHEMAS[event_type].validate(value)
    assert [pointer] == list(value["unexpected"])


@pytest.mark.parametrize(
    "letter",
    [
        normalize(stored([]), ROUTER),
        normalize(stored([], replayed=True), ROUTER),
        dead_letter(stored([]), ROUTER, DeadLetterReason.TOO_LARGE, keep_value=False),
    ],
    ids=["first", "replayed", "too_large"],
)
def test_dead_letter_is_as_described(letter: Record) -> None:
    """Its headers by the AsyncAPI document, also with what the dispatcher adds in an outage."""
    described = message(letter.topic, DEAD_LETTER)["headers"]
    headers = {name: value.decode() for name, value in letter.headers}
    for sent in (headers, headers | {"relay_dedupe": "skipped"}):
        Draft202012Validator(described).validate(sent)
        assert set(sent) <= set(described["properties"])
    assert headers["relay_transport"] in described["properties"]["relay_transport"]["examples"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"ticket_id": 7}, "an id is text"),
        ({"status": "created", "status_code": "1"}, "a code is an integer"),
        ({"agent_service_duration_seconds": "210"}, "a duration is a number"),
        ({"comments": {"content": "one"}}, "a list is a list"),
        ({"comments": [{"id": 6629}]}, "inside a list, too"),
        ({"comments": [None]}, "an item is an object"),
        ({"guest": "ou_1"}, "a person is an object"),
        ({"guest": {"id": {"open_id": 1}}}, "a person's ids are text"),
        ({"agents": [{"name": ["Li Lei"]}]}, "a name is text"),
        ({"customized_fields": [{"required": "true"}]}, "a flag is a flag"),
        ({"customized_fields": [{"value": 5}]}, "a value is text"),
        ({"customized_fields": [{"value": [5]}]}, "or a list of texts"),
    ],
)
def test_what_no_record_holds_is_refused(data: dict[str, Any], why: str) -> None:
    event: dict[str, Any] = dict.fromkeys(("created_at", "app_id", "tenant_key"))
    event |= {"id": "e", "type": "helpdesk.ticket.created_v1", "transport": "webhook"}
    value = {"event": event | {"received_at": "2026-01-02T03:04:05.678Z"}, "ticket_id": None}
    validator = SCHEMAS["helpdesk.ticket.created_v1"]
    assert validator.is_valid(value | {"data": {}})
    assert not validator.is_valid(value | {"data": data}), why
    reference = {"$ref": "#/components/messages/helpdesk.ticket.created_v1/payload"}
    embedded = Draft202012Validator(schemas.asyncapi(ROUTER) | reference)
    assert not embedded.is_valid(value | {"data": data}), why


def members(event_type: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give each shape's members: shape, name and schema."""
    for title, shape in schemas.schema(event_type)["$defs"].items():
        for name, member in shape["properties"].items():
            yield title, name, member


@pytest.mark.parametrize("name", SCHEMAS)
def test_generator_can_name_and_explain_every_class(name: str) -> None:
    """Each object inside is defined once, with its title; each member says what it means."""
    schema = schemas.schema(name)
    assert all(shape["title"] == title for title, shape in schema["$defs"].items())
    assert all(shape["description"] for shape in schema["$defs"].values())
    assert all(member["description"].endswith(".") for _, _, member in members(name))
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == set(schema["$defs"])
    assert "allOf" not in json.dumps(schema)


def test_durations_name_their_unit_and_codes_their_names() -> None:
    said = {name: one["description"] for _, name, one in members(MESSAGE_CREATED)}
    assert [name for name in said if name.endswith("_seconds")] != []
    assert all(said[name].endswith("In seconds.") for name in said if name.endswith("_seconds"))
    assert "1 created, 2 processing" in said["status_code"]


def test_every_meaning_has_its_field() -> None:
    """Nothing stays in the glossary that no record has."""
    found_fields = [(title, name) for kind in SCHEMAS for title, name, _ in members(kind)]
    named = {f"{title}.{name}" for title, name in found_fields} | {name for _, name in found_fields}
    assert glossary.all_meanings() <= named
    assert set(glossary.SHAPES) == {title for title, _ in found_fields}


@pytest.mark.parametrize("name", SCHEMAS)
def test_example_is_the_golden_pair(name: str) -> None:
    """In the value's schema, and with its headers in the AsyncAPI document."""
    pair = "unknown_type" if name == OTHER else name.removeprefix("helpdesk.")
    golden = json.loads((Path(__file__).parent / "contract" / f"{pair}.output.json").read_bytes())
    (value,) = schemas.schema(name)["examples"]
    (shown,) = message(golden["topic"], name)["examples"]
    assert golden["value"] == value == shown["payload"]
    assert golden["headers"] == shown["headers"]
    assert golden["key"].encode() == examples.record(name, ROUTER).key


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (one for name, one in part.items() if name == "$ref")
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from references(one)


@pytest.mark.parametrize("router", [ROUTER, Router("", {}), Router("a-b.", {OTHER: "a"})])
def test_every_reference_leads_somewhere(router: Router) -> None:
    """From the document's root, as AsyncAPI's tools resolve them."""
    document = schemas.asyncapi(router)
    pointers = set(references(document))
    assert pointers
    for pointer in pointers:
        place = document
        for step in pointer.removeprefix("#/").split("/"):
            place = place[step.replace("~1", "/").replace("~0", "~")]
        assert place


@pytest.mark.parametrize("changes", [{}, {OTHER: "x-y", DEAD_LETTER: "x_y"}])
def test_operations_have_names_that_programs_take(changes: dict[str, str]) -> None:
    """One for each topic, also where two topics would give the same."""
    document = schemas.asyncapi(Router("feishu.", changes))
    assert all(re.fullmatch(r"[A-Za-z]\w*", name) for name in document["operations"])
    assert len(document["operations"]) == len(document["channels"])
    assert changes or "publish_feishu_helpdesk_ticket_message" in document["operations"]


def test_document_tells_how_to_connect_and_read() -> None:
    document = schemas.asyncapi(ROUTER)
    assert document["servers"]["kafka"]["protocol"] == "kafka"
    assert "read_committed" in document["info"]["description"]
    for topic, channel in document["channels"].items():
        binding = channel["bindings"]["kafka"]
        assert (binding["topic"], binding["partitions"]) == (topic, 12)
        assert binding["topicConfiguration"]["cleanup.policy"] == ["delete"]
    for one in document["components"]["messages"].values():
        assert one["title"]
        assert one["bindings"]["kafka"]["key"]["description"]


@pytest.mark.parametrize(
    "changes",
    [
        {OTHER: "unsorted"},
        {"im.*": "chats", "im.message.receive_v1": "messages"},
        {"helpdesk.*": "tickets"},
        {"leave_approvalV2": "helpdesk.ticket"},
    ],
)
def test_every_topic_is_a_channel(changes: dict[str, str]) -> None:
    """And every channel has an operation that names it."""
    document = schemas.asyncapi(Router("desk.", changes))
    assert sorted(document["channels"]) == Router("desk.", changes).topics
    named = {one["channel"]["$ref"] for one in document["operations"].values()}
    assert named == {f"#/channels/{topic}" for topic in document["channels"]}


def test_channel_has_what_an_operator_sends_there() -> None:
    """By wildcards and by names of types without rules, which all are `other` messages."""
    changes = {"im.*": "chats", "helpdesk.*": "desk", "x_v1": "helpdesk.ticket", "y_v1": "desk"}
    channels = schemas.asyncapi(Router("", changes))["channels"]
    assert {topic: list(channel["messages"]) for topic, channel in channels.items()} == {
        "chats": [OTHER],
        "desk": [*EVENT_TYPES, OTHER],
        "helpdesk.ticket": [OTHER],
        "other": [OTHER],
        "dead_letter": [DEAD_LETTER],
    }


def test_keys_are_described_as_an_operator_has_them() -> None:
    keys = {"helpdesk.ticket.*": "chat_id", "im.*": "message.chat_id"}
    messages = schemas.asyncapi(Router("", {}, keys))["components"]["messages"]
    told = {name: one["bindings"]["kafka"]["key"]["description"] for name, one in messages.items()}
    assert told["helpdesk.ticket.updated_v1"] == (
        "chat_id of Feishu's event, else ticket id, or the event id"
    )
    assert told["helpdesk.ticket_message.created_v1"] == "ticket id, or the event id"
    assert told["helpdesk.notification.approve_v1"] == "notification id, or the event id"
    assert told[OTHER].startswith("what kafka.keys names for the type, else ticket id")


def test_what_is_shipped_is_what_is_made() -> None:
    """`make schemas` writes the files anew."""
    made = {f"{name}.v1.json": one for name, one in schemas.schemas().items()}
    made |= {"asyncapi.json": schemas.asyncapi(ROUTER)}
    shipped = {path.name: json.loads(path.read_bytes()) for path in SHIPPED.iterdir()}
    assert shipped == made


def test_command_prints_them() -> None:
    run = CliRunner()
    assert json.loads(run.invoke(app, ["schema", OTHER]).stdout) == schemas.schema(OTHER)
    printed = run.invoke(app, ["schema", "--prefix", "desk."]).stdout
    assert json.loads(printed) == schemas.asyncapi(Router("desk.", {}))
    wrong = run.invoke(app, ["schema", "no.such"])
    assert wrong.exit_code == 2
    assert "helpdesk.ticket.created_v1" in wrong.output
