"""Every setting by file and by environment, and every mistake by its name."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from relay import settings
from relay.errors import SettingsError
from relay.settings import Delivery, Settings

SECRET = "hunter2-correct-horse"

#: The least that a relay needs.
LEAST = {
    "RELAY_APPS__DEFAULT__ENCRYPT_KEY": SECRET,
    "RELAY_KAFKA__BOOTSTRAP_SERVERS": "broker:9092",
}


def load(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None] | None = None) -> Settings:
    for name, value in {**LEAST, **(changes or {})}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return settings.load()


def mistakes(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, changes)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    return str(caught.value).splitlines()


def test_least_is_an_app_and_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """All else has the default that the design names."""
    found = load(monkeypatch)
    assert list(found.apps) == ["default"]
    assert found.apps["default"].encrypt_keys == (SECRET,)
    assert found.apps["default"].verification_tokens == ()
    assert (found.webhook.host, found.webhook.port) == ("::", 8080)
    assert found.webhook.max_body_bytes == 2**20
    assert (found.admin.host, found.admin.port) == ("127.0.0.1", 9090)
    assert found.journal.path == Path("data/journal.db")
    assert (found.journal.max_bytes, found.journal.dedupe_window) == (8 * 2**30, 86400)
    assert found.kafka.delivery is Delivery.EXACTLY_ONCE
    assert (found.kafka.topic_prefix, found.kafka.create_topics) == ("feishu.", True)
    assert (found.kafka.partitions, found.kafka.replication_factor) == (12, -1)
    assert found.kafka.security_protocol == "PLAINTEXT"
    assert (found.drain.delay, found.drain.timeout) == (5, 25)
    assert (found.log.level, found.log.format) == ("info", None)


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("APPS__DEFAULT__APP_ID", "cli_a", "apps.default.app_id", "cli_a"),
        ("APPS__DEFAULT__APP_SECRET", "s", "apps.default.app_secret", SecretStr("s")),
        ("APPS__DEFAULT__ENCRYPT_KEY", "k", "apps.default.encrypt_key", SecretStr("k")),
        (
            "APPS__DEFAULT__PREVIOUS_ENCRYPT_KEY",
            "k",
            "apps.default.previous_encrypt_key",
            SecretStr("k"),
        ),
        (
            "APPS__DEFAULT__VERIFICATION_TOKEN",
            "t",
            "apps.default.verification_token",
            SecretStr("t"),
        ),
        (
            "APPS__DEFAULT__PREVIOUS_VERIFICATION_TOKEN",
            "t",
            "apps.default.previous_verification_token",
            SecretStr("t"),
        ),
        ("APPS__SECOND-APP__ENCRYPT_KEY", "k", "apps.second-app.encrypt_key", SecretStr("k")),
        ("WEBHOOK__HOST", "::1", "webhook.host", "::1"),
        ("WEBHOOK__PORT", "81", "webhook.port", 81),
        ("WEBHOOK__MAX_BODY_BYTES", "2MiB", "webhook.max_body_bytes", 2**21),
        ("WEBHOOK__MAX_BODY_BYTES", "1000", "webhook.max_body_bytes", 1000),
        ("WEBHOOK__READ_TIMEOUT", "200ms", "webhook.read_timeout", 0.2),
        ("WEBHOOK__IDLE_TIMEOUT", "65s", "webhook.idle_timeout", 65),
        ("ADMIN__HOST", "0.0.0.0", "admin.host", "0.0.0.0"),
        ("ADMIN__PORT", "0", "admin.port", 0),
        ("JOURNAL__PATH", "/data/j.db", "journal.path", Path("/data/j.db")),
        ("JOURNAL__MAX_BYTES", "1.5 GiB", "journal.max_bytes", 3 * 2**29),
        ("JOURNAL__DEDUPE_WINDOW", "16h", "journal.dedupe_window", 57600),
        ("JOURNAL__DEDUPE_WINDOW", "2d", "journal.dedupe_window", 172800),
        ("JOURNAL__MAX_WAITING", "5", "journal.max_waiting", 5),
        ("KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2", "kafka.bootstrap_servers", "a:1,b:2"),
        ("KAFKA__DELIVERY", "at-least-once", "kafka.delivery", Delivery.AT_LEAST_ONCE),
        ("KAFKA__TOPIC_PREFIX", "x-", "kafka.topic_prefix", "x-"),
        ("KAFKA__CREATE_TOPICS", "false", "kafka.create_topics", False),
        ("KAFKA__PARTITIONS", "3", "kafka.partitions", 3),
        ("KAFKA__REPLICATION_FACTOR", "3", "kafka.replication_factor", 3),
        ("KAFKA__TOPIC_CONFIG", '{"retention.ms": 5}', "kafka.topic_config", {"retention.ms": "5"}),
        ("KAFKA__TOPICS", '{"a.b_v1":"mine"}', "kafka.topics", {"a.b_v1": "mine"}),
        ("KAFKA__SECURITY_PROTOCOL", "SSL", "kafka.security_protocol", "SSL"),
        ("KAFKA__SASL_MECHANISM", "SCRAM-SHA-512", "kafka.sasl_mechanism", "SCRAM-SHA-512"),
        ("KAFKA__COMPRESSION", "zstd", "kafka.compression", "zstd"),
        ("KAFKA__SASL_USERNAME", "u", "kafka.sasl_username", "u"),
        ("CLAIMS__SENTINEL_PASSWORD", "p", "claims.sentinel_password", SecretStr("p")),
        ("KAFKA__OAUTH_TOKEN_URL", "https://a/b?c", "kafka.oauth_token_url", "https://a/b?c"),
        ("KAFKA__OAUTH_CLIENT_SECRET", "p", "kafka.oauth_client_secret", SecretStr("p")),
        ("KAFKA__OAUTH_EXTENSIONS", '{"a": "b-1"}', "kafka.oauth_extensions", {"a": "b-1"}),
        ("KAFKA__SASL_PASSWORD", "p", "kafka.sasl_password", SecretStr("p")),
        ("KAFKA__CA_FILE", __file__, "kafka.ca_file", Path(__file__)),
        ("KAFKA__TIMEOUT", "1m", "kafka.timeout", 60),
        ("KAFKA__IDLE_TIMEOUT", "3m", "kafka.idle_timeout", 180),
        ("DRAIN__DELAY", "0s", "drain.delay", 0),
        ("DRAIN__TIMEOUT", "1.5s", "drain.timeout", 1.5),
        ("LOG__LEVEL", "debug", "log.level", "debug"),
        ("LOG__FORMAT", "console", "log.format", "console"),
    ],
)
def test_setting_comes_from_the_environment(
    name: str, value: str, path: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: object = load(monkeypatch, {f"RELAY_{name}": value})
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert expected == found


@pytest.mark.parametrize("section", ["kafka", "claims"])
def test_certificate_and_key_go_together(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"RELAY_{section.upper()}"
    files: dict[str, str | None] = {
        f"{prefix}__CERT_FILE": __file__,
        f"{prefix}__KEY_FILE": __file__,
    }
    found = getattr(load(monkeypatch, files), section)
    assert (Path(__file__), Path(__file__)) == (found.cert_file, found.key_file)
    monkeypatch.delenv(f"{prefix}__KEY_FILE")
    with pytest.raises(SettingsError, match=rf"{section} \({prefix}\): cert_file and key_file go"):
        settings.load()


def test_sasl_needs_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        "kafka (RELAY_KAFKA): security_protocol uses SASL, "
        "so sasl_username and sasl_password are needed"
    )
    assert [expected] == mistakes(monkeypatch, {"RELAY_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"})


@pytest.mark.parametrize("given", ["APP_ID", "APP_SECRET"])
def test_long_connection_needs_id_and_secret(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        "apps.default (RELAY_APPS__DEFAULT): long_connection needs an app_id and an app_secret"
    )
    changes: dict[str, str | None] = {
        "RELAY_APPS__DEFAULT__LONG_CONNECTION": "true",
        f"RELAY_APPS__DEFAULT__{given}": "x",
    }
    assert [expected] == mistakes(monkeypatch, changes)


def test_journal_of_another_replica_changes_the_path_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch, {"RELAY_JOURNAL__MAX_BYTES": "1 GiB"})
    assert found.at(None) is found
    moved = found.at(Path("/lost/journal.db"))
    assert (moved.journal.path, moved.journal.max_bytes) == (Path("/lost/journal.db"), 2**30)
    assert moved.kafka == found.kafka


@pytest.mark.parametrize(
    "name",
    [
        "RELAY_APPS__DEFAULT__APP_SECRET",
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY",
        "RELAY_APPS__DEFAULT__PREVIOUS_ENCRYPT_KEY",
        "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN",
        "RELAY_APPS__DEFAULT__PREVIOUS_VERIFICATION_TOKEN",
        "RELAY_KAFKA__SASL_PASSWORD",
    ],
)
def test_secret_comes_from_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Docker and Kubernetes mount them; the last newline is the editor's."""
    file = tmp_path / "secret"
    file.write_text(" from-a-file \r\n")
    found = load(monkeypatch, {name: None, f"{name}_FILE": str(file)})
    section, field = name.lower().rsplit("__", 1)
    holder: object = found.kafka if section == "relay_kafka" else found.apps["default"]
    assert getattr(holder, field).get_secret_value() == " from-a-file "


def test_secrets_come_from_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a projected volume of Kubernetes: files named as variables, and its own hidden ones."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "RELAY_APPS__DEFAULT__ENCRYPT_KEY").write_text("from-a-file\n")
    (tmp_path / "RELAY_APPS__HR-DESK__VERIFICATION_TOKEN").write_text("another")
    (tmp_path / "RELAY_KAFKA__SASL_PASSWORD").write_text("\n")
    found = load(monkeypatch, {"RELAY_SECRETS_DIR": str(tmp_path)})
    assert found.apps["default"].encrypt_keys == ("from-a-file",)
    assert found.apps["hr-desk"].verification_tokens == ("another",)
    assert not found.kafka.sasl_password.get_secret_value()


def test_missing_secrets_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nothing"
    changes: dict[str, str | None] = {"RELAY_SECRETS_DIR": str(path)}
    assert [f"{path}: No such file or directory"] == mistakes(monkeypatch, changes)


def test_missing_secret_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nothing"
    changes: dict[str, str | None] = {"RELAY_KAFKA__SASL_PASSWORD_FILE": str(path)}
    assert [f"{path}: No such file or directory"] == mistakes(monkeypatch, changes)


def test_secret_file_that_is_no_text_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    changes: dict[str, str | None] = {"RELAY_APPS__DEFAULT__APP_SECRET_FILE": str(path)}
    assert [f"{path}: not UTF-8"] == mistakes(monkeypatch, changes)


def test_empty_file_name_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file passes unset variables on as empty ones."""
    found = load(monkeypatch, {"RELAY_KAFKA__SASL_PASSWORD_FILE": "", "RELAY_WEBHOOK__PORT": ""})
    assert (found.kafka.sasl_password.get_secret_value(), found.webhook.port) == ("", 8080)


TOML = f"""
[apps.default]
verification_token = "{SECRET}"
[kafka]
bootstrap_servers = "from-file:1"
partitions = 3
[kafka.topics]
other = "rest"
[journal]
dedupe_window = "20h"
[webhook]
port = 1234
"""


def test_file_is_read_and_the_environment_goes_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value by value, not section by section."""
    file = tmp_path / "relay.toml"
    file.write_text(TOML)
    monkeypatch.setenv("RELAY_KAFKA__PARTITIONS", "7")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    found = settings.load(file)
    assert (found.kafka.bootstrap_servers, found.kafka.partitions) == ("from-file:1", 7)
    assert found.kafka.topics == {"other": "rest"}
    assert (found.journal.dedupe_window, found.webhook.port) == (72000, 1234)
    assert found.apps["default"].encrypt_keys == ("k",)
    assert found.apps["default"].verification_tokens == (SECRET,)


def test_file_can_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument goes before the variable."""
    named, given = tmp_path / "named.toml", tmp_path / "given.toml"
    named.write_text(TOML)
    given.write_text(TOML.replace("1234", "4321"))
    monkeypatch.setenv("RELAY_CONFIG", str(named))
    assert (settings.load().webhook.port, settings.load(given).webhook.port) == (1234, 4321)


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.toml"
    with pytest.raises(SettingsError, match=f"{path}: No such file or directory"):
        settings.load(path)


@pytest.mark.parametrize("content", [f"[apps\nkey = '{SECRET}'".encode(), b"\xff\xfe"])
def test_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"{path}: not TOML: ") as caught:
        settings.load(path)
    assert SECRET not in str(caught.value)


def test_all_mistakes_stand_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by both of its names, so that one look is enough."""
    changes: dict[str, str | None] = {
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY": None,
        "RELAY_APPS__DEFAULT__APP_SECRET": SECRET,
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": None,
        "RELAY_KAFKA__PARTITIONS": "0",
        "RELAY_KAFKA__DELIVERY": SECRET,
        "RELAY_WEBHOOK__PORT": "70000",
        "RELAY_WEBHOOK__COLOUR": "red",
        "RELAY_WEBHOOK__MAX_BODY_BYTES": "1.2.3KiB",
        "RELAY_JOURNAL__DEDUPE_WINDOW": "7h",
        "RELAY_JOURNAL__MAX_BYTES": "8 parsecs",
        "RELAY_DRAIN__DELAY": "soon",
    }
    found = mistakes(monkeypatch, changes)
    assert sorted(line.split(":")[0] for line in found) == [
        "apps.default (RELAY_APPS__DEFAULT)",
        "drain.delay (RELAY_DRAIN__DELAY)",
        "journal.dedupe_window (RELAY_JOURNAL__DEDUPE_WINDOW)",
        "journal.max_bytes (RELAY_JOURNAL__MAX_BYTES)",
        "kafka.bootstrap_servers (RELAY_KAFKA__BOOTSTRAP_SERVERS)",
        "kafka.delivery (RELAY_KAFKA__DELIVERY)",
        "kafka.partitions (RELAY_KAFKA__PARTITIONS)",
        "webhook.colour (RELAY_WEBHOOK__COLOUR)",
        "webhook.max_body_bytes (RELAY_WEBHOOK__MAX_BODY_BYTES)",
        "webhook.port (RELAY_WEBHOOK__PORT)",
    ]
    assert "webhook.colour (RELAY_WEBHOOK__COLOUR): there is no such setting" in found
    assert "kafka.bootstrap_servers (RELAY_KAFKA__BOOTSTRAP_SERVERS): is required" in found
    assert (
        "apps.default (RELAY_APPS__DEFAULT): "
        "needs an encrypt_key or a verification_token: nobody could be told apart"
    ) in found


def test_nothing_at_all_names_what_is_needed() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert str(caught.value).splitlines() == [
        "apps (RELAY_APPS): is required",
        "kafka (RELAY_KAFKA): is required",
    ]


@pytest.mark.parametrize("name", ["WITH SPACE", "TOO-" + "L" * 64, "PÄNG"])
def test_app_name_must_fit_a_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mistakes(monkeypatch, {f"RELAY_APPS__{name}__ENCRYPT_KEY": SECRET})
    assert [f"apps.{name.lower()}"] == [line.split(" (RELAY")[0] for line in found]


def test_unreadable_value_names_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps to itself what stood there."""
    (found,) = mistakes(monkeypatch, {"RELAY_APPS": f'{{"default": {{"encrypt_key": "{SECRET}"'})
    assert '"apps"' in found


def test_variables_of_kubernetes_services_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service named `relay` puts these into every pod beside it."""
    found = load(
        monkeypatch,
        {
            "RELAY_PORT": "tcp://10.0.0.1:8080",
            "RELAY_SERVICE_HOST": "10.0.0.1",
            "RELAY_SERVICE_PORT": "8080",
            "RELAY_SERVICE_PORT_HTTP": "8080",
            "RELAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "RELAY_PORT_8080_TCP_PROTO": "tcp",
            "RELAY_PORT_8080_TCP_PORT": "8080",
            "RELAY_PORT_8080_TCP_ADDR": "10.0.0.1",
            "RELAY_WEBHOOK_PORT": "tcp://10.0.0.2:8080",
            "RELAY_KAFKA_SERVICE_HOST": "10.0.0.3",
        },
    )
    assert (found.webhook.port, found.kafka.bootstrap_servers) == (8080, "broker:9092")


@pytest.mark.parametrize("found", [None, ModuleNotFoundError("No module named 'opentelemetry'")])
def test_traces_want_what_exports_them(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not there, or a part of it only: said at the start, with what to do."""

    def find(_: str) -> object:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(settings, "find_spec", find)
    load(monkeypatch)
    (mistake,) = mistakes(
        monkeypatch, {"RELAY_TRACES__ENDPOINT": "http://collector:4318/v1/traces"}
    )
    assert mistake == (
        "traces.endpoint (RELAY_TRACES__ENDPOINT): needs OpenTelemetry: requirements/traces.txt"
    )


def test_no_secret_is_ever_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by repr nor by str nor as JSON."""
    found = load(
        monkeypatch,
        {
            "RELAY_APPS__DEFAULT__APP_SECRET": SECRET,
            "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": SECRET,
            "RELAY_KAFKA__SASL_PASSWORD": SECRET,
        },
    )
    shown = f"{found!r} {found} {found.model_dump_json()} {found.apps['default']!r}"
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"min.insync.replicas" = 2', {"min.insync.replicas": "2"}),
        ("min.insync.replicas = 2", {"min.insync.replicas": "2"}),
        ('compression.type = "zstd"', {"compression.type": "zstd"}),
        (
            "preallocate = true\nmin.cleanable.dirty.ratio = 0.5\nmin.insync.replicas = 1",
            {
                "preallocate": "true",
                "min.cleanable.dirty.ratio": "0.5",
                "min.insync.replicas": "1",
            },
        ),
    ],
)
def test_settings_of_topics_are_named_as_kafka_names_them(
    written: str, expected: dict[str, str], tmp_path: Path
) -> None:
    """With or without quotes: without them TOML makes tables of the dots."""
    config = tmp_path / "relay.toml"
    config.write_text(
        '[apps.default]\nverification_token = "t"\n[kafka]\nbootstrap_servers = "k:1"\n'
        f"[kafka.topic_config]\n{written}\n"
    )
    assert expected == settings.load(config).kafka.topic_config
