"""What the tests of `relay schema --as` share: records, and what is to become of them elsewhere."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli.main import app
from relay.contract import examples
from relay.contract.kit import shape
from relay.contract.kit.shape import Kind, List, Scalar, Struct
from relay.contract.normalize import EVENT_TYPES, Router
from relay.settings.topics import OTHER
from tests.sdk.records import Events
from tests.sdk.toolchains import Toolchain

TYPES = (*EVENT_TYPES, OTHER)
CONSUME = (Path(__file__).parents[2] / "docs" / "consume.md").read_text()
#: Records of each type; the first is the contract's example.
COUNT = 40
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def built(toolchain: Toolchain) -> list[str]:
    """Give the command; skip at home what is not installed, as CI has everything."""
    if missing := toolchain.missing():
        assert not os.environ.get("CI"), f"CI has no {missing}"
        pytest.skip(f"{missing} is not installed")
    return toolchain.command()


def printed(event_type: str, language: str, *more: str) -> str:
    done = CliRunner().invoke(app, ["schema", event_type, "--as", language, *more])
    assert done.exit_code == 0
    return done.stdout


def values(event_type: str) -> list[Any]:
    example = examples.record(event_type, Router("", {})).value
    return [json.loads(one) for one in (example or b"", *Events(event_type, seed=6).values(COUNT))]


def flattened(value: dict[str, Any], event_type: str, way: str = "") -> dict[str, Any]:
    """Name each member by its way, as Kafka Connect's Flatten does."""
    whole = {"unexpected", "data"} if event_type == OTHER else {"unexpected"}
    made: dict[str, Any] = {}
    for name, member in value.items():
        if isinstance(member, dict) and way + name not in whole:
            made |= flattened(member, event_type, f"{way}{name}_")
        else:
            made[way + name] = member
    return made


def pruned(value: Any) -> Any:
    """Leave out what is null, and write instants in one way."""
    if isinstance(value, dict):
        made = {name: pruned(member) for name, member in value.items()}
        return {name: member for name, member in made.items() if member not in (None, {})}
    if isinstance(value, list):
        return [pruned(one) for one in value]
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        return re.sub(r"\.?0*Z$", "Z", value)
    return value


def known(kind: Kind, value: Any) -> Any:
    """Leave out fields that no schema has; a number is a double."""
    if isinstance(kind, Struct) and value is not None:
        members = kind.members.items()
        return {name: known(one, value[name]) for name, one in members if name in value}
    if isinstance(kind, List):
        return [known(kind.items, one) for one in value]
    return float(value) if kind is Scalar.NUMBER and value is not None else value


def expected(event_type: str) -> list[Any]:
    """Give what of each record has a place in a schema."""
    return [known(shape.value(event_type, Router("", {})), one) for one in values(event_type)]


def blocks(language: str) -> list[str]:
    """Give the examples of docs/consume.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", CONSUME, re.MULTILINE | re.DOTALL)
