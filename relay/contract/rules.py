"""The kinds of rules a field can have: text, flag, id, integer, enum, time, list, object.

A rule makes a value uniform or refuses it with Unexpected; it never guesses and never fails.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import MappingProxyType
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
_MILLISECONDS = (10**11, 10**14)


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
    #: Tells objects that are uniform as they are.
    fits: Callable[[Json], bool] | None = None
    #: The named shapes that `schema` refers to, those inside them first.
    shapes: Mapping[str, "Table"] = field(default_factory=dict)


Table = Mapping[str, Rule]
_ALL_TEXTS = {str}.issuperset
_NO_RULES: Table = MappingProxyType({})
_TEXT = {"type": ["string", "null"]}
_FLAG = {"type": ["boolean", "null"]}
_TEXTS = {"type": "array", "items": {"type": "string"}}
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
    if type(value) is int and _MILLISECONDS[0] <= value < _MILLISECONDS[1]:
        # What Feishu sends; the way below leads to the same.
        return rfc3339(value)
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


def _plain(name: str, kind: type, schema: Json) -> Rule:
    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        _null_only(value)
        result[name] = None

    return Rule(apply=apply, fallback={name: None}, schema={name: schema}, plain=kind)


#: A rule: a text.
string: Kind = partial(_plain, kind=str, schema=_TEXT)
#: A rule: true or false.
flag: Kind = partial(_plain, kind=bool, schema=_FLAG)


def _null_only(value: Any) -> None:
    """Refuse all but null: what else would fit has been taken already."""
    if value is not None:
        raise Unexpected


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
            code = value if type(value) is int else to_integer(value)
            result[name] = None if code is None else names.get(code, unknown)
            result[derived] = code

        # New names may come: they are examples.
        known = _TEXT | {"examples": [*names.values(), unknown]}
        codes = ", ".join(f"{code} {said}" for code, said in names.items())
        return Rule(
            apply=apply,
            fallback={name: "unknown", derived: None},
            schema={name: known, derived: _INTEGRAL | {"description": f"{codes}."}},
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

        schema = {derived: {"type": ["number", "null"], "description": "In seconds."}}
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


def strings(name: str) -> Rule:
    """Make a rule: always an array, of texts; one text becomes a list of one, null an empty one."""

    def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
        if type(value) is list:
            result[name] = _only_texts(value, findings, f"{pointer}/{name}")
        elif type(value) is str:
            result[name] = [value]
        else:
            _null_only(value)
            result[name] = []

    return Rule(apply=apply, fallback={name: []}, schema={name: _TEXTS})


def string_or_strings(name: str) -> Rule:
    """Make a rule: a text, or an array of texts."""

    def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
        if type(value) is list:
            result[name] = _only_texts(value, findings, f"{pointer}/{name}")
        else:
            _null_only(value)
            result[name] = None

    schema = {"anyOf": [{"type": "string"}, _TEXTS, {"type": "null"}]}
    return Rule(apply=apply, fallback={name: None}, schema={name: schema}, plain=str)


def _only_texts(value: list[Any], findings: Findings, place: str) -> list[Any]:
    """Leave out what is no text; the whole list is then kept as it came."""
    made = [element for element in value if type(element) is str]
    if len(made) < len(value):
        findings[place] = value
    return made


def array(items: Table = _NO_RULES, title: str = "") -> Kind:
    """Make a kind: always an array, of objects; one becomes a list of one, null an empty one."""
    uniform, fits = _applier(items), _fits(items)

    def kind(name: str) -> Rule:
        def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
            place = f"{pointer}/{name}"
            if type(value) is list:
                if fits and all(type(element) is dict and fits(element) for element in value):
                    result[name] = value
                    return
                made = [
                    uniform(element, findings, f"{place}/{index}")
                    for index, element in enumerate(value)
                    if type(element) is dict
                ]
                if len(made) < len(value):
                    findings[place] = value
                result[name] = made
            elif type(value) is dict:
                # A single object stands in the input without an index.
                result[name] = [uniform(value, findings, place)]
            else:
                _null_only(value)
                result[name] = []

        schema = {"type": "array", "items": _object(items, title)}
        named = shapes(items, title)
        return Rule(apply=apply, fallback={name: []}, schema={name: schema}, shapes=named)

    return kind


def record(table: Table, title: str = "") -> Kind:
    """Make a kind: an object with rules of its own, or null."""
    uniform = _applier(table)

    def kind(name: str) -> Rule:
        def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
            if type(value) is dict:
                result[name] = uniform(value, findings, f"{pointer}/{name}")
            else:
                _null_only(value)
                result[name] = None

        return Rule(
            apply=apply,
            fallback={name: None},
            schema={name: {"anyOf": [_object(table, title), {"type": "null"}]}},
            fits=_fits(table),
            shapes=shapes(table, title),
        )

    return kind


def _applier(table: Table) -> Callable[[Json, Findings, str], Json]:
    """Give `apply_table` for a table, which is not called for an object of texts alone."""
    fits = _fits(table)
    if fits is None:
        return partial(apply_table, table)

    def apply(source: Json, findings: Findings, pointer: str) -> Json:
        return source if fits(source) else apply_table(table, source, findings, pointer)

    return apply


def _fits(table: Table) -> Callable[[Json], bool] | None:
    """Tell objects of texts, and of such objects, if that is what the table makes of most."""
    if any(rule.plain is not str and rule.fits is None for rule in table.values()):
        return None
    inner = {name: rule.fits for name, rule in table.items() if rule.fits}
    if not inner:
        return lambda source: _ALL_TEXTS(map(type, source.values()))

    def fits(source: Json) -> bool:
        for name, value in source.items():
            nested = inner.get(name)
            if nested is None:
                if type(value) is not str:
                    return False
            elif type(value) is not dict or not nested(value):
                return False
        return True

    return fits


def shapes(table: Table, title: str = "") -> dict[str, Table]:
    """Give each named shape inside a table by its name, and the table itself if it has one."""
    inside = {name: shape for rule in table.values() for name, shape in rule.shapes.items()}
    return inside | ({title: table} if title else {})


def _object(table: Table, title: str) -> Json:
    """Give the JSON Schema of an object: a reference to it if it has a name."""
    if title:
        return {"$ref": f"#/$defs/{title}"}
    return {"type": "object"} | properties(table)


def properties(table: Table) -> Json:
    """Give the JSON Schema of what `apply_table` makes; it says nothing of other fields."""
    made: Json = {}
    for rule in table.values():
        made |= rule.schema
    return {"properties": made}
