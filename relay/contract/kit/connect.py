"""A record's value for Kafka Connect: what `value.converter.schema.content` takes (KIP-1054)."""

from typing import Any

from relay.contract.kit.shape import Kind, List, Scalar, Struct, value
from relay.contract.normalize import Router

Json = dict[str, Any]

#: What JsonConverter reads of JSON without loss; it gives null for a text that is none.
_TYPES = {
    Scalar.TEXT: "string",
    Scalar.INSTANT: "string",
    Scalar.INTEGER: "int64",
    Scalar.NUMBER: "double",
    Scalar.FLAG: "boolean",
    # Connect has no type for either of two; a list arrives as null.
    Scalar.TEXT_OR_TEXTS: "string",
}


def schema(event_type: str, router: Router) -> Json:
    """Give the schema of an event type with rules; Connect has no type for `other`'s data."""
    return _schema(value(event_type, router), optional=False)


def _schema(kind: Kind, *, optional: bool) -> Json:
    if isinstance(kind, List):
        made: Json = {"type": "array", "items": _schema(kind.items, optional=False)}
    elif isinstance(kind, Struct):
        members = kind.members.items()
        made = {
            "type": "struct",
            # By it sinks tell one struct from another; Avro's names have no other characters.
            "name": f"feishu.relay.{kind.title}",
            "fields": [
                {"field": name} | _schema(member, optional=name not in kind.sure)
                for name, member in members
            ],
        }
    elif kind is Scalar.ANY_OBJECT:
        text = {"type": "string", "optional": True}
        made = {"type": "map", "keys": {"type": "string", "optional": False}, "values": text}
    else:
        made = {"type": _TYPES[kind]}
    return made | {"optional": optional}
