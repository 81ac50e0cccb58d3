"""What a record's value is made of, read from its JSON Schema: the ground of every other schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from relay.contract import schemas
from relay.contract.normalize import Router
from relay.contract.rules.table import MARK, State

Json = dict[str, Any]


class Scalar(Enum):
    """What a member can hold that has no members of its own."""

    TEXT = auto()
    #: RFC 3339, a text.
    INSTANT = auto()
    INTEGER = auto()
    NUMBER = auto()
    FLAG = auto()
    #: A text, or a list of texts.
    TEXT_OR_TEXTS = auto()
    #: An object with members of any names.
    ANY_OBJECT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """A list of things of one kind."""

    items: "Kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """An object with members of these names."""

    title: str
    members: Mapping[str, "Kind"]
    #: The members that are always there, and never null.
    sure: frozenset[str]


Kind = Scalar | List | Struct

_SCALARS = {
    "string": Scalar.TEXT,
    "integer": Scalar.INTEGER,
    "number": Scalar.NUMBER,
    "boolean": Scalar.FLAG,
    "object": Scalar.ANY_OBJECT,
}


def value(event_type: str, router: Router) -> Struct:
    """Give what the values of an event type's records are made of."""
    document = schemas.schema(event_type, router)
    return _struct(document, document["$defs"], "Value")


def _struct(place: Json, shapes: Json, title: str) -> Struct:
    return Struct(
        title=title,
        members={
            name: _kind(member, shapes)
            for name, member in place["properties"].items()
            # Settings keep it from consumers: no record has it.
            if member.get(MARK) != State.DROPPED
        },
        sure=frozenset(
            name for name in place.get("required", ()) if not _nullable(place["properties"][name])
        ),
    )


def _kind(place: Json, shapes: Json) -> Kind:
    if "anyOf" in place:
        kinds = [one for one in place["anyOf"] if one != {"type": "null"}]
        return _kind(kinds[0], shapes) if len(kinds) == 1 else Scalar.TEXT_OR_TEXTS
    if "$ref" in place:
        title = place["$ref"].removeprefix("#/$defs/")
        # All of an object's fields may be kept from consumers.
        inside = _struct(shapes[title], shapes, title)
        return inside if inside.members else Scalar.ANY_OBJECT
    named = place["type"]
    kind = named if isinstance(named, str) else next(one for one in named if one != "null")
    if kind == "array":
        return List(items=_kind(place["items"], shapes))
    return Scalar.INSTANT if place.get("format") == "date-time" else _SCALARS[kind]


def _nullable(place: Json) -> bool:
    return "anyOf" in place or "null" in place.get("type", "")
