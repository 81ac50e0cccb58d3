"""A record's value for SQL: tables of Flink and PostgreSQL, a stream of ksqlDB.

Every name is quoted: some are words of the language, and event types have dots.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from relay.contract.kit.shape import Kind, List, Scalar, Struct, value
from relay.contract.normalize import Router
from relay.settings.topics import OTHER

_INDENT = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nested:
    """How a language with objects inside columns writes types."""

    scalars: Mapping[Scalar, str]
    struct: str

    def column(self, name: str, kind: Kind) -> str:
        """Declare a column, its inner members on lines of their own."""
        return f"{_INDENT}{_ticked(name)} {self._type(kind, _INDENT)}"

    def _type(self, kind: Kind, indent: str) -> str:
        if isinstance(kind, List):
            return f"ARRAY<{self._type(kind.items, indent)}>"
        if isinstance(kind, Scalar):
            return self.scalars[kind]
        inner = indent + _INDENT
        members = ",\n".join(
            f"{inner}{_ticked(name)} {self._type(member, inner)}"
            for name, member in kind.members.items()
        )
        return f"{self.struct}<\n{members}\n{indent}>"


#: Flink's JSON format and ksqlDB put JSON of any kind into a text column, as text.
_FLINK = _Nested(
    struct="ROW",
    scalars={
        Scalar.TEXT: "STRING",
        Scalar.INSTANT: "TIMESTAMP_LTZ(3)",
        Scalar.INTEGER: "BIGINT",
        Scalar.NUMBER: "DOUBLE",
        Scalar.FLAG: "BOOLEAN",
        Scalar.TEXT_OR_TEXTS: "STRING",
        Scalar.ANY_OBJECT: "STRING",
    },
)
_KSQL = _Nested(
    struct="STRUCT",
    scalars={
        Scalar.TEXT: "VARCHAR",
        # Its TIMESTAMP is a number in JSON.
        Scalar.INSTANT: "VARCHAR",
        Scalar.INTEGER: "BIGINT",
        Scalar.NUMBER: "DOUBLE",
        Scalar.FLAG: "BOOLEAN",
        Scalar.TEXT_OR_TEXTS: "VARCHAR",
        Scalar.ANY_OBJECT: "VARCHAR",
    },
)
_POSTGRES: Mapping[Scalar, str] = {
    Scalar.TEXT: "text",
    Scalar.INSTANT: "timestamptz",
    Scalar.INTEGER: "bigint",
    Scalar.NUMBER: "double precision",
    Scalar.FLAG: "boolean",
    Scalar.TEXT_OR_TEXTS: "jsonb",
    Scalar.ANY_OBJECT: "jsonb",
}


def flink(event_type: str, router: Router) -> str:
    """Give Flink's `CREATE TABLE` over the topic, read committed."""
    columns = [
        _FLINK.column(name, kind) for name, kind in value(event_type, router).members.items()
    ]
    columns.append(f"{_INDENT}`headers` MAP<STRING, BYTES> METADATA VIRTUAL")
    options = {
        "connector": "kafka",
        "topic": router.topic(event_type),
        "properties.bootstrap.servers": "localhost:9092",
        "properties.group.id": _table(event_type),
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "format": "json",
        "json.timestamp-format.standard": "ISO-8601",
    }
    given = [f"{_INDENT}{_text(name)} = {_text(said)}" for name, said in options.items()]
    comment = _comment(event_type, router, "`event`.`type`")
    head = f"CREATE TABLE {_ticked(_table(event_type))}"
    return f"{comment}{head} {_block(columns)} WITH {_block(given)};"


def ksql(event_type: str, router: Router) -> str:
    """Give ksqlDB's `CREATE STREAM` over the topic."""
    columns = [f"{_INDENT}`record_key` VARCHAR KEY"]
    columns += [
        _KSQL.column(name, kind) for name, kind in value(event_type, router).members.items()
    ]
    # The names inside are ksqlDB's own, and have no quotes.
    columns.append(f"{_INDENT}`headers` ARRAY<STRUCT<key STRING, value BYTES>> HEADERS")
    options = {
        "KAFKA_TOPIC": router.topic(event_type),
        "KEY_FORMAT": "KAFKA",
        "VALUE_FORMAT": "JSON",
    }
    given = [f"{_INDENT}{name} = {_text(said)}" for name, said in options.items()]
    comment = _comment(event_type, router, "`event`->`type`")
    head = f"CREATE STREAM {_ticked(_table(event_type))}"
    return f"{comment}{head} {_block(columns)} WITH {_block(given)};"


def postgresql(event_type: str, router: Router) -> str:
    """Give PostgreSQL's `CREATE TABLE`: a column for each field, named by its way; lists as JSON.

    The same names as Kafka Connect's `Flatten` gives with the delimiter `_`.
    """
    columns = [
        f'{_INDENT}"{name}" {declared}'
        for name, declared in _flat(value(event_type, router), prefix="")
    ]
    # An event's id is unique within its app, which some events do not name.
    columns.append(f'{_INDENT}UNIQUE NULLS NOT DISTINCT ("event_app_id", "event_id")')
    return f'CREATE TABLE "{_table(event_type)}" {_block(columns)};'


def _flat(struct: Struct, *, prefix: str, sure: bool = True) -> Iterator[tuple[str, str]]:
    for name, kind in struct.members.items():
        certain = sure and name in struct.sure
        if isinstance(kind, Struct):
            yield from _flat(kind, prefix=f"{prefix}{name}_", sure=certain)
        else:
            declared = "jsonb" if isinstance(kind, List) else _POSTGRES[kind]
            yield prefix + name, declared + " NOT NULL" * certain


def _comment(event_type: str, router: Router, field: str) -> str:
    """Say which rows are meant, if the topic has others too."""
    if event_type == OTHER or not sharing(event_type, router):
        return ""
    return f"-- Its topic has other types, too: WHERE {field} = {_text(event_type)}\n"


def sharing(event_type: str, router: Router) -> list[str]:
    """Name the other event types whose records go to the same topic."""
    return [one for one in router.carried(router.topic(event_type)) if one != event_type]


def _table(event_type: str) -> str:
    return event_type.replace(".", "_")


def _block(lines: list[str]) -> str:
    return "(\n" + ",\n".join(lines) + "\n)"


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(said: str) -> str:
    return "'" + said.replace("'", "''") + "'"


#: By the name that the command knows.
PRINTERS: Mapping[str, Callable[[str, Router], str]] = {
    "flink": flink,
    "ksql": ksql,
    "sql": postgresql,
}
