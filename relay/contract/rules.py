"""The kinds of rules a field can have: id, integer, enum, instant, duration, list, object.

A rule makes a value uniform or refuses it with Unexpected; it never guesses and never fails.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

Json = dict[str, Any]
#: JSON pointer (relative to `event`) → the value that did not fit.
Findings = dict[str, Any]

_INTEGER = re.compile(r"-?[0-9]{1,4000}")
_NUMBER = re.compile(r"-?[0-9]{1,4000}(\.[0-9]{1,4000})?")
#: The least integer that Python does not write (its limit is 4300 digits).
_UNWRITABLE = 10**4300
#: Decimals of a duration that are kept; those after them are what doubles make of a product.
_DECIMALS = 6
#: An instant below the limit is in seconds, milli- or microseconds: numerator and denominator give
#: its milliseconds (contract: instant, by the count of digits).
_UNITS = ((10**11, 1000, 1), (10**14, 1, 1), (10**17, 1, 1000))


class Unexpected(Exception):  # noqa: N818 - a finding about a value, never an error of ours
    """A value that its rule cannot take."""


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


Table = Mapping[str, Rule]
_TEXT = {"type": ["string", "null"]}
_INTEGRAL = {"type": ["integer", "null"]}
_INSTANT = _TEXT | {"format": "date-time"}
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
            findings[f"{pointer}/{name}"] = value
            result.update(rule.fallback)
        derived = rule.derived
        if derived is not None and derived in source:
            findings[f"{pointer}/{derived}"] = source[derived]
            ours[derived] = result[derived]
    return result | ours if ours else result


def to_integer(value: Any) -> int | None:
    """Read a JSON integer, or one in a decimal string; raises Unexpected for all else."""
    if type(value) is int or value is None:
        return value
    if type(value) is str and _INTEGER.fullmatch(value):
        return int(value)
    raise Unexpected


def to_instant(value: Any) -> str | None:
    """Read an instant in seconds, milli- or microseconds as RFC 3339; zero and below is None."""
    number = to_integer(value)
    if number is None or number <= 0:
        return None
    for limit, numerator, denominator in _UNITS:
        if number < limit:
            return rfc3339(number * numerator // denominator)
    raise Unexpected


def rfc3339(milliseconds: int) -> str:
    """Write a Unix time in milliseconds as RFC 3339 UTC: `2020-12-23T12:19:49.000Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Write seconds since 1970; the instants of many events share one."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def identifier(name: str) -> Rule:
    """Make a rule: a string; a JSON integer becomes its exact decimal text."""

    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        if value is not None and type(value) is not int:
            raise Unexpected
        result[name] = None if value is None else str(value)

    return Rule(apply=apply, fallback={name: None}, schema={name: _TEXT}, plain=str)


def integer(name: str) -> Rule:
    """Make a rule: an integer."""

    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        result[name] = to_integer(value)

    return Rule(apply=apply, fallback={name: None}, schema={name: _INTEGRAL}, plain=int)


def instant(name: str) -> Rule:
    """Make a rule: RFC 3339 UTC with milliseconds."""

    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        result[name] = to_instant(value)

    return Rule(apply=apply, fallback={name: None}, schema={name: _INSTANT})


def enum(names: Mapping[int, str], unknown: str = "unknown") -> Kind:
    """Make a kind: the code's name, and the code beside it as `<field>_code`."""

    def kind(name: str) -> Rule:
        derived = f"{name}_code"

        def apply(result: Json, value: Any, _: Findings, __: str) -> None:
            code = to_integer(value)
            result[name] = None if code is None else names.get(code, unknown)
            result[derived] = code

        # New names may come: they are examples.
        known = _TEXT | {"examples": [*names.values(), unknown]}
        return Rule(
            apply=apply,
            fallback={name: "unknown", derived: None},
            schema={name: known, derived: _INTEGRAL},
            derived=derived,
            derived_types=(int,),
        )

    return kind


def duration(factor: int) -> Kind:
    """Make a kind: `<field>_seconds`, the value times `factor`."""

    def kind(name: str) -> Rule:
        derived = f"{name}_seconds"

        def apply(result: Json, value: Any, _: Findings, __: str) -> None:
            result[derived] = _to_seconds(value, factor)

        schema = {derived: {"type": ["number", "null"], "description": "seconds"}}
        return Rule(
            apply=apply,
            fallback={derived: None},
            schema=schema,
            derived=derived,
            derived_types=(int, float),
        )

    return kind


def _to_seconds(value: Any, factor: int) -> float | None:
    seconds: float
    if value is None:
        return None
    if type(value) is str and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if type(value) is int and abs(seconds := value * factor) < _UNWRITABLE:
        return seconds
    if type(value) is float and math.isfinite(seconds := value * factor):
        return seconds if seconds.is_integer() else round(seconds, _DECIMALS)
    raise Unexpected


def array(items: Table | None = None) -> Kind:
    """Make a kind: always an array; one object becomes a list of one, null an empty one."""

    def kind(name: str) -> Rule:
        def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
            elements = _to_list(value)
            if items:
                place = f"{pointer}/{name}"
                elements = [
                    # A single object stands in the input without an index.
                    apply_table(
                        items, element, findings, place if element is value else f"{place}/{index}"
                    )
                    if isinstance(element, dict)
                    else element
                    for index, element in enumerate(elements)
                ]
            result[name] = elements

        schema: Json = {"type": "array"} | ({"items": properties(items)} if items else {})
        return Rule(apply=apply, fallback={name: []}, schema={name: schema})

    return kind


def _to_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if value is None:
        return []
    if isinstance(value, dict):
        return [value]
    raise Unexpected


def record(table: Table) -> Kind:
    """Make a kind: an object with rules of its own; what is no object is unchanged."""

    def kind(name: str) -> Rule:
        def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
            if isinstance(value, dict):
                value = apply_table(table, value, findings, f"{pointer}/{name}")
            result[name] = value

        return Rule(apply=apply, fallback={name: None}, schema={name: properties(table)})

    return kind


def properties(table: Table) -> Json:
    """Give the JSON Schema of what `apply_table` makes; it says nothing of other fields."""
    made: Json = {}
    for rule in table.values():
        made |= rule.schema
    return {"properties": made}
