"""The kinds of rules for objects and for lists of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from relay.contract.rules.kinds import null_only
from relay.contract.rules.table import (
    NO_RULES,
    Findings,
    Json,
    Kind,
    Rule,
    Table,
    apply_table,
    properties,
    shapes,
)

_ALL_TEXTS = {str}.issuperset


def array(items: Table = NO_RULES, title: str = "") -> Kind:
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
                null_only(value)
                result[name] = []

        schema = {"type": "array", "items": _object(items, title)}
        return Rule(
            apply=apply,
            fallback={name: []},
            schema={name: schema},
            shapes=shapes(items, title),
            inside=items,
            text=_text(items),
            guarded=_guarded(items),
        )

    return kind


def record(table: Table, title: str = "") -> Kind:
    """Make a kind: an object with rules of its own, or null."""
    uniform = _applier(table)

    def kind(name: str) -> Rule:
        def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
            if type(value) is dict:
                result[name] = uniform(value, findings, f"{pointer}/{name}")
            else:
                null_only(value)
                result[name] = None

        return Rule(
            apply=apply,
            fallback={name: None},
            schema={name: {"anyOf": [_object(table, title), {"type": "null"}]}},
            fits=_fits(table),
            shapes=shapes(table, title),
            inside=table,
            text=_text(table),
            guarded=_guarded(table),
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


def _text(table: Table) -> bool:
    return all(rule.text for rule in table.values())


def _guarded(table: Table) -> bool:
    return any(rule.guarded for rule in table.values())


def _object(table: Table, title: str) -> Json:
    """Give the JSON Schema of an object: a reference to it if it has a name."""
    if title:
        return {"$ref": f"#/$defs/{title}"}
    return {"type": "object"} | properties(table)
