"""`relay config`: the schema of the settings for editors."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from typer.testing import CliRunner

from relay import settings
from relay.cli.main import app
from relay.errors import SettingsError
from relay.settings.told import meanings
from relay.settings.told.schema import fields, schema
from tests.unit.test_docs import EXAMPLES, ROOT, SETTINGS

PAPER = (ROOT / "docs" / "configuration.md").read_text()
SCHEMA = schema()
LEAST = '[apps.default]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers = "b:1"\n'


def place(name: str) -> dict[str, Any]:
    """Give what the schema says of a setting."""
    found: Any = SCHEMA
    for part in name.split("."):
        found = found["additionalProperties" if part == "<name>" else "properties"]
        found = found if part == "<name>" else found[part]
    return dict(found)


def mistakes(text: str) -> list[str]:
    return [one.message for one in Draft7Validator(SCHEMA).iter_errors(tomllib.loads(text))]


def test_schema_is_one_and_the_command_prints_it() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert json.loads(CliRunner().invoke(app, ["config", "schema"]).stdout) == SCHEMA
    assert json.loads((ROOT / "docs" / "relay.schema.json").read_text()) == SCHEMA, "make schemas"


def test_meanings_are_those_of_the_paper() -> None:
    """`make schemas` writes them anew."""
    assert meanings.meanings() == meanings.of(PAPER), "make schemas"
    assert not [name for name, text in meanings.meanings().items() if "](" in text or not text]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_in_the_schema(name: str) -> None:
    """With its meaning, what it may be, and the default that the model has."""
    found = place(name)
    assert found["description"] == meanings.meanings().get(name), "make schemas"
    assert found.keys() & {"type", "enum"}
    field = dict(fields())[name]
    default = field.get_default()
    if isinstance(default, str | int | float | bool) and not field.is_required():
        assert found["default"] == default


@pytest.mark.parametrize("example", EXAMPLES)
def test_documented_examples_are_valid(example: str) -> None:
    assert mistakes(example) == []


def test_nothing_is_asked_for() -> None:
    """The environment may have it."""
    assert mistakes("") == []


@pytest.mark.parametrize(
    "text",
    [
        '[journal]\ndedupe_window = "36h"\n',
        "[journal]\ndedupe_window = 86400.5\n",
        '[journal]\nmax_bytes = "512 MiB"\n',
        '[webhook]\nmax_body_bytes = 65536\nread_timeout = "200ms"\n',
        '[privacy]\ndrop = ["email", "Person.name"]\n',
        '[kafka]\ncompression = "zstd"\ntopic_config.min.insync.replicas = 2\n',
        '[kafka.topic_config]\n"cleanup.policy" = "delete"\n"preallocate" = true\n',
        '[kafka.oauth_extensions]\nlogicalCluster = "lkc-1"\n',
        '[log]\nformat = "json"\n',
    ],
)
def test_what_relay_takes_the_schema_takes(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    path = tmp_path / "relay.toml"
    path.write_text(text)
    settings.load(path)
    assert mistakes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[kaffka]\n",
        "[kafka]\npartitons = 1\n",
        "[kafka]\npartitions = 0\n",
        '[kafka]\ncompression = "brotli"\n',
        '[kafka]\ndelivery = "twice"\n',
        '[kafka]\ntopic_prefix = "a b"\n',
        '[apps."A B"]\nencrypt_key = "k"\n',
        "[apps.default]\nencrypt_key = 5\n",
        '[apps.default]\nencrypt_keys = "k"\n',
        '[journal]\ndedupe_window = "a day"\n',
        "[journal]\ndedupe_window = 5\n",
        "[webhook]\nport = 70000\n",
        '[journal]\nmax_bytes = "8 GB"\n',
        '[privacy]\ndrop = ["e-mail"]\n',
        '[privacy]\nhash = ["position"]\n',
        '[log]\nlevel = "loud"\n',
    ],
)
def test_what_relay_refuses_the_schema_refuses(text: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        settings.load(path)
    assert mistakes(text)


def test_table_of_the_paper_is_read_without_its_links() -> None:
    paper = "| `a.b` | `RELAY_A__B` | `1` | see [Topics](#topics), [more](operations.md#x-y) |\n"
    text = "see Topics (docs/configuration.md#topics), more (docs/operations.md#x-y)"
    assert meanings.of(paper) == {"a.b": text}
