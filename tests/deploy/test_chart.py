"""The chart: what it renders is valid, safe and accepted by relay, and its papers are true."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from pydantic import BaseModel, SecretStr

from relay import settings
from relay.errors import SettingsError
from tests.deploy.tools import (
    CACHE,
    CHART,
    HELM,
    KUBECONFORM,
    ROOT,
    UNITTEST,
    go_tool,
    needed,
    run,
)

#: Whose custom resources the chart makes: module, version, folder, files.
RESOURCES = (
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd",
        ("servicemonitors", "prometheusrules"),
    ),
    ("sigs.k8s.io/gateway-api", "v1.3.0", "config/crd/standard", ("httproutes",)),
)
KUBERNETES = ("1.30", "1.34")
#: Helm as `go install` makes it takes a cluster for older than all of these.
AT = ("--kube-version", KUBERNETES[-1])
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
#: Values of the chart before this one: all defaults, and all that its users could set.
RELEASED = ROOT / "tests" / "deploy" / "released"
NAMES = [path.name.removesuffix("-values.yaml") for path in VALUES]

#: Of the API, that the chart makes.
KINDS = (
    *("configmap-v1", "pod-v1", "secret-v1", "service-v1", "serviceaccount-v1"),
    *("statefulset-apps-v1", "job-batch-v1", "poddisruptionbudget-policy-v1"),
    *("horizontalpodautoscaler-autoscaling-v2", "ingress-networking-v1"),
    "networkpolicy-networking-v1",
)

#: Seconds; on a new machine the first of these tests builds Helm.
pytestmark = pytest.mark.timeout(600)

Object = dict[str, Any]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give one that collects no garbage, on one core: each of hundreds lives for a moment."""
    path = tmp_path_factory.mktemp("helm") / "helm"
    path.write_text(f'#!/bin/sh\nGOGC=off GOMAXPROCS=1 exec "{go_tool(*HELM)}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def render(helm: str, *arguments: str) -> list[Object]:
    """Give the objects that would be installed, tests included."""
    text = run([helm, "template", *AT, "relay", str(CHART), "--namespace", "desk", *arguments])
    return [made for made in yaml.load_all(text, yaml.CSafeLoader) if made]


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """Give the object of a kind."""
    (found,) = [
        made
        for made in objects
        if made["kind"] == kind and name in {None, made["metadata"]["name"]}
    ]
    return found


def config(objects: list[Object]) -> str:
    """Give relay.toml."""
    return str(one(objects, "ConfigMap", "relay")["data"]["relay.toml"])


def load(objects: list[Object], path: Path, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """Load what a pod would, with stand-ins for Secrets that others make."""
    secrets = path / "secrets"
    secrets.mkdir()
    stateful = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    made = {
        s["metadata"]["name"]: s["data"] for s in objects if s["kind"] == "Secret" and "data" in s
    }
    (volume,) = [volume for volume in stateful["volumes"] if volume["name"] == "secrets"]
    for source in volume["projected"]["sources"]:
        for item in source["secret"].get("items", ()):
            stand_in = {"url": "redis://valkey", "salt": "s" * 32}.get(item["key"], "s" * 8)
            (secrets / item["path"]).write_text(stand_in)
        for name, value in made.get(source["secret"]["name"], {}).items():
            (secrets / name).write_bytes(base64.b64decode(value))
    (path / "relay.toml").write_text(config(objects))
    monkeypatch.setenv("RELAY_SECRETS_DIR", str(secrets))
    return settings.load(path / "relay.toml")


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_lint(helm: str, values: Path) -> None:
    run([helm, "lint", *AT, "--strict", str(CHART), "--values", str(values)])


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_objects_are_valid(helm: str, values: Path, tmp_path: Path) -> None:
    """By the API's own schemas, and those of the custom resources; unknown fields are mistakes."""
    rendered = tmp_path / "objects.yaml"
    rendered.write_text(yaml.safe_dump_all(render(helm, "--values", str(values))))
    custom = str(_custom_schemas()) + "/{{.ResourceKind}}{{.KindSuffix}}.json"
    ours = str(ROOT / "tests/deploy/schemas") + "/{{.ResourceKind}}{{.KindSuffix}}.json"
    for version in KUBERNETES:
        api = str(_api_schemas(version)) + "/{{.ResourceKind}}{{.KindSuffix}}.json"
        locations = [part for at in (api, custom, ours) for part in ("-schema-location", at)]
        run([go_tool(*KUBECONFORM), "-strict", *locations, str(rendered)])


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_relay_accepts_its_settings(
    helm: str, values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And finds each of its secrets where they are mounted."""
    loaded = load(render(helm, "--values", str(values)), tmp_path, monkeypatch)
    for name, app in yaml.safe_load(values.read_text())["apps"].items():
        assert bool(loaded.apps[name].encrypt_keys) is (
            "encryptKey" in app or "existingSecret" in app
        )


def test_every_setting_is_reachable(
    helm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a value of its own or by `settings`: each gets another value than its default."""
    default = settings.Settings.model_validate(
        {"apps": {"default": {"encrypt_key": "k"}}, "kafka": {"bootstrap_servers": "x"}}
    )
    wanted = yaml.safe_load(EVERY_SETTING)
    (tmp_path / "values.yaml").write_text(EVERY_SETTING)
    loaded = load(render(helm, "--values", str(tmp_path / "values.yaml")), tmp_path, monkeypatch)
    plain, changed = dict(_leaves(default)), dict(_leaves(loaded))
    assert wanted["kafka"]["partitions"] == changed["kafka.partitions"]
    # Where a pod's name is the value, a rendered file cannot show it.
    same = {name for name, value in changed.items() if plain.get(name) == value}
    assert same == {"claims.replica", "claims.after"}


def _leaves(model: BaseModel, path: str = "") -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            yield path + name, value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _leaves(value, f"{path}{name}.")
        elif name == "apps":
            yield from _leaves(value["default"], f"{path}apps.")
        else:
            yield path + name, value


EVERY_SETTING = """
kafka:
  bootstrapServers: kafka:9093
  delivery: at-least-once
  topicPrefix: desk.
  createTopics: false
  deadLetterValue: false
  partitions: 3
  replicationFactor: 3
  securityProtocol: SASL_SSL
  saslMechanism: SCRAM-SHA-256
  saslUsername: relay
  saslPassword: password
  oauth:
    {tokenUrl: "https://login.example.com/token", clientId: relay, clientSecret: secret,
     scope: kafka}
  tlsSecret: kafka-tls
  mutualTls: true
apps:
  default:
    appId: cli_a
    appSecret: secret
    encryptKey: key
    previousEncryptKey: key-before
    verificationToken: token
    previousVerificationToken: token-before
    longConnection: true
    signed: true
    helpdeskId: "6626871355780366000"
    feishuUrl: https://open.example.com
    helpdeskToken: helpdesk-token
claims:
  url: redis+sentinel://valkey:26379/service
  sentinelPassword: sentinels
  onOutage: publish
privacy: {drop: [email], hash: [open_id], salt: 0123456789abcdef0123456789abcdef}
drain: {delay: 6s, timeout: 26s}
console: {password: a-long-password-of-operators}
settings:
  feishu_url: https://open.larksuite.com
  kafka:
    {topics: {other: unsorted, im.*: chats}, keys: {im.*: chat_id}, timeout: 20s, idle_timeout: 2m,
     topic_config: {retention.ms: "86400000"}, compression: zstd, oauth_token_file: /etc/token,
     oauth_extensions: {logicalCluster: lkc-1}}
  claims:
    {key_prefix: "desk:", ca_file: /etc/ca.pem, cert_file: /etc/tls.pem, key_file: /etc/key.pem,
     sentinel_username: relay, timeout: 1s}
  webhook: {host: 127.0.0.1, port: 8081, max_body_bytes: 2MiB, read_timeout: 5s, idle_timeout: 5m}
  admin: {host: "::", port: 9091}
  journal:
    {path: /data/journal.db, max_bytes: 4GiB, dedupe_window: 48h, max_waiting: 1024,
     network_volume: true}
  log: {level: debug, format: console}
  console: {host: "::1", port: 9092, peers: "relay-headless:9092"}
  traces: {endpoint: "http://collector:4318/v1/traces"}
"""


#: Those that are no app's: `settings.apps` is refused as a whole.
SECRET_SETTINGS = [
    f"{section}.{name}"
    for section, field in settings.Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    for name, inner in field.annotation.model_fields.items()
    if inner.annotation is SecretStr
]


@pytest.mark.parametrize("name", [*SECRET_SETTINGS, "apps.default.encrypt_key"])
def test_no_secret_gets_into_the_config_map(helm: str, name: str) -> None:
    """Each that relay knows has a value of its own, or a Secret."""
    minimal = ["--values", str(CHART / "ci" / "minimal-values.yaml")]
    done = subprocess.run(
        [helm, "template", *AT, "relay", str(CHART), *minimal, "--set", f"settings.{name}=p4ss"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no secrets there" in done.stderr
    assert not done.stdout


def test_unit_tests_of_the_chart() -> None:
    """Each guard and each optional object (deploy/helm/tests)."""
    run([go_tool(*UNITTEST), "--strict", str(CHART)])


def test_four_values_must_be_set(helm: str) -> None:
    """Without any one of the three that have no default nothing is installed."""
    asked = {
        "kafka.bootstrapServers": "kafka:9092",
        "apps.default.encryptKey": "k",
        "apps.default.verificationToken": "t",
        "image.repository": "registry/relay",
    }
    arguments = [part for name, value in asked.items() for part in ("--set", f"{name}={value}")]
    assert {made["kind"] for made in render(helm, *arguments)} >= {"StatefulSet", "Service"}
    bare = subprocess.run(
        [helm, "template", *AT, "relay", str(CHART)], capture_output=True, text=True, check=False
    )
    assert bare.returncode
    assert "kafka.bootstrapServers must be set" in bare.stderr


def test_value_that_does_not_exist_is_refused(helm: str) -> None:
    """A misspelt name must not be passed over."""
    minimal = ["--values", str(CHART / "ci" / "minimal-values.yaml")]
    for name in (
        "replicas=3",
        "kafka.bootstrap=x",
        "persistence.enabled=maybe",
        "apps.default.key=k",
    ):
        done = subprocess.run(
            [helm, "template", *AT, "relay", str(CHART), *minimal, "--set", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode, name


#: A value of the chart, the variable that it becomes, and what neither takes, or both.
REFUSED = [
    *(
        ("kafka.bootstrapServers", "KAFKA__BOOTSTRAP_SERVERS", value)
        for value in (
            *("kafka:port", "kafka:0", "kafka:65536", "a:1,", "a:1;b:2", "kafka://a:1", "::1:9092"),
            *("[kafka]:9092", "user:p4ss@a:1", "two words", "10.0.0.256", "1.2.3"),
        )
    ),
    *(
        ("claims.url", "CLAIMS__URL", value)
        for value in (
            *("redis://:p4ss#w@valkey", "redis://:p4ss?w@valkey", "redis://:p4ss[w@valkey"),
            *("redis://:p4ss@w@valkey", "redis://:p4ss/w@valkey", "redis://user:@valkey"),
            *("redis://:@valkey", "redis://valkey:port", "redis://one,two", "redis://valkey/zero"),
            *("redis+sentinel://one,two", "redis+cluster://one,two/1", "valkey://valkey"),
            *("redis://[::1", "redis://::1", "redis://valkey?ssl=true", "redis://valkey:0"),
        )
    ),
    *(("kafka.topicPrefix", "KAFKA__TOPIC_PREFIX", value) for value in ("a b.", "ä.", "p" * 240)),
    ("kafka.partitions", "KAFKA__PARTITIONS", 2**31),
    ("kafka.replicationFactor", "KAFKA__REPLICATION_FACTOR", 2**15),
    *(
        (f"drain.{name}", f"DRAIN__{name.upper()}", value)
        for name in ("delay", "timeout")
        for value in ("2d", "1.2.3s", "inf", 86401, -1)
    ),
    *(
        (f"settings.{name}", name.replace(".", "__").upper(), value)
        for name, value in (
            ("kafka.timeout", 0),
            ("kafka.colour", "red"),
            ("kaffka.timeout", "1s"),
            ("claims.timeout", "inf"),
            ("journal.dedupe_window", 3600),
            ("webhook.read_timeout", 0),
            ("webhook.max_body_bytes", 0),
            ("webhook.port", 9090),
            ("admin.port", 8080),
            ("log.level", "loud"),
            ("log.format", "jason"),
            ("kafka.create_topics", "maybe"),
            ("kafka.dead_letter_value", 2),
            ("kafka.partitions", "a dozen"),
            ("kafka.oauth_token_url", "login.example.com/token"),
            ("kafka.timeout", "10ms"),
            ("claims.timeout", "2m"),
            ("claims.key_prefix", "a b"),
            ("journal.dedupe_window", "1h"),
            ("journal.max_bytes", "8 GB"),
            ("webhook.host", "two words"),
            ("admin.host", "http://here"),
            ("feishu_url", "open.feishu.cn"),
            ("traces.endpoint", "collector:4318"),
            ("privacy.drop", ["mail"]),
            ("kafka.topics", {"other": "relay_journal"}),
            ("kafka.topics", {"other": "dead_letter"}),
            ("kafka.topics", {"im.x_v1": "dead.letter"}),
            ("kafka.topics", {"im.x_v1": "relay.journal"}),
            ("kafka.topics", {"im.x_v1": "a.b", "im.y_v1": "a_b"}),
            ("kafka.topics", {"other": "a b"}),
            ("kafka.topics", {"other": ""}),
            ("kafka.topics", {"other": "x" * 250}),
            ("kafka.topics", {"im.*": "a b"}),
            ("kafka.topics", {"im.*": "relay_journal"}),
            ("kafka.topics", {"*": "all"}),
            ("kafka.topics", {"im*": "im"}),
            ("kafka.topics", {"im.*.x": "im"}),
            ("kafka.topics", {"im.*": "im", "IM.*": "im"}),
            ("kafka.keys", {"im.x_v1": ""}),
            ("kafka.keys", {"im.x_v1": "a..b"}),
            ("kafka.keys", {"im.*": "mentions[0]"}),
            ("kafka.keys", {"other": "a"}),
            ("kafka.keys", {"i m.x": "a"}),
        )
    ),
    ("apps.hr_.encryptKey", None, "k"),
    ("apps.hr__desk.encryptKey", None, "k"),
    ("apps.default.encryptKey", "APPS__DEFAULT__ENCRYPT_KEY", "  "),
]
TAKEN = [
    ("kafka.bootstrapServers", "KAFKA__BOOTSTRAP_SERVERS", "[::1]:1,10.0.0.1:65535, a_b.c-d.:9,x"),
    ("claims.url", "CLAIMS__URL", "rediss://u:p%23:x@[::1]:6380/3"),
    ("claims.url", "CLAIMS__URL", "redis://:p4ss@valkey"),
    ("claims.url", "CLAIMS__URL", "redis+sentinel://u:p@one,two:26380/service/1"),
    ("claims.url", "CLAIMS__URL", "redis+cluster://one:1,two"),
    ("kafka.topicPrefix", "KAFKA__TOPIC_PREFIX", ""),
    ("kafka.topicPrefix", "KAFKA__TOPIC_PREFIX", "p" * 226),
    ("drain.delay", "DRAIN__DELAY", "1.5m"),
    ("settings.kafka.topics", "KAFKA__TOPICS", {"im.x_v1": "helpdesk.ticket", "other": "rest"}),
    (
        "settings.kafka.topics",
        "KAFKA__TOPICS",
        {"helpdesk.*": "desk", "im.*": "im", "im.message.*": "helpdesk_ticket"},
    ),
    ("settings.kafka.keys", "KAFKA__KEYS", {"im.*": "chat_id", "im.x_v1": "message.chat_id"}),
    ("settings.journal.max_bytes", "JOURNAL__MAX_BYTES", "4 GiB"),
    ("settings.journal.dedupe_window", "JOURNAL__DEDUPE_WINDOW", "16h"),
    ("settings.kafka.create_topics", "KAFKA__CREATE_TOPICS", "False"),
    ("settings.kafka.partitions", "KAFKA__PARTITIONS", "24"),
    ("settings.webhook.port", "WEBHOOK__PORT", "8081"),
    ("settings.kafka.topic_config", "KAFKA__TOPIC_CONFIG", {"a.b": 1, "c": {"d": "e"}, "f": True}),
    ("settings.privacy.drop", "PRIVACY__DROP", ["email", "Person.name"]),
    ("settings.traces.endpoint", "TRACES__ENDPOINT", ""),
    ("settings.feishu_url", "FEISHU_URL", "https://open.larksuite.com/"),
    ("settings.claims.key_prefix", "CLAIMS__KEY_PREFIX", "desk:"),
    ("apps._hr.encryptKey", None, "k"),
]


def both(
    helm: str, value: str, variable: str | None, given: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Give what Helm and relay say against a value; nothing, if they take it."""
    minimal = ["--values", str(CHART / "ci" / "minimal-values.yaml")]
    chart = subprocess.run(
        [
            helm,
            "template",
            *AT,
            "relay",
            str(CHART),
            *minimal,
            "--set-json",
            f"{value}={json.dumps(given)}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # As the chart has them.
    monkeypatch.setenv("RELAY_ADMIN__HOST", "0.0.0.0")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    apps = {}
    if variable:
        text = json.dumps(given) if isinstance(given, dict | list) else str(given)
        monkeypatch.setenv(f"RELAY_{variable}", text)
    else:
        apps = {value.split(".")[1]: {"encrypt_key": given}}
        monkeypatch.setenv("RELAY_APPS", json.dumps(apps))
    try:
        settings.load()
    except SettingsError as error:
        return chart.stderr, str(error)
    return chart.stderr, ""


@pytest.mark.parametrize(("value", "variable", "given"), REFUSED)
def test_chart_refuses_what_relay_would_refuse_at_start(
    helm: str, value: str, variable: str | None, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a pod is made that would never start; and neither tells a password."""
    chart, relay = both(helm, value, variable, given, monkeypatch)
    assert "Error: " in chart
    assert relay
    assert "p4ss" not in chart + relay


@pytest.mark.parametrize(("value", "variable", "given"), TAKEN)
def test_chart_takes_what_relay_takes(
    helm: str, value: str, variable: str | None, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert both(helm, value, variable, given, monkeypatch) == ("", "")


def test_null_in_the_settings_is_no_setting(helm: str) -> None:
    """As Helm has it everywhere: what an earlier file of values says is taken back."""
    objects = render(
        helm,
        *("--values", str(CHART / "ci" / "minimal-values.yaml")),
        *(
            "--set-json",
            'settings={"log":{"format":null},"kafka":{"compression":null,"keys":null}}',
        ),
    )
    assert "null" not in config(objects)


def drain_job(helm: str, *values: str) -> str:
    """Give the name of the drain job."""
    given = ("replicaCount=2", "claims.existingSecret=valkey", "drainJob.enabled=true", *values)
    minimal = ["--values", str(CHART / "ci" / "minimal-values.yaml"), "--set", "drainJob.ordinal=3"]
    made = one(render(helm, *minimal, *(part for one in given for part in ("--set", one))), "Job")
    return str(made["metadata"]["name"])


def test_drain_job_is_a_new_one_without_revisions(helm: str) -> None:
    """With `helm template` the revision is always 1, and a job can be neither changed nor rerun."""
    changes = [(), ("image.tag=2",), ("drainJob.run=monday",), ("replicaCount=3",)]
    names = [drain_job(helm, *change) for change in changes]
    assert len(set(names)) == len(changes)
    assert drain_job(helm) == names[0]


OWN = '{namespace="desk",job="blue-relay-headless"'


def test_alerts_of_two_releases_are_apart(helm: str, tmp_path: Path) -> None:
    """Each looks at its own release's series alone, and Prometheus can read it."""
    text = run(
        [
            *(helm, "template", *AT, "blue", str(CHART), "--namespace", "desk"),
            *("--values", str(CHART / "ci" / "everything-values.yaml")),
        ]
    )
    objects = [made for made in yaml.load_all(text, yaml.CSafeLoader) if made]
    groups = one(objects, "PrometheusRule")["spec"]["groups"]
    plain = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    for rule, before in zip(groups[0]["rules"], plain[0]["rules"], strict=True):
        names = re.findall(r"\brelay_[a-z_]+", before["expr"])
        assert [name + OWN for name in names] == re.findall(
            r"\brelay_[a-z_]+" + re.escape(OWN), rule["expr"]
        )
        assert rule["labels"] == before["labels"] | {"namespace": "desk", "release": "blue"}
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    run([needed("promtool", "prometheus"), "check", "rules", str(rules)])


def test_papers_are_up_to_date() -> None:
    run([sys.executable, str(ROOT / "deploy" / "chart.py"), "--check"])


def test_values_are_few_and_each_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert len(lines) < 250
    readme = (CHART / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert all(line.rsplit("|", 2)[1].strip() for line in rows), "a value without a sentence"


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_pods_meet_the_restricted_standard(helm: str, values: Path) -> None:
    """All of them: relay's, the drain job's and the test's."""
    for made in render(helm, "--values", str(values)):
        pod = made["spec"] if made["kind"] == "Pod" else _template(made)
        if pod is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "projected", "secret", "persistentVolumeClaim", "emptyDir"}


def _template(made: Object) -> Object | None:
    spec = made.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    return template["spec"] if template else None


SNIPPETS = [
    piece.partition("```")[0]
    for piece in (ROOT / "docs" / "kubernetes.md").read_text().split("```yaml\n")[1:]
]


@pytest.mark.parametrize("text", SNIPPETS, ids=range(len(SNIPPETS)))
def test_values_of_the_guide_render(helm: str, text: str, tmp_path: Path) -> None:
    """Each alone, over the least; what is another's object is in one of relay's names."""
    values = yaml.safe_load(text)
    if "kind" in values:
        assert values["metadata"]["name"].startswith("relay")
        return
    (tmp_path / "values.yaml").write_text(text)
    minimal = str(CHART / "ci" / "minimal-values.yaml")
    objects = render(helm, "--values", minimal, "--values", str(tmp_path / "values.yaml"))
    assert one(objects, "StatefulSet", "relay")


def test_openshift_names_the_users(helm: str) -> None:
    """Its SCC `restricted-v2` refuses pods that name a user or a group."""
    for made in render(helm, "--values", str(CHART / "ci" / "openshift-values.yaml")):
        pod = made["spec"] if made["kind"] == "Pod" else _template(made)
        if pod is None:
            continue
        for context in (
            pod["securityContext"],
            *(one["securityContext"] for one in pod["containers"]),
        ):
            assert not {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"} & context.keys()
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "projected", "secret", "persistentVolumeClaim", "emptyDir"}


@pytest.mark.parametrize("name", ["defaults", "everything"])
@pytest.mark.parametrize("under", [CHART, RELEASED], ids=["reset", "reuse"])
def test_values_of_the_last_release_still_render(
    helm: str, name: str, under: Path, tmp_path: Path
) -> None:
    """Over this chart's defaults, or without those that are new; into the same StatefulSet."""
    chart = tmp_path / "relay"
    shutil.copytree(CHART, chart)
    if under is RELEASED:
        shutil.copy(RELEASED / "defaults.yaml", chart / "values.yaml")
    given = ("--values", str(RELEASED / f"{name}.yaml"), "--values")
    minimal = CHART / "ci" / "minimal-values.yaml"
    rendered = run(
        [helm, "template", *AT, "relay", str(chart), "--namespace", "desk", *given, str(minimal)]
    )
    objects = [made for made in yaml.load_all(rendered, yaml.CSafeLoader) if made]
    spec = one(objects, "StatefulSet", "relay")["spec"]
    labels = {"app.kubernetes.io/name": "relay", "app.kubernetes.io/instance": "relay"}
    assert spec["selector"] == {"matchLabels": {**labels, "app.kubernetes.io/component": "relay"}}
    assert spec["serviceName"] == "relay-headless"
    assert spec["podManagementPolicy"] == "Parallel"
    (claim,) = spec["volumeClaimTemplates"]
    fast = {"accessModes": ["ReadWriteOncePod"], "storageClassName": "fast"}
    wanted = {"accessModes": ["ReadWriteOnce"]} if name == "defaults" else fast
    assert claim["metadata"] == {"name": "journal", "labels": labels}
    assert claim["spec"] == {**wanted, "resources": {"requests": {"storage": "10Gi"}}}


def test_runbooks_open(helm: str) -> None:
    """Each alert leads to its section, where the team reads it."""
    page = "https://git.example.com/relay/docs/operations.md"
    alerts = ("--set", "prometheusRule.enabled=true", "--set", f"prometheusRule.runbookUrl={page}")
    objects = render(helm, "--values", str(CHART / "ci" / "minimal-values.yaml"), *alerts)
    headings = (ROOT / "docs" / "operations.md").read_text().splitlines()
    anchors = {line.lstrip("# ").lower() for line in headings if line.startswith("#")}
    for rule in one(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]:
        place, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert place == page
        assert anchor in anchors
        assert "runbook" not in rule["annotations"]


def test_no_secret_is_anywhere_but_in_the_secret(helm: str) -> None:
    objects = render(helm, "--values", str(CHART / "ci" / "everything-values.yaml"))
    for made in objects:
        if made["kind"] != "Secret":
            text = json.dumps(made)
            assert "an-encrypt-key" not in text
            assert "an-app-secret" not in text


def _api_schemas(version: str) -> Path:
    """The API's schemas, each with what it refers to: kubeconform wants one file."""
    place = CACHE / "kubernetes" / version
    if not (place / "done").exists():
        place.mkdir(parents=True, exist_ok=True)
        home = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
        source = home / f"v{version}.0-local-strict"
        definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
        for kind in KINDS:
            (place / f"{kind}.json").write_text(_whole(source / f"{kind}.json", definitions))
        (place / "done").touch()
    return place


def _whole(schema: Path, definitions: Object) -> str:
    """Give a schema with all that it refers to, directly or not."""
    text = _local(schema.read_text())
    found: Object = {}
    left = _referred(text)
    while left:
        name = left.pop()
        inner = _local(json.dumps(definitions[name]))
        found[name] = json.loads(inner)
        left |= _referred(inner) - found.keys()
    return json.dumps(json.loads(text) | {"$defs": found})


def _local(text: str) -> str:
    return text.replace("/api/_definitions.json#", "#")


def _referred(text: str) -> set[str]:
    return set(re.findall(r'"#/\$defs/([^"]+)"', text))


def _custom_schemas() -> Path:
    """JSON schemas of the custom resources' definitions, made once for each version."""
    place = CACHE / "crd" / "-".join(version for _, version, _, _ in RESOURCES)
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    go, environment = needed("go", "golang-go"), os.environ | {"GOFLAGS": "-mod=mod"}
    for module, version, folder, kinds in RESOURCES:
        command = [go, "mod", "download", "-json", f"{module}@{version}"]
        home = Path(json.loads(run(command, attempts=3, env=environment, cwd=str(place)))["Dir"])
        for kind in kinds:
            (found,) = (home / folder).glob(f"*_{kind}.yaml")
            _write_schema(place, yaml.safe_load(found.read_text()))
    (place / "done").touch()
    return place


def _write_schema(place: Path, definition: Object) -> None:
    spec = definition["spec"]
    group = spec["group"].split(".")[0]
    for version in spec["versions"]:
        name = f"{spec['names']['singular']}-{group}-{version['name']}.json"
        schema = _strict(version["schema"]["openAPIV3Schema"])
        (place / name).write_text(json.dumps(schema))


def _strict(schema: Any) -> Any:
    """Refuse fields that the definition does not know."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    known = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if known and made["properties"] and "additionalProperties" not in made:
        made["additionalProperties"] = False
    if known and "metadata" in made["properties"] and "kind" in made["properties"]:
        made["properties"]["metadata"] = {"type": "object"}
    return made
