"""The dashboard asks for what there is: its queries are given the metrics of a running relay."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import yaml

from relay.observe.metrics import Metrics
from tests.deploy.test_alerts import NOWHERE, Samples, World, app, post, scrape
from tests.deploy.tools import CHART, ROOT, needed, run
from tests.fakes import TOKEN, as_json, encrypt, payload, sign, until
from tests.integration.test_app import running

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
#: What Grafana puts in place of the variables.
VARIABLES = {
    "$job": "relay",
    "$by": "instance",
    "$replica": ".*",
    "$__rate_interval": "1m",
    "$__range": "1h",
}
COLUMNS, ROWS = 24, 24


def expressions() -> dict[str, str]:
    """Give each query, as it is sent to Prometheus, by its panel's title."""
    found = {}
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = expression
    return found


def test_every_metric_exists() -> None:
    exposition = Metrics().exposition().decode()
    exposed = set(re.findall(r"^# HELP (\S+)", exposition, re.MULTILINE))
    histograms = re.findall(r"^# TYPE (\S+) histogram", exposition, re.MULTILINE)
    exposed |= {f"{name}_{part}" for name in histograms for part in ("bucket", "count")}
    used = re.findall(r"relay_[a-z_]+", json.dumps([DASHBOARD["templating"], PANELS]))
    assert set(used) <= exposed


def test_panels_fill_one_screen() -> None:
    """Each has an id of its own, none lies over another one, nothing is left to scroll to."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        taken = set(itertools.product(columns, rows))
        assert not cells & taken, panel["title"]
        cells |= taken
    assert cells == set(itertools.product(range(COLUMNS), range(ROWS)))


def test_every_panel_can_be_pointed_elsewhere() -> None:
    """At another Prometheus, and at some of the relays in it."""
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            selectors = re.findall(r"relay_[a-z_]+\{([^}]*)", target["expr"])
            assert selectors
            assert all(s.startswith('job=~"$job", $by=~"$replica"') for s in selectors)


def test_the_picture_is_there() -> None:
    """And the guide that shows it says how it was made."""
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert (ROOT / "docs" / "images" / "dashboard.png").stat().st_size < 500_000
    assert "images/dashboard.png" in guide
    assert "deploy/observability/plot.py" in guide


async def busy(world: World) -> Samples:
    """Scrape a relay that has done, or failed to do, everything that a panel shows."""
    apps = app(long_connection=True, app_id="cli_a", app_secret="s")
    config = world.settings("busy", apps=apps, feishu_url=f"http://{NOWHERE}")
    async with running(config) as relay:
        assert await relay.post("e-1") == 200
        await until(lambda: relay.relay.metrics.account().published == 1)
        body = encrypt(as_json(payload("e-2")), key="another key")
        assert await post(relay, body, sign(body, key="another key")) == 401
        body = encrypt(as_json({"header": {"event_id": "x", "token": TOKEN}}))
        assert await post(relay, body, sign(body)) == 200
        await until(lambda: relay.relay.metrics.account().dead_letter == 1)
        found: Samples = {}
        while not any(name.startswith("relay_long_connection_reconnects") for name in found):
            found = await scrape(relay)
        return found


async def test_every_query_finds_something(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Each is valid PromQL, and has a result on a real scrape whose counters grow."""
    promtool = needed("promtool", "prometheus")
    samples = await busy(World(tmp_path, embedded_kafka, topic_prefix))
    test = {
        "rule_files": [],
        "tests": [
            {
                "interval": "15s",
                "input_series": [_series(name, value) for name, value in samples.items()],
                "promql_expr_test": [
                    {
                        "expr": f"count({expression}) > bool 0",
                        "eval_time": "10m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for expression in expressions().values()
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    run([promtool, "test", "rules", str(tmp_path / "test.yaml")])


def _series(sample: str, value: float) -> dict[str, str]:
    """Give a scraped sample labels as Prometheus does, and let a counter grow."""
    name, _, labels = sample.partition("{")
    labels = labels.removesuffix("}") + ("," if labels else "")
    grows = name.endswith(("_total", "_bucket", "_count", "_sum"))
    values = f"0+{value}x40" if grows else f"{value}x40"
    return {
        "series": f'{name}{{{labels}job="relay",instance="10.0.0.1:9090"}}',
        "values": values,
    }
