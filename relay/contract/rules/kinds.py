"""The kinds of rules for one value, or a list of texts: text, flag, id, integer, enum, time."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from relay.contract.rules.table import Findings, Json, Kind, Rule
from relay.contract.rules.values import Unexpected, to_instant, to_integer, to_seconds

_TEXT = {"type": ["string", "null"]}
_FLAG = {"type": ["boolean", "null"]}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_INTEGRAL = {"type": ["integer", "null"]}
_INSTANT = _TEXT | {"format": "date-time"}


def _plain(name: str, kind: type, schema: Json) -> Rule:
    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        null_only(value)
        result[name] = None

    text = kind is str
    return Rule(apply=apply, fallback={name: None}, schema={name: schema}, plain=kind, text=text)


#: A rule: a text.
string: Kind = partial(_plain, kind=str, schema=_TEXT)
#: A rule: true or false.
flag: Kind = partial(_plain, kind=bool, schema=_FLAG)


def null_only(value: Any) -> None:
    """Refuse all but null: what else would fit has been taken already."""
    if value is not None:
        raise Unexpected


def identifier(name: str) -> Rule:
    """Make a rule: a string; a JSON integer becomes its exact decimal text."""

    def apply(result: Json, value: Any, _: Findings, __: str) -> None:
        if value is not None and type(value) is not int:
            raise Unexpected
        result[name] = None if value is None else str(value)

    return Rule(apply=apply, fallback={name: None}, schema={name: _TEXT}, plain=str, text=True)


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
            result[derived] = to_seconds(value, factor)

        schema = {derived: {"type": ["number", "null"], "description": "In seconds."}}
        return Rule(
            apply=apply,
            fallback={derived: None},
            schema=schema,
            derived=derived,
            derived_types=(int, float),
        )

    return kind


def strings(name: str) -> Rule:
    """Make a rule: always an array, of texts; one text becomes a list of one, null an empty one."""

    def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
        if type(value) is list:
            result[name] = _only_texts(value, findings, f"{pointer}/{name}")
        elif type(value) is str:
            result[name] = [value]
        else:
            null_only(value)
            result[name] = []

    return Rule(apply=apply, fallback={name: []}, schema={name: _TEXTS}, text=True)


def string_or_strings(name: str) -> Rule:
    """Make a rule: a text, or an array of texts."""

    def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
        if type(value) is list:
            result[name] = _only_texts(value, findings, f"{pointer}/{name}")
        else:
            null_only(value)
            result[name] = None

    schema = {"anyOf": [{"type": "string"}, _TEXTS, {"type": "null"}]}
    return Rule(apply=apply, fallback={name: None}, schema={name: schema}, plain=str, text=True)


def _only_texts(value: list[Any], findings: Findings, place: str) -> list[Any]:
    """Leave out what is no text; the whole list is then kept as it came."""
    made = [element for element in value if type(element) is str]
    if len(made) < len(value):
        findings[place] = value
    return made
