"""What an operator keeps from consumers: fields that are left out, and fields that are hashed.

It is a change of the tables themselves: where nothing is asked, they are as they were. What is
private is in no record in the clear, nor under `unexpected`.
"""

import hmac
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from relay.contract import exactjson
from relay.contract.rules.table import (
    MARK,
    NO_RULES,
    Findings,
    Json,
    Rule,
    State,
    Table,
    apply_table,
)


class Guard:
    """Makes the rules of a table keep what is asked for."""

    def __init__(
        self, drop: Iterable[str] = (), hashed: Iterable[str] = (), key: bytes = b""
    ) -> None:
        """The names are such as the settings have; `key` is that of the hashes."""
        self._drop, self._hash, self._key = set(drop), set(hashed), key
        self._on = bool(self._drop or self._hash)

    def table(self, title: str, table: Table) -> Table:
        """Give the table of the objects that the schemas know under that title."""
        if not self._on:
            return table
        made = dict(table)
        for name, rule in table.items():
            names = {name, f"{title}.{name}"}
            if names & self._drop:
                made |= _dropped(name, rule)
            elif names & self._hash:
                made[name] = _hashed(name, rule, self._key)
        return made

    def told(self, findings: Findings) -> Findings:
        """Keep of misfits what cannot hold anything private; the journal has all of them."""
        if not self._on:
            return findings
        return {
            place: None if isinstance(value, dict | list) else value
            for place, value in findings.items()
        }


def _dropped(name: str, rule: Rule) -> dict[str, Rule]:
    """Make the rule for a field that no record has, and the same for the name it derives."""

    def apply(_: Json, __: Any, ___: Findings, ____: str) -> None:
        """Write nothing, not even that there was something."""

    one = Rule(
        apply=apply,
        fallback={},
        schema=_marked(rule, State.DROPPED),
        text=rule.text,
        shapes=rule.shapes,
        state=State.DROPPED,
        guarded=True,
    )
    return {name: one} | ({rule.derived: replace(one, schema={})} if rule.derived else {})


def _hashed(name: str, rule: Rule, key: bytes) -> Rule:
    """Make the rule for a field whose texts become HMACs; of a misfit only its place is told."""
    alone = {name: rule}

    def apply(result: Json, value: Any, findings: Findings, pointer: str) -> None:
        if type(value) is str and rule.plain is str:
            # What most are; the way below leads to the same.
            result[name] = _digest(value, NO_RULES, key)
            return
        misfits: Findings = {}
        made = apply_table(alone, {name: value}, misfits, pointer)
        result[name] = _digest(made[name], rule.inside, key)
        findings.update(dict.fromkeys(misfits))

    return Rule(
        apply=apply,
        fallback={},
        schema=_marked(rule, State.HASHED),
        text=True,
        shapes=rule.shapes,
        state=State.HASHED,
        guarded=True,
    )


def _digest(value: Any, inside: Table, key: bytes) -> Any:
    """Hash a text, or each one in a list or in objects with rules; all else as the JSON it is."""
    if type(value) is list:
        return [_digest_one(one, inside, key) for one in value]
    return _digest_one(value, inside, key)


def _digest_one(value: Any, inside: Table, key: bytes) -> Any:
    """Hash what stands alone; what is empty says nothing, and stays."""
    if value is None or value == "":
        return value
    if type(value) is dict and inside:
        return {name: _member(one, inside.get(name), key) for name, one in value.items()}
    text = value.encode(errors="surrogatepass") if type(value) is str else exactjson.dumps(value)
    return hmac.digest(key, text, "sha256").hex()


def _member(value: Any, rule: Rule | None, key: bytes) -> Any:
    """Hash what stands in an object, unless it is hashed already; a field without a rule, too."""
    if rule and rule.state is State.HASHED:
        return value
    return _digest(value, rule.inside if rule else NO_RULES, key)


def _marked(rule: Rule, state: State) -> Json:
    return {name: schema | {MARK: state.value} for name, schema in rule.schema.items()}
