"""`relay config`: the schema of the settings for editors, and what is in force."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from typer.testing import CliRunner

from relay import settings
from relay.cli.main import app
from relay.errors import ConfigExistsError, SettingsError
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
    # Remembered from when this module was loaded, which is not measured.
    meanings.meanings.cache_clear()
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
        '[console]\npeers = "relay-1:9091, relay-2"\n',
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


def test_first_file_has_every_setting_as_it_is_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as it is, and with each setting switched on, it changes nothing."""
    path = tmp_path / "relay.toml"
    done = CliRunner().invoke(app, ["init", str(path)])
    assert done.exit_code == 0
    assert f"relay check --config {path}" in done.output
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("\n#") > len(SETTINGS)
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    default = settings.load()
    assert settings.load(path) == default
    switched = re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE)
    assert mistakes(switched) == []
    given = tomllib.loads(switched)
    assert {one.replace("<name>", "default") for one in SETTINGS} == set(leaves(given))
    path.write_text(
        "".join(line for line in switched.splitlines(keepends=True) if "FILE" not in line)
    )
    changed = settings.load(path).model_dump()
    assert changed.pop("log")["format"] == "json"
    assert changed == {name: one for name, one in default.model_dump().items() if name != "log"}


def leaves(tree: dict[str, Any], path: str = "") -> list[str]:
    """Give the name of each setting; those of `topics` and the like are one."""
    found = []
    for name, value in tree.items():
        inner = isinstance(value, dict) and path + name in {*SCHEMA["properties"], "apps.default"}
        found += leaves(value, f"{path}{name}.") if inner else [path + name]
    return found


@pytest.mark.parametrize("content", ["", "dear diary"])
def test_nothing_is_overwritten(content: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(content)
    refused = CliRunner().invoke(app, ["init", str(path)])
    assert isinstance(refused.exception, ConfigExistsError)
    assert path.read_text() == content
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "elsewhere")
    assert isinstance(CliRunner().invoke(app, ["init", str(dangling)]).exception, ConfigExistsError)
    assert not (tmp_path / "elsewhere").exists()


def shown(path: Path) -> dict[str, tuple[Any, str, str]]:
    """Give what `relay config show --json` says of each setting."""
    done = CliRunner().invoke(app, ["config", "show", "--json", "--config", str(path)])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["name"]: (one["value"], one["origin"], one["source"]) for one in lines}


def test_every_value_is_shown_with_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those who set one the last: default, file, environment, secret file."""
    path, secrets = tmp_path / "relay.toml", tmp_path / "secrets"
    secrets.mkdir()
    path.write_text(
        '[apps.hr-desk]\nencrypt_key = "in the file"\n'
        '[kafka]\nbootstrap_servers = "b:1"\ntimeout = "5s"\ntopics.other = "x"\n'
        "[webhook]\nport = 1\nread_timeout = 3\n"
    )
    (tmp_path / "token").write_text("hush")
    (secrets / "RELAY_CLAIMS__URL").write_text("redis://me:hush@store:6379/0")
    for name, value in {
        "APPS__HR-DESK__VERIFICATION_TOKEN_FILE": str(tmp_path / "token"),
        "SECRETS_DIR": str(secrets),
        "WEBHOOK": '{"port": 81, "max_body_bytes": "2MiB"}',
        "WEBHOOK__MAX_BODY_BYTES": "3 MiB",
        "KAFKA__TOPICS": '{"im.*": "chats"}',
        "KAFKA__COMPRESSION": "",
        "TRACES__ENDPOINT": "",
    }.items():
        monkeypatch.setenv(f"RELAY_{name}", value)
    seen = shown(path)
    assert set(seen) == {name.replace("apps.<name>", "apps.hr-desk") for name in SETTINGS}
    assert {name: seen[name] for name in seen if seen[name][1] != "default"} == {
        "apps.hr-desk.encrypt_key": ("********", "file", str(path)),
        "apps.hr-desk.verification_token": ("********", "secret_file", str(tmp_path / "token")),
        "kafka.bootstrap_servers": ("b:1", "file", str(path)),
        "kafka.timeout": (5, "file", str(path)),
        "kafka.topics": (
            {"other": "x", "im.*": "chats"},
            "environment",
            f"RELAY_KAFKA__TOPICS over {path}",
        ),
        "webhook.port": (81, "environment", "RELAY_WEBHOOK"),
        "webhook.max_body_bytes": (3 * 2**20, "environment", "RELAY_WEBHOOK__MAX_BODY_BYTES"),
        "webhook.read_timeout": (3, "file", str(path)),
        "claims.url": (
            "redis://me:********@store:6379/0",
            "secret_file",
            str(secrets / "RELAY_CLAIMS__URL"),
        ),
    }
    assert seen["kafka.compression"] == ("none", "default", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APPS__A__ENCRYPT_KEY", "hush://k:hush@hush"),
        ("APPS__A__APP_SECRET", "hush"),
        ("APPS__A__PREVIOUS_VERIFICATION_TOKEN", "hush@hush"),
        ("APPS", '{"b": {"encrypt_key": "hush"}}'),
        ("APPS", '{"b": {"encrypt_key": {"hush": "hush"}}}'),
        ("KAFKA__SASL_PASSWORD", "hush"),
        ("KAFKA__OAUTH_CLIENT_SECRET", "hush"),
        ("CLAIMS__URL", "redis://:hush@h"),
        ("CLAIMS__URL", "redis://hush@h"),
        ("CLAIMS__URL", "rediss+sentinel://u:hush@h,i/s"),
        ("CLAIMS__URL", "postgres://u:hush@h"),
        ("CLAIMS__URL", "redis://u:hu/sh@h"),
        ("CLAIMS__SENTINEL_PASSWORD", "hush"),
        ("PRIVACY__SALT", "hush" * 8),
        ("TRACES__ENDPOINT", "http://u:hush@c:4318/v1"),
        ("TRACES__ENDPOINT", "http://hush@c:4318/v1"),
        ("TRACES__ENDPOINT", "http://u:hush@hush@c:4318/v1"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
@pytest.mark.parametrize("broken", [False, True])
def test_no_secret_is_shown(
    name: str,
    value: str,
    more: tuple[str, ...],
    broken: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor where other settings are wrong, so that nothing was read in earnest."""
    monkeypatch.setenv("RELAY_APPS__A__VERIFICATION_TOKEN", "t")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    if broken:
        monkeypatch.setenv("RELAY_KAFKA__PARTITIONS", "0")
    monkeypatch.setenv(f"RELAY_{name}", value)
    done = CliRunner().invoke(app, ["config", "show", *more])
    assert "********" in done.output
    assert "hush" not in done.output


def test_what_is_wrong_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was given; then the mistakes follow."""
    monkeypatch.setenv("RELAY_KAFKA__PARTITIONS", "none")
    done = CliRunner().invoke(app, ["config", "show"])
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("kafka.partitions ")]
    assert line.split() == ["kafka.partitions", '"none"', "environment", "RELAY_KAFKA__PARTITIONS"]
    assert "kafka.bootstrap_servers" in done.stdout
    assert isinstance(done.exception, SettingsError)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("journal.dedupe_window", "86400", '"24h"'),
        ("journal.dedupe_window", "7d", '"7d"'),
        ("journal.dedupe_window", "57601", '"57601s"'),
        ("kafka.timeout", "200ms", '"0.2s"'),
        ("drain.delay", "0", '"0s"'),
        ("kafka.idle_timeout", "90s", '"90s"'),
        ("journal.max_bytes", "8589934592", '"8 GiB"'),
        ("webhook.max_body_bytes", "64KiB", '"64 KiB"'),
        ("webhook.max_body_bytes", "1000", "1000"),
        ("log.format", "", "-"),
        ("privacy.drop", "email", '["email"]'),
    ],
)
def test_times_and_sizes_are_shown_as_they_are_written(
    name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_APPS__A__VERIFICATION_TOKEN", "t")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    monkeypatch.setenv(SETTINGS[name], value)
    lines = CliRunner().invoke(app, ["config", "show"]).stdout.splitlines()
    (line,) = [one for one in lines if one.startswith(f"{name} ")]
    assert line.removeprefix(name).strip().startswith(f"{text}  ")


def test_meanings_are_written_out_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `make schemas` does."""
    paper, file = tmp_path / "paper.md", tmp_path / "meanings.json"
    paper.write_text("| `a.b` | `RELAY_A__B` | `1` | 消息, as [Topics](#topics) |\n")
    monkeypatch.setattr(meanings, "_FILE", file)
    monkeypatch.setattr("sys.argv", ["meanings", str(paper)])
    meanings.main()
    assert json.loads(file.read_text()) == {"a.b": "消息, as Topics (docs/configuration.md#topics)"}
