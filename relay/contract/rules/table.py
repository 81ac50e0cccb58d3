"""Tables of rules, by the names of fields, and what a table makes of an object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from relay.contract.rules.values import Unexpected

Json = dict[str, Any]
#: JSON pointer (relative to `event`) → the value that did not fit.
Findings = dict[str, Any]


#: In schemas: that a field is personal data, and its state.
MARK = "x-personal-data"


class State(StrEnum):
    """What has become of a field that is personal data."""

    CLEAR = "clear"
    HASHED = "hashed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one named field becomes uniform."""

    #: Writes the field's value into the result; raises Unexpected if it cannot.
    apply: Callable[[Json, Any, Findings, str], None]
    #: What stands in the result for a value that `apply` refuses.
    fallback: Json
    #: What the result may hold, as JSON Schema: the field's own name, or ours, or both.
    schema: Json
    #: A name of ours beside or instead of the field's own, and the types that it may hold.
    derived: str | None = None
    derived_types: tuple[type, ...] = ()
    #: Values of just this type are uniform as they are; most are, and `apply` is not called.
    plain: type | None = None
    #: Tells objects that are uniform as they are.
    fits: Callable[[Json], bool] | None = None
    #: The named shapes that `schema` refers to, those inside them first.
    shapes: Mapping[str, "Table"] = field(default_factory=dict)
    #: The rules for what is in the object, or in the objects of a list.
    inside: Mapping[str, "Rule"] = field(default_factory=dict)
    #: Whether the result is made of nothing but texts.
    text: bool = False
    #: Set where an operator keeps the field from consumers.
    state: State = State.CLEAR
    #: Whether a misfit may hold what consumers must not see: its original is then not told.
    guarded: bool = False


Table = Mapping[str, Rule]
NO_RULES: Table = MappingProxyType({})
#: Makes the rule for a field of that name.
Kind = Callable[[str], Rule]


def fields(names: str, kind: Kind) -> dict[str, Rule]:
    """Give each of the space-separated fields a rule of one kind, and so each name it derives."""
    rules = {name: kind(name) for name in names.split()}
    return rules | {
        rule.derived: _derived(rule.derived, rule.derived_types)
        for rule in rules.values()
        if rule.derived
    }


def _derived(name: str, types: tuple[type, ...]) -> Rule:
    """Make a rule for a name of ours that Feishu sends itself: left out if it does not fit."""

    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        if value is not None and type(value) not in types:
            raise Unexpected
        result[name] = value

    # The rule that derives the name has its schema.
    return Rule(apply=apply, fallback={}, schema={})


def apply_table(table: Table, source: Json, findings: Findings, pointer: str = "") -> Json:
    """Give the object with uniform fields; a field without a rule is unchanged."""
    result: Json = {}
    ours: Json = {}
    for name, value in source.items():
        rule = table.get(name)
        if rule is None or type(value) is rule.plain:
            result[name] = value
            continue
        try:
            rule.apply(result, value, findings, pointer)
        except Unexpected:
            findings[f"{pointer}/{name}"] = None if rule.guarded else value
            result.update(rule.fallback)
        derived = rule.derived
        if derived is not None and derived in source:
            findings[f"{pointer}/{derived}"] = source[derived]
            ours[derived] = result[derived]
    return result | ours if ours else result


def shapes(table: Table, title: str = "") -> dict[str, Table]:
    """Give each named shape inside a table by its name, and the table itself if it has one."""
    inside = {name: shape for rule in table.values() for name, shape in rule.shapes.items()}
    return inside | ({title: table} if title else {})


def properties(table: Table) -> Json:
    """Give the JSON Schema of what `apply_table` makes; it says nothing of other fields."""
    made: Json = {}
    for rule in table.values():
        made |= rule.schema
    return {"properties": made}
