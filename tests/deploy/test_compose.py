"""docker-compose.yml: what it names exists, and its relays start with these settings."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay import settings
from tests.deploy.tools import ROOT, needed, run

FILE = ROOT / "docker-compose.yml"
#: What the head of the file tells a user to set.
SECRETS = {
    "RELAY_APPS__DEFAULT__ENCRYPT_KEY": "a key",
    "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": "a token",
}


@pytest.fixture(scope="module")
def composed() -> Any:
    """What Compose makes of the file."""
    command = [needed("docker-compose", "docker-compose"), "--file", str(FILE)]
    profile = ["--profile", "simulator"]
    return yaml.safe_load(run([*command, *profile, "config"], env=os.environ | SECRETS))


@pytest.mark.parametrize("missing", SECRETS)
def test_secrets_are_not_in_the_file(missing: str) -> None:
    """Compose refuses to go on without them, and tells where to look."""
    command = [needed("docker-compose", "docker-compose"), "--file", str(FILE), "config"]
    others = {name: secret for name, secret in SECRETS.items() if name != missing}
    with pytest.raises(AssertionError, match=r"the head of docker-compose\.yml"):
        run(command, env=os.environ | others)


@pytest.mark.parametrize("service", ["relay-1", "relay-2", "check", "simulator"])
def test_settings_exist(composed: Any, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay itself reads them; it takes no unknown name in a section that it knows."""
    environment = composed["services"][service]["environment"]
    known = {f"RELAY_{name.upper()}" for name in settings.Settings.model_fields}
    for name, value in environment.items():
        assert name.split("__")[0] in known
        monkeypatch.setenv(name, str(value))
    loaded = settings.load()
    assert loaded.kafka.bootstrap_servers == "kafka:9092"
    assert loaded.claims.url.get_secret_value() == "redis://valkey:6379/0"


def test_two_relays_and_what_is_around_them(composed: Any) -> None:
    """Each with its own journal, a name of its own, and time to drain."""
    first, second = (composed["services"][name] for name in ("relay-1", "relay-2"))
    assert first["volumes"] != second["volumes"]
    assert first["environment"].pop("RELAY_CLAIMS__REPLICA") == "relay-1"
    assert second["environment"].pop("RELAY_CLAIMS__REPLICA") == "relay-2"
    assert first["environment"] == second["environment"]
    grace = int(first["stop_grace_period"].removesuffix("s"))
    assert grace > settings.Drain().delay + settings.Drain().timeout
    assert all(
        not one["volumes"][0].startswith("/") and one["read_only"] for one in (first, second)
    )


def test_every_image_is_pinned(composed: Any) -> None:
    """To a whole version; relay's own is the project's."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in composed["services"].items():
        repository, _, tag = service["image"].partition(":")
        assert "." not in repository, "an image is named without a host"
        assert re.match(r"v?\d+\.\d+\.\d+", tag), name
        assert repository != "relay" or tag == version


def test_every_service_says_whether_it_is_healthy(composed: Any) -> None:
    """Relay's image does so itself; the simulator is no server."""
    silent = {
        name for name, service in composed["services"].items() if "healthcheck" not in service
    }
    assert silent == {"relay-1", "relay-2"}
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_every_mounted_file_is_there(composed: Any) -> None:
    mounts = [mount for one in composed["services"].values() for mount in one.get("volumes", [])]
    files = [Path(mount.split(":")[0]) for mount in mounts if mount.startswith("/")]
    assert len(files) == 6
    assert all(file.is_file() for file in files)


def test_names_agree(composed: Any) -> None:
    """Prometheus, the proxy and Grafana look for what there is, under its name."""
    mine = ROOT / "deploy" / "compose"
    relays = {name for name in composed["services"] if name.startswith("relay-")}
    prometheus = yaml.safe_load((mine / "prometheus.yml").read_text())
    (scraped,) = prometheus["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"{name}:9090" for name in sorted(relays)]}]
    proxied = re.findall(
        r"^\s+server (\S+) (\S+)$", (mine / "haproxy.cfg").read_text(), re.MULTILINE
    )
    assert set(proxied) == {(name, f"{name}:8080") for name in relays}
    (source,) = yaml.safe_load((mine / "grafana" / "datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With the alerts beside it, as they are mounted."""
    for file in ("compose/prometheus.yml", "helm/files/alerts.yaml"):
        text = (ROOT / "deploy" / file).read_text()
        (tmp_path / Path(file).name).write_text(text)
    promtool = needed("promtool", "prometheus")
    said = run([promtool, "check", "config", str(tmp_path / "prometheus.yml")])
    assert "1 rule files" in said


def test_proxy_takes_its_configuration() -> None:
    config = ROOT / "deploy" / "compose" / "haproxy.cfg"
    run([needed("haproxy", "haproxy"), "-c", "-f", str(config)])


def test_dashboard_is_its_home(composed: Any) -> None:
    """Grafana shows it at once, of the one source there is."""
    grafana = composed["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounted = [mount.split(":")[1] for mount in grafana["volumes"]]
    assert home in mounted
    mine = ROOT / "deploy" / "compose" / "grafana" / "dashboards.yml"
    (provider,) = yaml.safe_load(mine.read_text())["providers"]
    assert Path(home).parent == Path(provider["options"]["path"])
    dashboard = json.loads((ROOT / "deploy" / "helm" / "files" / "dashboard.json").read_text())
    assert dashboard["uid"] == "relay"
