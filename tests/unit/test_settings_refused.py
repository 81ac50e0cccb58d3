"""Settings that are wrong are wrong at start: all at once, a line each, nothing of a secret."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from relay import settings
from relay.cli import main as cli
from relay.contract.normalize import EVENT_TYPES, Router
from relay.errors import SettingsError
from relay.settings import Claims, Traces, login, topics
from relay.settings.values import Endpoint, StoreKind
from tests.unit.test_settings import LEAST, SECRET, load, mistakes

Variables = dict[str, str | None]


def refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the only line about a variable's value."""
    (line,) = mistakes(monkeypatch, {f"RELAY_{name}": value})
    assert f"RELAY_{name}" in line
    return line


@pytest.mark.parametrize("content", ["", "\n", "\r\n\n"])
@pytest.mark.parametrize(
    "name",
    [
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY",
        "RELAY_APPS__DEFAULT__PREVIOUS_ENCRYPT_KEY",
        "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN",
        "RELAY_APPS__DEFAULT__APP_SECRET",
        "RELAY_APPS__DEFAULT__HELPDESK_TOKEN",
        "RELAY_KAFKA__SASL_PASSWORD",
        "RELAY_CLAIMS__URL",
        "RELAY_PRIVACY__SALT",
    ],
)
def test_named_secret_file_must_hold_something(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a key of the TOML file it would open the door; it is the only line."""
    toml, file = tmp_path / "relay.toml", tmp_path / "secret"
    toml.write_text(
        f'[apps.default]\nencrypt_key = "{SECRET}"\nverification_token = "{SECRET}"\n'
        '[kafka]\nbootstrap_servers = "b:1"\n[claims]\nurl = "redis://valkey"\n'
    )
    file.write_text(content)
    monkeypatch.setenv(f"{name}_FILE", str(file))
    with pytest.raises(SettingsError) as caught:
        settings.load(toml)
    assert str(caught.value) == f"{file}: is empty, but {name}_FILE asks for a secret"


@pytest.mark.parametrize(
    "name",
    [
        "APPS__DEFAULT__ENCRYPT_KEY",
        "APPS__HR-DESK__VERIFICATION_TOKEN",
        "CLAIMS__URL",
        "PRIVACY__SALT",
    ],
)
def test_empty_file_of_a_directory_opens_no_door(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the secrets that keep something out; another one is not set."""
    (tmp_path / f"RELAY_{name}").write_text("\n")
    (line,) = mistakes(monkeypatch, {"RELAY_SECRETS_DIR": str(tmp_path)})
    assert line.startswith(f"{tmp_path / f'RELAY_{name}'}: is empty")


def test_file_of_a_directory_that_is_no_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "RELAY_APPS__DEFAULT__ENCRYPTKEY").write_text(SECRET)
    (line,) = mistakes(monkeypatch, {"RELAY_SECRETS_DIR": str(tmp_path)})
    assert line.endswith(
        "there is no such setting; the nearest is RELAY_APPS__DEFAULT__ENCRYPT_KEY"
    )


@pytest.mark.parametrize("name", ["ENCRYPT_KEY", "VERIFICATION_TOKEN", "PREVIOUS_ENCRYPT_KEY"])
@pytest.mark.parametrize("blank", [" ", "\t", " \n "])
def test_secret_of_blanks_is_refused(
    name: str, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(f"APPS__DEFAULT__{name}", blank, monkeypatch).endswith(": is blank")


@pytest.mark.parametrize("sign", list("#?[]/@\\ "))
@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@valkey",
        "redis://{}:p@valkey",
        "rediss://user:{}@valkey:6379/0",
        "redis+sentinel://user:{}@one:26379,two:26379/service",
        "redis+cluster://:{}@one:6379,two",
    ],
)
def test_password_in_the_claims_url_is_whole_or_refused(
    url: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of it may be taken for a host, or be shown."""
    refused("CLAIMS__URL", url.format(f"hun{sign}ter2"), monkeypatch)
    line = refused("CLAIMS__URL", url.format(f"{SECRET}{sign}{SECRET}"), monkeypatch)
    assert "ter2" not in line


def test_password_may_be_anything_when_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch, {"RELAY_CLAIMS__URL": "rediss://u%3A:a%23%3F%5B%40%2Fb:c@h:1/3"})
    store = found.claims.store
    assert (store.user, store.password) == ("u:", SecretStr("a#?[@/b:c"))
    assert (store.hosts, store.database, store.tls) == ((Endpoint("h", 1),), 3, True)
    assert "a#?" not in repr(store)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:@valkey",
        "redis://user:@valkey",
        "redis://@valkey",
        "redis://:%ff@valkey",
        "redis://valkey:port",
        "redis://valkey:0",
        "redis://valkey:65536",
        "redis://valkey:",
        "redis://:6379",
        "redis://",
        "redis://one,two",
        "rediss://one:1,two:2/0",
        "redis://valkey/zero",
        "redis://valkey/0/1",
        "redis://valkey/0?ssl=true",
        "redis://valkey#0",
        "redis://[::1",
        "redis://::1",
        "redis://[valkey]:6379",
        "redis://10.0.0.256",
        "redis+sentinel://one,two",
        "redis+sentinel://one/",
        "redis+sentinel://one/service/x",
        "redis+sentinel://one/service#1",
        "redis+cluster://one,two/1",
        "redis+cluster://one,,two",
        "valkey://valkey",
        "valkey:6379",
        "redis://a b",
    ],
)
def test_claims_url_that_leads_nowhere_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("CLAIMS__URL", url, monkeypatch)


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "rest"),
    [
        ("redis://[::1]", StoreKind.SERVER, [("::1", 6379)], ("", 0)),
        ("redis://:p@[fe80::2]:7/4", StoreKind.SERVER, [("fe80::2", 7)], ("", 4)),
        ("redis://127.0.0.1/", StoreKind.SERVER, [("127.0.0.1", 6379)], ("", 0)),
        (
            "redis+sentinel://a,[::1]:9/x/1",
            StoreKind.SENTINEL,
            [("a", 26379), ("::1", 9)],
            ("x", 1),
        ),
        ("rediss+cluster://a:1,b/0", StoreKind.CLUSTER, [("a", 1), ("b", 6379)], ("", 0)),
    ],
)
def test_claims_url_is_read_once(
    url: str,
    kind: StoreKind,
    hosts: list[tuple[str, int]],
    rest: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An IPv6 address stands in brackets, as in any URL."""
    store = load(monkeypatch, {"RELAY_CLAIMS__URL": url}).claims.store
    assert (store.kind, store.hosts) == (kind, tuple(Endpoint(*place) for place in hosts))
    assert (store.service, store.database) == rest


@pytest.mark.parametrize(
    "servers",
    [
        "kafka:port",
        "kafka:0",
        "kafka:65536",
        "kafka:-1",
        "a:1,b:two",
        "a:1,",
        ",a:1",
        "a:1;b:2",
        "kafka://a:1",
        "user:password@a:1",
        "::1:9092",
        "[::1:9092",
        "[kafka]:9092",
        "two words:9092",
        "a" * 64 + ":1",
        "300.1.1.1:9092",
        ":9092",
    ],
)
def test_brokers_that_are_none_are_refused(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("KAFKA__BOOTSTRAP_SERVERS", servers, monkeypatch)


def test_brokers_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = "kafka-1.kafka_net.svc.:9093, [::1]:1,10.0.0.1"
    found = load(monkeypatch, {"RELAY_KAFKA__BOOTSTRAP_SERVERS": servers}).kafka
    places = [str(broker) for broker in found.brokers]
    assert places == ["kafka-1.kafka_net.svc.:9093", "[::1]:1", "10.0.0.1:9092"]
    assert found.bootstrap_servers == servers.replace(" ", "")


@pytest.mark.parametrize("name", ["WEBHOOK__HOST", "ADMIN__HOST"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1,10.0.0.1", "127.0.0.1:8080", "[::1]", "http://localhost", "a b", "1.2.3"]
)
def test_listener_has_one_host(name: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(name, host, monkeypatch)


@pytest.mark.parametrize("name", ["key_prefix", "replica", "after"])
@pytest.mark.parametrize("text", ["a b", "a\tb", "a\u0000b", "a\u202eb"])
def test_name_in_a_key_can_be_seen(name: str, text: str) -> None:
    with pytest.raises(ValidationError, match="no blanks and no control characters"):
        Claims.model_validate({name: text})


def test_no_collector_is_one_too() -> None:
    assert Traces.model_validate({"endpoint": ""}).endpoint == ""


def test_empty_host_is_not_everywhere(tmp_path: Path) -> None:
    """In the TOML file, where empty is a value: the admin port would be open to all."""
    file = tmp_path / "relay.toml"
    file.write_text(
        '[apps.default]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers = "b"\n[admin]\nhost = ""\n'
    )
    with pytest.raises(SettingsError, match=r"^admin\.host \(RELAY_ADMIN__HOST\): must be one"):
        settings.load(file)


@pytest.mark.parametrize("name", ["WEBHOOK__PORT", "ADMIN__PORT"])
@pytest.mark.parametrize("port", ["http", "-1", "65536", "80.5", "8080,8081", "tcp://10.0.0.1:80"])
def test_listener_has_one_port(name: str, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(name, port, monkeypatch)


@pytest.mark.parametrize(
    "hosts", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "::")]
)
def test_listeners_have_a_port_each(
    hosts: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: Variables = {
        "RELAY_WEBHOOK__HOST": hosts[0],
        "RELAY_ADMIN__HOST": hosts[1],
        "RELAY_WEBHOOK__PORT": "8000",
        "RELAY_ADMIN__PORT": "8000",
    }
    assert mistakes(monkeypatch, changes) == [
        "admin (RELAY_ADMIN): has the port of the webhook; each needs its own"
    ]
    monkeypatch.setenv("RELAY_WEBHOOK__HOST", "127.0.0.1")
    monkeypatch.setenv("RELAY_ADMIN__HOST", "127.0.0.2")
    assert settings.load().admin.port == 8000


@pytest.mark.parametrize(
    "url",
    [
        "https://open.feishu.cn:https",
        "https://one,two",
        "https://open.feishu.cn/open-apis",
        "https://open.feishu.cn?x=1",
        "https://user:password@open.feishu.cn",
        "https://",
        "https://:443",
        "ftp://open.feishu.cn",
        "open.feishu.cn",
    ],
)
def test_feishu_is_at_one_place(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("FEISHU_URL", url, monkeypatch)
    monkeypatch.delenv("RELAY_FEISHU_URL")
    refused("APPS__DEFAULT__FEISHU_URL", url, monkeypatch)


def test_each_app_may_have_a_feishu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that names none has that of all; an empty variable names none."""
    found = load(
        monkeypatch,
        {
            "RELAY_FEISHU_URL": "https://feishu",
            "RELAY_APPS__LARK__ENCRYPT_KEY": "k",
            "RELAY_APPS__LARK__FEISHU_URL": "https://lark:1",
            "RELAY_APPS__OTHER__ENCRYPT_KEY": "k",
            "RELAY_APPS__OTHER__FEISHU_URL": "",
        },
    )
    places = {name: found.feishu(app) for name, app in found.apps.items()}
    assert places == {
        "default": "https://feishu",
        "lark": "https://lark:1",
        "other": "https://feishu",
    }


@pytest.mark.parametrize("url", ["http://127.0.0.1:7070", "https://[::1]:1/", "https://a.b/"])
def test_feishu_may_be_elsewhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, {"RELAY_FEISHU_URL": url}).feishu_url == url


@pytest.mark.parametrize(
    "url", ["collector:4318", "http://collector:port/v1/traces", "http://a,b/v1", "http:///v1"]
)
def test_collector_is_at_one_place(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("TRACES__ENDPOINT", url, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "JOURNAL__DEDUPE_WINDOW",
        "KAFKA__TIMEOUT",
        "KAFKA__IDLE_TIMEOUT",
        "CLAIMS__TIMEOUT",
        "WEBHOOK__READ_TIMEOUT",
        "WEBHOOK__IDLE_TIMEOUT",
        "DRAIN__DELAY",
        "DRAIN__TIMEOUT",
    ],
)
@pytest.mark.parametrize(
    "value", ["inf", "-inf", "nan", "Infinity", "1e999", "1e300", "-1", "9" * 400 + "d", "1.2.3s"]
)
def test_time_is_a_number_of_seconds(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(name, value, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "JOURNAL__DEDUPE_WINDOW",
        "KAFKA__TIMEOUT",
        "KAFKA__IDLE_TIMEOUT",
        "CLAIMS__TIMEOUT",
        "WEBHOOK__READ_TIMEOUT",
        "WEBHOOK__IDLE_TIMEOUT",
    ],
)
@pytest.mark.parametrize("value", ["0", "0s", "0.0", "1e-9", "0ms"])
def test_no_time_at_all_is_no_limit(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(name, value, monkeypatch)


@pytest.mark.parametrize(
    "name", ["WEBHOOK__MAX_BODY_BYTES", "JOURNAL__MAX_BYTES", "JOURNAL__MAX_WAITING"]
)
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "9" * 400 + "GiB", "9" * 30, "0 B"])
def test_size_is_a_number_of_bytes(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(name, value, monkeypatch)


@pytest.mark.parametrize("literal", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("place", ["journal.dedupe_window", "webhook.read_timeout"])
def test_time_in_the_file_is_a_number_too(place: str, literal: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(
        f'{place} = {literal}\n[apps.default]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers = "b"'
    )
    with pytest.raises(SettingsError, match=f"^{place} "):
        settings.load(file)


@pytest.mark.parametrize("path", ["/", "..", "a\0b"])
def test_journal_is_a_file(path: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    text = path.replace("\0", "\\u0000")
    file.write_text(
        f'journal.path = "{text}"\n[apps.default]\nencrypt_key = "k"\n'
        '[kafka]\nbootstrap_servers = "b"'
    )
    with pytest.raises(SettingsError, match="must name a file"):
        settings.load(file)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ('{"other": "."}', "Kafka takes no topic"),
        ('{"other": ".."}', "Kafka takes no topic"),
        ('{"other": "a b"}', "has letters"),
        ('{"other": "päng"}', "has letters"),
        ('{"other": "a/b"}', "has letters"),
        ('{"other": ""}', "has letters"),
        ('{"other": "' + "x" * 250 + '"}', "249"),
        ('{"im.x_v1": "__consumer_offsets"}', "Kafka's own"),
        ('{"other": "relay_journal"}', "journal's own"),
        ('{"dead_letter": "relay_journal"}', "journal's own"),
        ('{"other": "relay.journal"}', "the journal topic and other"),
        ('{"im.x_v1": "dead_letter"}', "im.x_v1 and dead_letter share"),
        ('{"dead_letter": "other"}', "other and dead_letter share"),
        (
            '{"dead_letter": "helpdesk.notification"}',
            "notification.approve_v1 and dead_letter share",
        ),
        ('{"im.x_v1": "helpdesk_notification"}', "differ in `.` and `_` only"),
        ('{"im.x_v1": "dead.letter"}', "dead_letter and im.x_v1"),
        ('{"im.x_v1": "a.b_c", "im.y_v1": "a_b.c"}', "im.x_v1 and im.y_v1"),
    ],
)
def test_topics_are_what_kafka_takes_and_each_for_itself(
    changes: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_KAFKA__TOPIC_PREFIX", "")
    assert named in refused("KAFKA__TOPICS", changes, monkeypatch)


@pytest.mark.parametrize(
    "name",
    ["*", "im*", "*.im", "im.*.x_v1", "im.**", "im.*.*", ".*", "", " ", "im. *", "im.", ".x"],
)
@pytest.mark.parametrize(("table", "value"), [("topics", "im"), ("keys", "chat_id")])
def test_one_wildcard_stands_behind_the_last_dot(
    name: str, table: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(f"KAFKA__{table.upper()}", json.dumps({name: value}), monkeypatch)
    assert "one wildcard behind its last dot: as im.*" in line


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ('"im.*": "a", "IM.*": "a"', "im.* and IM.* are alike"),
        ('"leave_approvalV2": "a", "leave_approvalv2": "b"', "are alike"),
        ('"im.*": "a", "im.*": "b"', '"im.*" stands in it twice'),
        ('"im.x_v1": "a", "im.x_v1": "a"', '"im.x_v1" stands in it twice'),
    ],
)
@pytest.mark.parametrize("table", ["TOPICS", "KEYS"])
def test_two_patterns_alike_are_a_mistake(
    names: str, said: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them holds would be a guess."""
    assert said in refused(f"KAFKA__{table}", "{" + names + "}", monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "twice"),
    [
        ("WEBHOOK", '{"port": 81, "port": 82}', "port"),
        ("KAFKA", '{"topics": {}, "topics": {"other": "x"}}', "topics"),
        ("KAFKA", '{"topics": {"other": "x", "other": "x"}}', "other"),
        ("APPS__DEFAULT", '{"app_id": "a", "app_id": "b"}', "app_id"),
    ],
)
def test_nothing_stands_twice_in_a_section_of_json(
    name: str, value: str, twice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of JSON takes the last, and the first is lost without a word."""
    assert f'"{twice}" stands in it twice' in refused(name, value, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('{"im.*": "a b"}', "im.*: a topic's name has letters"),
        ('{"im.*": "im.*"}', "im.*: a topic's name has letters"),
        ('{"im.*": ""}', "at least one"),
        ('{"im.*": ".."}', "Kafka takes no topic"),
        ('{"im.*": "' + "x" * 250 + '"}', "249"),
        ('{"im.*": "__transaction_state"}', "Kafka's own"),
        ('{"im.*": "relay_journal"}', "journal's own"),
        ('{"im.*": "dead_letter"}', "im.* and dead_letter share"),
        ('{"im.*": "dead.letter"}', "differ in `.` and `_` only"),
        ('{"im.*": "a.b", "drive.*": "a_b"}', "im.* and drive.* have topics"),
    ],
)
def test_topic_of_a_wildcard_is_what_kafka_takes(
    changes: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_KAFKA__TOPIC_PREFIX", "")
    assert said in refused("KAFKA__TOPICS", changes, monkeypatch)


def test_topic_that_no_type_has_any_more_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wildcard of the operator's goes before the defaults."""
    changes = {"helpdesk.*": "helpdesk_ticket"}
    loaded = load(monkeypatch, {"RELAY_KAFKA__TOPICS": json.dumps(changes)})
    assert Router(*loaded.kafka.routes).topics == [
        "feishu.dead_letter",
        "feishu.helpdesk_ticket",
        "feishu.other",
    ]


@pytest.mark.parametrize(
    "path",
    ["", " ", ".", "a.", ".a", "a..b", "a b", "a.*", "*", "mentions[0].id", "a\tb", "a. b"],
)
@pytest.mark.parametrize("name", ["im.message.receive_v1", "im.*"])
def test_path_of_a_key_names_fields(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused("KAFKA__KEYS", json.dumps({name: path}), monkeypatch)
    assert f"{name}: a path names fields below `event`" in line


@pytest.mark.parametrize("name", ["other", "dead_letter"])
def test_key_needs_an_event_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no event type" in refused("KAFKA__KEYS", json.dumps({name: "a"}), monkeypatch)


@pytest.mark.parametrize("value", ["[]", "1", '{"im.*": 1}', '{"im.*": ["a", "b"]}'])
def test_key_is_a_path_as_text(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("KAFKA__KEYS", value, monkeypatch)


def test_keys_can_be_set_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file, as one JSON object, and each by a variable of its own."""
    found = load(
        monkeypatch,
        {
            "RELAY_KAFKA__KEYS": '{"im.*": "chat_id", "leave_approvalV2": "instance_code"}',
            "RELAY_KAFKA__KEYS__IM.MESSAGE.RECEIVE_V1": "message.chat_id",
        },
    )
    assert found.kafka.keys == {
        "im.*": "chat_id",
        "leave_approvalV2": "instance_code",
        "im.message.receive_v1": "message.chat_id",
    }


def test_prefix_alone_is_no_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "at least one" in refused("KAFKA__TOPICS", '{"other": ""}', monkeypatch)


def test_every_topic_that_will_not_do_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = '{"im.x_v1": "dead_letter", "im.y_v1": "relay_journal", "im.z_v1": "a b"}'
    found = mistakes(monkeypatch, {"RELAY_KAFKA__TOPICS": changes, "RELAY_WEBHOOK__PORT": "x"})
    assert len(found) == 4


@pytest.mark.parametrize("length", [249 - len("helpdesk.ticket_message") + 1, 249, 300])
def test_prefix_counts_in_the_length_of_each_topic(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mistakes(monkeypatch, {"RELAY_KAFKA__TOPIC_PREFIX": "p" * length})
    assert found
    assert all("249" in line for line in found)


def test_topics_may_be_shared_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a ticket on one topic keeps its order."""
    shared = '{"helpdesk.ticket_message.created_v1": "helpdesk.ticket", "im.x_v1": "other"}'
    changes: Variables = {
        "RELAY_KAFKA__TOPICS": shared,
        "RELAY_KAFKA__TOPIC_PREFIX": "p" * (249 - len("helpdesk.notification")),
    }
    assert "im.x_v1" in load(monkeypatch, changes).kafka.topics


def test_defaults_are_the_types_that_relay_knows() -> None:
    assert set(topics.DEFAULTS) == {*EVENT_TYPES, topics.OTHER, topics.DEAD_LETTER}
    assert not list(topics.mistakes("", {}))
    assert Router("", {}).topic("helpdesk.ticket.created_v1") == "helpdesk.ticket"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KAFFKA__TOPIC_PREFIX", "KAFKA__TOPIC_PREFIX"),
        ("KAFKA__BOOTSTRAP_SERVER", "KAFKA__BOOTSTRAP_SERVERS"),
        ("KAFKA__TOPICPREFIX", "KAFKA__TOPIC_PREFIX"),
        ("APP__DEFAULT__ENCRYPT_KEY", "APPS__DEFAULT__ENCRYPT_KEY"),
        ("APPS__HR__ENCRYPTKEY", "APPS__HR__ENCRYPT_KEY"),
        ("APPS__HR___ENCRYPT_KEY", "APPS__HR__ENCRYPT_KEY"),
        ("APPS__HR__ENCRYPT__KEY", "APPS__HR__ENCRYPT_KEY"),
        ("WEBHOOKS__PORT", "WEBHOOK__PORT"),
        ("WEB__HOOK__PORT", "WEBHOOK__PORT"),
        ("JOURNAL__DEDUP_WINDOW", "JOURNAL__DEDUPE_WINDOW"),
        ("KAFKA__SASL_PASWORD_FILE", "KAFKA__SASL_PASSWORD_FILE"),
        ("FEISHU__URL", "FEISHU_URL"),
        ("FEISHU_URL__X", "FEISHU_URL"),
        ("LOG__LEVEL__X", "LOG__LEVEL"),
    ],
)
@pytest.mark.parametrize("value", ["x", ""])
def test_variable_that_sets_nothing_is_named_with_the_nearest(
    name: str, nearest: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `__` in it no variable is of Kubernetes' making."""
    line = refused(name, value, monkeypatch)
    assert line.endswith(f"there is no such setting; the nearest is RELAY_{nearest}")


def test_name_in_the_file_that_sets_nothing_is_named_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(
        '[apps.default]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers = "b"\ntopicprefix = "x"\n'
        "[jurnal]\nmax_bytes = 3\n"
    )
    with pytest.raises(SettingsError) as caught:
        settings.load(file)
    section, name = sorted(str(caught.value).splitlines())
    assert section.endswith("there is no such setting; the nearest is RELAY_JOURNAL")
    assert name.startswith("kafka.topicprefix (RELAY_KAFKA__TOPICPREFIX): ")
    assert name.endswith("the nearest is RELAY_KAFKA__TOPIC_PREFIX")


@pytest.mark.parametrize("name", ["hr__desk", "hr_", "__", "_", "a__", "__a"])
def test_app_has_a_name_that_a_variable_can_hold(name: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f'[apps.{name}]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers = "b"\n')
    with pytest.raises(SettingsError, match=r"no __ and no _ at its end") as caught:
        settings.load(file)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [("KAFKA__TOPIC_PREFIX", "topic_prefix"), ("CLAIMS__KEY_PREFIX", "key_prefix")],
)
def test_no_prefix_is_a_prefix(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, and not the default."""
    found = load(monkeypatch, {f"RELAY_{name}": ""})
    assert getattr(getattr(found, name.split("__", maxsplit=1)[0].lower()), path) == ""


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("claims", "url", "redis://valkey"),
        ("claims", "after", "relay-0"),
        ("apps.default", "previous_encrypt_key", SECRET),
        ("kafka", "sasl_username", "u"),
        ("traces", "endpoint", "http://collector:4318/v1/traces"),
    ],
)
def test_empty_variable_over_a_value_of_the_file_is_refused(
    section: str, name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be meant to switch that off; passed over, it would not."""
    file = tmp_path / "relay.toml"
    parts = {"apps.default": 'encrypt_key = "k"', "kafka": 'bootstrap_servers = "b"'}
    parts[section] = f'{parts.get(section, "")}\n{name} = "{value}"'
    file.write_text("\n".join(f"[{head}]\n{body}" for head, body in parts.items()))
    settings.load(file)
    variable = "RELAY_" + "__".join([*section.split("."), name]).upper()
    monkeypatch.setenv(variable, "")
    with pytest.raises(SettingsError) as caught:
        settings.load(file)
    assert str(caught.value) == (
        f"{section}.{name} ({variable}): is empty, but the file has a value: "
        "unset the variable, or empty the value there"
    )


@pytest.mark.parametrize("name", ["APPS__DEFAULT__ENCRYPT_KEY", "KAFKA__SASL_USERNAME", "KAFKA"])
def test_bytes_that_are_no_text_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process gets them from a shell: they could neither sign nor be sent."""
    assert refused(name, "k\udcff", monkeypatch).endswith("is not UTF-8")


def test_empty_variable_is_not_set_where_empty_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(
        'webhook.port = 81\n[apps.a]\nencrypt_key = "k"\n[kafka]\nbootstrap_servers="b"'
    )
    for name in ("WEBHOOK__PORT", "KAFKA__BOOTSTRAP_SERVERS", "CLAIMS__URL", "APPS", "KAFKA"):
        monkeypatch.setenv(f"RELAY_{name}", "")
    assert settings.load(file).webhook.port == 81


@pytest.mark.parametrize("name", ["APPS", "APPS__DEFAULT", "KAFKA", "KAFKA__TOPICS", "WEBHOOK"])
@pytest.mark.parametrize("value", ["{", "[]", "text", "3", "[" * 100_000])
def test_section_in_one_variable_is_a_json_object(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(name, value, monkeypatch)


def test_section_in_one_variable_goes_below_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = '{"partitions": 3, "topics": {"other": "a", "im.x_v1": "x"}}'
    found = load(
        monkeypatch,
        {
            "RELAY_KAFKA": kafka,
            "RELAY_KAFKA__PARTITIONS": "5",
            "RELAY_KAFKA__TOPICS__OTHER": "b",
            "RELAY_APPS__HR": '{"encrypt_key": "k"}',
        },
    )
    assert (found.kafka.partitions, found.kafka.topics) == (5, {"other": "b", "im.x_v1": "x"})
    assert sorted(found.apps) == ["default", "hr"]


def test_all_kinds_of_mistakes_stand_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None waits for the next try."""
    empty = tmp_path / "empty"
    empty.write_text("")
    found = mistakes(
        monkeypatch,
        {
            "RELAY_APPS__DEFAULT__APP_SECRET_FILE": str(empty),
            "RELAY_APPS__HR__VERIFICATION_TOKEN_FILE": str(tmp_path / "nothing"),
            "RELAY_APPS__BARE__APP_ID": "cli_a",
            "RELAY_APPS__FAR__LONG_CONNECTION": "true",
            "RELAY_KAFFKA__PARTITIONS": "3",
            "RELAY_KAFKA__BOOTSTRAP_SERVERS": "kafka:port",
            "RELAY_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "RELAY_KAFKA__CERT_FILE": "cert.pem",
            "RELAY_KAFKA__TOPICS": '{"other": "dead_letter"}',
            "RELAY_CLAIMS__URL": f"redis://:{SECRET}#@valkey",
            "RELAY_JOURNAL__DEDUPE_WINDOW": "inf",
            "RELAY_WEBHOOK": "text",
            "RELAY_FEISHU_URL": "https://a:b",
        },
    )
    assert sorted(line.split(":")[0] for line in found) == [
        str(empty),
        str(tmp_path / "nothing"),
        "apps.bare (RELAY_APPS__BARE)",
        "apps.far (RELAY_APPS__FAR)",
        "claims.url (RELAY_CLAIMS__URL)",
        "feishu_url (RELAY_FEISHU_URL)",
        "journal.dedupe_window (RELAY_JOURNAL__DEDUPE_WINDOW)",
        "kaffka.partitions (RELAY_KAFFKA__PARTITIONS)",
        "kafka (RELAY_KAFKA)",
        "kafka (RELAY_KAFKA)",
        "kafka.bootstrap_servers (RELAY_KAFKA__BOOTSTRAP_SERVERS)",
        "kafka.topics (RELAY_KAFKA__TOPICS)",
        "webhook (RELAY_WEBHOOK)",
    ]


def test_file_that_cannot_be_read_hides_no_mistake_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what may stand in it is not missed."""
    file = tmp_path / "relay.toml"
    file.write_text("[kafka\n")
    monkeypatch.setenv("RELAY_WEBHOOK__PORT", "text")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__APP_ID", "cli_a")
    with pytest.raises(SettingsError) as caught:
        settings.load(file)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{file}: not TOML: ")
    assert second.startswith("webhook.port (RELAY_WEBHOOK__PORT): ")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1", "soon"])
def test_drain_ends_some_time(seconds: str) -> None:
    done = CliRunner().invoke(cli.app, ["drain", "--timeout", seconds])
    assert done.exit_code == 2


@pytest.mark.parametrize("command", [["serve"], ["check"], ["tail"], ["drain"], ["events", "list"]])
def test_command_ends_with_2_and_a_line_each(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RELAY_WEBHOOK__PORT", "text")
    monkeypatch.setenv("RELAY_KAFFKA__X", "y")
    monkeypatch.setattr("sys.argv", ["relay", *command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    *mistakes, advice = said.splitlines()
    assert len(mistakes) == 3
    assert advice.startswith(
        "Next: mend each line; relay init writes a first file, relay config show "
    )
    assert SECRET not in said


@pytest.mark.parametrize(
    "value", ['{"": "1"}', '{"a b": "1"}', '{"a..b": 1}', '{"Retention.ms": 1}', '{"a": [1]}', "5"]
)
def test_setting_of_topics_that_kafka_cannot_have_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("KAFKA__TOPIC_CONFIG", value, monkeypatch)


@pytest.mark.parametrize(
    "value",
    ["login.example.com/token", "ftp://a/token", "https://", "https://u:p@a/t", "http://a/#t"],
)
def test_tokens_come_from_a_url(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("KAFKA__OAUTH_TOKEN_URL", value, monkeypatch)


@pytest.mark.parametrize(
    "value",
    ['{"a b": "c"}', '{"auth": "c"}', '{"a": "b\\u0001c"}', '{"a": "\u00e4"}', '{"a1": "b"}'],
)
def test_extensions_are_what_the_rfc_takes(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("KAFKA__OAUTH_EXTENSIONS", value, monkeypatch)


TOKEN = {"OAUTH_TOKEN_URL": "https://a/t", "OAUTH_CLIENT_ID": "i", "OAUTH_CLIENT_SECRET": SECRET}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "oauth_token_file or oauth_token_url, one of them"),
        ({**TOKEN, "OAUTH_TOKEN_FILE": "/token"}, "oauth_token_file or oauth_token_url, one of"),
        (
            {**TOKEN, "OAUTH_CLIENT_ID": ""},
            "oauth_token_url needs oauth_client_id and oauth_client",
        ),
        ({**TOKEN, "OAUTH_CLIENT_SECRET": ""}, "oauth_token_url needs oauth_client_id and oauth"),
        (TOKEN, ""),
        ({"OAUTH_TOKEN_FILE": "/token"}, ""),
        # The mistake itself is enough.
        ({**TOKEN, "OAUTH_TOKEN_URL": "a"}, "must be a URL"),
    ],
)
def test_login_with_a_token_is_whole(
    given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without user and password; one sentence, not several."""
    usual = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"}
    changes: Variables = {f"RELAY_KAFKA__{name}": value for name, value in (usual | given).items()}
    if not said:
        load(monkeypatch, changes)
        return
    with pytest.raises(SettingsError, match=said) as caught:
        load(monkeypatch, changes)
    assert len(str(caught.value).splitlines()) == 1
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("there", "region", "said"),
    [
        (False, "eu-central-1", "needs AWS' signer: requirements/msk.txt"),
        (True, "", "needs the region: AWS_REGION or AWS_DEFAULT_REGION in the environment"),
        (True, "eu-central-1", ""),
    ],
)
def test_login_at_msk_needs_the_signer_and_a_region(
    there: bool,  # noqa: FBT001
    region: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(login, "find_spec", lambda _: there or None)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    changes = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "AWS_MSK_IAM"}
    asked: Variables = {f"RELAY_KAFKA__{name}": value for name, value in changes.items()}
    if not said:
        load(monkeypatch, asked)
        return
    with pytest.raises(SettingsError, match=said):
        load(monkeypatch, asked)


TOKENS = ("VERIFICATION_TOKEN", "PREVIOUS_VERIFICATION_TOKEN")


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("long_connection", ["true", "false"])
def test_token_alone_does_not_do_where_everything_is_to_be_signed(
    token: str, long_connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is missing by mistake must not open the door to bodies without a signature."""
    given: Variables = {
        "RELAY_APPS__DESK__SIGNED": "true",
        f"RELAY_APPS__DESK__{token}": SECRET,
        "RELAY_APPS__DESK__LONG_CONNECTION": long_connection,
        "RELAY_APPS__DESK__APP_ID": "cli_a",
        "RELAY_APPS__DESK__APP_SECRET": SECRET,
    }
    (line,) = mistakes(monkeypatch, given)
    assert line.startswith("apps.desk (RELAY_APPS__DESK): signed asks for an encrypt_key")


@pytest.mark.parametrize("key", ["ENCRYPT_KEY", "PREVIOUS_ENCRYPT_KEY"])
def test_key_is_what_signed_asks_for(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SIGNED", "true"), (key, SECRET), ("VERIFICATION_TOKEN", SECRET)):
        monkeypatch.setenv(f"RELAY_APPS__DESK__{name}", value)
    assert load(monkeypatch, {}).apps["desk"].signed


def test_app_that_takes_no_body_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events come over the long connection alone, whatever `signed` says."""
    values = {"SIGNED": "true", "LONG_CONNECTION": "true", "APP_ID": "a", "APP_SECRET": SECRET}
    for name, value in values.items():
        monkeypatch.setenv(f"RELAY_APPS__DESK__{name}", value)
    assert load(monkeypatch, {}).apps["desk"].signed
