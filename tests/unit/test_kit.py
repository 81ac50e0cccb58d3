"""Kafka Connect, Flink, ksqlDB and PostgreSQL are told what the JSON Schemas say."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli.main import app
from relay.contract import schemas
from relay.contract.kit import connect, sql
from relay.contract.normalize import EVENT_TYPES, Router
from relay.contract.rules.privacy import Guard
from relay.settings.topics import OTHER
from tests.fakes import MESSAGE_CREATED
from tests.sdk.records import Events
from tests.unit.test_schemas import DOCUMENTED

ROUTER = Router("feishu.", {})
NOTIFICATION = "helpdesk.notification.approve_v1"
TICKET_CREATED = "helpdesk.ticket.created_v1"
#: A type's words as the nested languages write them: a name, in its quotes, and what may follow.
_TOKEN = re.compile(r"\s*(?:`((?:[^`]|``)+)`|([A-Z_]+(?:\(3\))?)|([<>,]))")

Tree = dict[str, Any]


class Reader:
    """Reads the columns of Flink's and ksqlDB's statements by their grammar, and nothing else."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def columns(self) -> Tree:
        """Read `name type, ...` to the end."""
        made = self._members()
        assert not self._text[self._place :].strip()
        return made

    def _next(self) -> tuple[str | None, str]:
        found = _TOKEN.match(self._text, self._place)
        assert found, self._text[self._place : self._place + 40]
        self._place = found.end()
        return found[1], found[2] or found[3]

    def _peek(self) -> str:
        found = _TOKEN.match(self._text, self._place)
        return (found[2] or found[3] or "") if found else ""

    def _members(self) -> Tree:
        made: Tree = {}
        while True:
            name, _ = self._next()
            assert name
            assert name not in made
            made[name] = self._type()
            while self._peek() in {"KEY", "METADATA", "VIRTUAL", "HEADERS"}:
                self._next()
            if self._peek() != ",":
                return made
            self._next()

    def _type(self) -> Any:
        _, word = self._next()
        if self._peek() != "<":
            return word
        self._next()
        if word == "ARRAY":
            inner: Any = [self._type()]
        elif word == "MAP":
            inner = (self._type(), self._next(), self._type())
        else:
            inner = self._members()
        assert self._next() == (None, ">")
        return inner


def statement(language: str, event_type: str, router: Router = ROUTER) -> tuple[str, str, str]:
    """Give a printed statement's head, its columns and its options."""
    printed = sql.PRINTERS[language](event_type, router)
    found = re.fullmatch(
        r"((?:--[^\n]*\n)?CREATE [^(]+) \(\n(.*?)\n\)(?: WITH \(\n(.*)\n\))?;", printed, re.DOTALL
    )
    assert found, printed
    return found[1], found[2], found[3] or ""


def nested(language: str, event_type: str) -> Tree:
    """Give the columns of a statement with objects inside its columns."""
    _, columns, _ = statement(language, event_type)
    # The names inside are the language's own, and have no quotes.
    headers = "`headers` ARRAY<STRUCT<key STRING, value BYTES>> HEADERS"
    return Reader(columns.replace(headers, "`headers` ARRAY<BYTES> HEADERS")).columns()


def at(tree: Any, path: str) -> Any:
    """Follow a documented path; a duration has another name."""
    for step in path.split("."):
        name = step.removesuffix("[]")
        tree = tree[name] if name in tree else tree[f"{name}_seconds"]
        tree = tree[0] if step.endswith("[]") else tree
    return tree


def connect_tree(schema: Tree) -> Any:
    """Give a schema of Kafka Connect in the form of the others."""
    if schema["type"] == "struct":
        return {one["field"]: connect_tree(one) for one in schema["fields"]}
    if schema["type"] == "array":
        return [connect_tree(schema["items"])]
    return schema["type"]


#: What a documented type may be, by language.
WORDS = {
    "flink": {
        "string": {"STRING"},
        "boolean": {"BOOLEAN"},
        "integer": {"BIGINT", "DOUBLE", "STRING", "TIMESTAMP_LTZ(3)"},
        "number": {"DOUBLE"},
    },
    "ksql": {
        "string": {"VARCHAR"},
        "boolean": {"BOOLEAN"},
        "integer": {"BIGINT", "DOUBLE", "VARCHAR"},
        "number": {"DOUBLE"},
    },
    "connect": {
        "string": {"string"},
        "boolean": {"boolean"},
        "integer": {"int64", "double", "string"},
        "number": {"double"},
    },
}


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_documented_field_has_its_type(language: str, event_type: str) -> None:
    tree = (
        connect_tree(connect.schema(event_type, ROUTER))
        if language == "connect"
        else nested(language, event_type)
    )
    for path, documented in DOCUMENTED[event_type].items():
        found = at(tree["data"], path)
        if path == "position":
            assert found in {"BIGINT", "int64"}
        elif documented in {"object", "object[]"}:
            assert isinstance(found, list if documented.endswith("[]") else dict), path
        elif documented == "string[]":
            assert isinstance(found, list), path
        else:
            assert found in WORDS[language][documented], path


def leaves(tree: Any, way: str = "") -> Iterator[str]:
    """Give each column that a flattened value has."""
    if not isinstance(tree, dict):
        yield way.removesuffix("_")
        return
    for name, member in tree.items():
        yield from leaves(member, f"{way}{name}_")


@pytest.mark.parametrize("event_type", [*EVENT_TYPES, OTHER])
def test_postgresql_has_a_column_for_each_field(event_type: str) -> None:
    """Under the name that Kafka Connect's Flatten gives it; none is cut by PostgreSQL."""
    _, columns, _ = statement("sql", event_type)
    names = re.findall(r'^  "(.+?)" ', columns, re.MULTILINE)
    assert len(names) == len(set(names))
    assert max(len(name.encode()) for name in names) <= 63
    tree = nested("flink", event_type)
    del tree["headers"]
    assert names == list(leaves(tree))


def test_postgresql_has_types_for_times_and_lists() -> None:
    _, columns, _ = statement("sql", MESSAGE_CREATED)
    declared = dict(re.findall(r'^  "(.+?)" (.+?),?$', columns, re.MULTILINE))
    assert declared["event_id"] == "text NOT NULL"
    assert declared["event_received_at"] == "timestamptz NOT NULL"
    assert declared["event_created_at"] == "timestamptz"
    assert declared["data_position"] == "bigint"
    assert declared["data_ticket_agent_service_duration_seconds"] == "double precision"
    assert declared["data_ticket_customized_fields"] == "jsonb"
    assert declared["data_content_image_keys"] == "jsonb"
    assert declared["data_sender_id_open_id"] == "text"
    assert declared["unexpected"] == "jsonb"
    assert columns.endswith('UNIQUE NULLS NOT DISTINCT ("event_app_id", "event_id")')


def test_json_of_any_form_is_text_where_the_format_writes_it() -> None:
    """Flink and ksqlDB put an object into a text column as JSON."""
    for language, word in (("flink", "STRING"), ("ksql", "VARCHAR")):
        tree = nested(language, OTHER)
        assert tree["data"] == tree["unexpected"] == word
        assert (
            at(nested(language, MESSAGE_CREATED)["data"], "ticket.customized_fields[].value")
            == word
        )


@pytest.mark.parametrize("language", sql.PRINTERS)
@pytest.mark.parametrize("event_type", [*EVENT_TYPES, OTHER])
def test_every_name_is_quoted(language: str, event_type: str) -> None:
    """Also those that are words of the language: `position`, `required`, `value`, `type`."""
    head, columns, _ = statement(language, event_type)
    quote = '"' if language == "sql" else "`"
    assert head.endswith(quote + event_type.replace(".", "_") + quote)
    for line in columns.splitlines():
        inside = line.strip().startswith((">", "UNIQUE"))
        assert inside or line.strip().startswith(quote), line


@pytest.mark.parametrize(
    ("prefix", "written"),
    [("feishu.", "feishu.other"), ("", "other"), ("it's ", "it''s other"), ("a-b_", "a-b_other")],
)
@pytest.mark.parametrize("language", ["flink", "ksql"])
def test_topic_is_a_text_of_the_language(language: str, prefix: str, written: str) -> None:
    _, _, options = statement(language, OTHER, Router(prefix, {}))
    name = "'topic'" if language == "flink" else "KAFKA_TOPIC"
    assert f"  {name} = '{written}'," in options


def test_flink_reads_what_is_committed() -> None:
    _, _, options = statement("flink", NOTIFICATION)
    assert "'properties.isolation.level' = 'read_committed'" in options


@pytest.mark.parametrize(
    ("event_type", "changes", "told"),
    [
        (TICKET_CREATED, {}, True),
        (TICKET_CREATED, {TICKET_CREATED: "created"}, False),
        (MESSAGE_CREATED, {}, False),
        (MESSAGE_CREATED, {MESSAGE_CREATED: "other"}, True),
        (OTHER, {MESSAGE_CREATED: "other"}, False),
    ],
)
def test_statement_says_how_to_leave_out_other_types(
    event_type: str, changes: dict[str, str], *, told: bool
) -> None:
    """Of its topic: their rows would be full of nulls. `other` is many types by itself."""
    router = Router("", changes)
    for language, field in (("flink", "`event`.`type`"), ("ksql", "`event`->`type`")):
        head, _, _ = statement(language, event_type, router)
        assert (f"WHERE {field} = '{event_type}'\n" in head) is told


def convert(schema: Tree, value: Any, place: str) -> Any:
    """Do as JsonConverter does, but fail where it would give null for something."""
    if value is None:
        assert schema["optional"], place
        return None
    if schema["type"] == "struct":
        assert isinstance(value, dict), place
        return {
            one["field"]: convert(one, value.get(one["field"]), f"{place}/{one['field']}")
            for one in schema["fields"]
        }
    if schema["type"] == "array":
        assert isinstance(value, list), place
        return [convert(schema["items"], one, place) for one in value]
    if schema["type"] == "map" or place.endswith("/value"):
        return value
    kinds = {"string": str, "int64": int, "double": (int, float), "boolean": bool}
    assert isinstance(value, kinds[schema["type"]]), place  # type: ignore[arg-type]
    return value


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_connect_takes_every_record(event_type: str) -> None:
    """No required member is ever missing, and no value is of another type than it says."""
    schema = connect.schema(event_type, ROUTER)
    for value in Events(event_type, seed=6).values(300):
        convert(schema, json.loads(value), "")


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_connect_has_the_members_of_the_json_schema(event_type: str) -> None:
    document = schemas.schema(event_type)
    tree = connect_tree(connect.schema(event_type, ROUTER))
    assert list(tree) == list(document["properties"])
    title = document["properties"]["data"]["$ref"].removeprefix("#/$defs/")
    assert list(tree["data"]) == list(document["$defs"][title]["properties"])
    assert tree["unexpected"] == "map"


def test_connect_schema_is_a_line_that_a_properties_file_takes() -> None:
    """No backslash, and nothing but ASCII: Java reads both in its own way."""
    for event_type in EVENT_TYPES:
        done = CliRunner().invoke(app, ["schema", event_type, "--as", "connect"])
        (line,) = done.stdout.splitlines()
        assert line.isascii()
        assert "\\" not in line
        assert json.loads(line) == connect.schema(event_type, ROUTER)


def test_connect_has_one_schema_for_a_topic() -> None:
    """The command says so, beside the schema, where the topic has other types."""
    done = CliRunner().invoke(app, ["schema", TICKET_CREATED, "--as", "connect"])
    assert "also has helpdesk.ticket.updated_v1" in done.stderr
    assert CliRunner().invoke(app, ["schema", NOTIFICATION, "--as", "connect"]).stderr == ""


@pytest.mark.parametrize("language", sql.PRINTERS)
def test_command_prints_the_statement(language: str) -> None:
    arguments = [NOTIFICATION, "--as", language, "--prefix", "desk."]
    for words in (["schema"], ["schema", "print"]):
        done = CliRunner().invoke(app, [*words, *arguments])
        assert done.stdout == sql.PRINTERS[language](NOTIFICATION, Router("desk.", {})) + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([OTHER, "--as", "connect"], "schemas.enable=false"),
        (["--as", "flink"], "for one event type"),
        (["--as", "connect"], "for one event type"),
        ([OTHER, "--as", "avro"], "'json', 'connect', 'flink', 'ksql', 'sql'"),
        (["no.such", "--as", "sql"], "helpdesk.ticket.created_v1"),
    ],
)
def test_command_says_what_it_cannot_print(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["schema", *arguments], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert said in done.stderr


def guarded(*drop: str) -> Router:
    """Give the rules of a relay that keeps fields from consumers."""
    return Router("feishu.", {}, guard=Guard(drop))


@pytest.mark.parametrize(
    ("drop", "gone"),
    [
        (("email",), "email"),
        (("Person.country", "Agent.country"), "country"),
        (("text", "city"), "city"),
    ],
)
def test_field_that_is_kept_from_consumers_has_no_column(drop: tuple[str, ...], gone: str) -> None:
    router = guarded(*drop)
    for language in (*sql.PRINTERS, "connect"):
        whole, less = (
            json.dumps(connect.schema(TICKET_CREATED, one))
            if language == "connect"
            else sql.PRINTERS[language](TICKET_CREATED, one)
            for one in (ROUTER, router)
        )
        field = re.compile(rf'["`_]{gone}["`]')
        assert field.search(whole)
        assert not field.search(less)


def test_object_without_a_field_left_is_json() -> None:
    """No language has a type for an object without members."""
    router = guarded("union_id", "user_id", "open_id")
    made = connect_tree(connect.schema(MESSAGE_CREATED, router))
    assert made["data"]["sender_id"] == "map"
    for language, word in (("flink", "STRING"), ("ksql", "VARCHAR")):
        assert f"`sender_id` {word}" in sql.PRINTERS[language](MESSAGE_CREATED, router)
    assert '"data_sender_id" jsonb' in sql.postgresql(MESSAGE_CREATED, router)
