"""Each alert fires when it should and clears again, on metrics that a running relay has given."""

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession

from relay.observe.metrics import Metrics
from relay.settings import Settings
from tests.deploy.tools import CHART, ROOT, needed, run
from tests.fakes import KEY, TOKEN, as_json, encrypt, event, journal_at, payload, sign, until
from tests.integration.test_app import Running, running, settings
from tests.redis_server import redis_server

RULES = CHART / "files" / "alerts.yaml"
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
NOWHERE = "127.0.0.1:1"

Samples = dict[str, float]
#: Scrapes of a relay in its healthy state and in the other; None: there is no relay any more.
States = tuple[Samples, Samples | None]

#: Steps of 30 s in each phase: well, bad, well again.
STEP, WELL, BAD, AGAIN = 30, 30, 60, 80


async def scrape(relay: Running) -> Samples:
    """Read every sample, as Prometheus would."""
    _, text = await relay.get("/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = (line.rsplit(" ", 1) for line in lines)
    return {name: float(value) for name, value in pairs}


async def connected(relay: Running) -> Samples:
    """Wait until Kafka takes events."""
    sample = relay.relay.metrics.registry.get_sample_value
    await until(lambda: sample("relay_kafka_up"))
    return await scrape(relay)


async def post(relay: Running, body: bytes, headers: Mapping[str, str]) -> int:
    url = f"http://127.0.0.1:{relay.relay.webhook_port}/webhook/event"
    async with ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def age(path: Path, seconds: float) -> None:
    """Leave an event in the journal that came so long ago."""
    async with journal_at(path / "journal.db") as journal:
        await journal.add(event("old", received_at=int((time.time() - seconds) * 1000)))


class World:
    """What the scenarios need."""

    def __init__(self, path: Path, bootstrap: str, prefix: str) -> None:
        self.path, self.bootstrap, self.prefix = path, bootstrap, prefix

    def settings(self, name: str, bootstrap: str | None = None, **changes: Any) -> Settings:
        made = settings(self.path / name, bootstrap or self.bootstrap, self.prefix, timeout=0.2)
        return Settings.model_validate(made.model_dump() | changes)

    async def healthy(self) -> Samples:
        """One event in, one event out, and nothing else."""
        async with running(self.settings("healthy")) as relay:
            assert await relay.post("e-1") == 200
            await until(lambda: relay.relay.metrics.account().published == 1)
            return await scrape(relay)

    async def without_kafka(self, seconds: float = 0) -> States:
        if seconds:
            await age(self.path / "kafka", seconds)
        async with running(self.settings("kafka", NOWHERE)) as relay:
            return await self.healthy(), await scrape(relay)


def app(**changes: Any) -> dict[str, Any]:
    return {"default": {"encrypt_key": KEY, "verification_token": TOKEN, **changes}}


async def behind(world: World) -> States:
    return await world.without_kafka(70)


async def far_behind(world: World) -> States:
    return await world.without_kafka(700)


async def kafka_down(world: World) -> States:
    return await world.without_kafka()


async def claims_down(world: World) -> States:
    claims = {"url": f"redis://{NOWHERE}", "timeout": 0.2}
    async with running(world.settings("claims", claims=claims)) as relay:
        await until(lambda: relay.relay.metrics.registry.get_sample_value("relay_claims_up") == 0)
        return await world.healthy(), await scrape(relay)


async def claims_awaited(world: World) -> States:
    (world.path / "redis").mkdir()
    with redis_server(world.path / "redis") as server:
        claims = {"url": server.url, "replica": "relay-1", "after": "relay-0"}
        async with running(world.settings("awaiting", claims=claims)) as relay:
            sample, waited = relay.relay.metrics.registry.get_sample_value, {"replica": "relay-0"}
            await until(lambda: sample("relay_claims_awaited", waited))
            waiting = await scrape(relay)
            server.call("SET", "relay:replica:relay-0", "gone")
            await until(lambda: sample("relay_claims_awaited", waited) == 0)
            return await scrape(relay), waiting


async def cannot_store(world: World) -> States:
    journal = {"path": world.path / "full" / "journal.db", "max_bytes": 1}
    async with running(world.settings("full", NOWHERE, journal=journal)) as relay:
        answers = [await relay.post(f"e-{number}") for number in range(3)]
        assert answers[-1] == 503
        return await world.healthy(), await scrape(relay)


async def refuses(world: World) -> States:
    async with running(world.settings("refuses")) as relay:
        before = await connected(relay)
        body = encrypt(as_json(payload("e-1")), key="another key")
        assert await post(relay, body, sign(body, key="another key")) == 401
        return before, await scrape(relay)


async def journal_filling(world: World) -> States:
    journal = {"path": world.path / "filling" / "journal.db", "max_bytes": 80_000}
    async with running(world.settings("filling", NOWHERE, journal=journal)) as relay:
        for number in range(200):
            await relay.post(f"e-{number}")
            found = await scrape(relay)
            if found["relay_journal_used_bytes"] > 0.8 * found["relay_journal_max_bytes"]:
                break
        return await world.healthy(), found


async def _long_connection(world: World) -> States:
    apps = app(long_connection=True, app_id="cli_a", app_secret="s")
    config = world.settings("long", apps=apps, feishu_url=f"http://{NOWHERE}")
    name = 'relay_long_connection_reconnects_total{app="default",reason="unreachable"}'
    async with running(config) as relay:
        found = await connected(relay)
        while name not in found:
            found = await scrape(relay)
        well = {**found, name: 0, 'relay_long_connection_up{app="default"}': 1}
        return well, found


async def dead_letters(world: World) -> States:
    async with running(world.settings("dead")) as relay:
        before = await connected(relay)
        body = encrypt(json.dumps({"header": {"event_id": "x", "token": TOKEN}}).encode())
        assert await post(relay, body, sign(body)) == 200
        await until(lambda: relay.relay.metrics.account().dead_letter)
        return before, await scrape(relay)


async def account_broken(world: World) -> States:
    """No relay gives such metrics: one event is taken from those of a real one."""
    well = await world.healthy()
    settled = 'relay_settled_total{outcome="published"}'
    return well, {**well, settled: well[settled] - 1}


async def log_pinned(world: World) -> States:
    """A quarter of a gigabyte is too much for a test: the number is put in."""
    well = await world.healthy()
    return well, {**well, "relay_journal_log_bytes": 2**28 + 1}


async def volume_filling(world: World) -> States:
    """The same; the log counts as taken, as its bytes are needed once more to end it."""
    well = await world.healthy()
    return well, {
        **well,
        "relay_journal_log_bytes": 2**26,
        "relay_journal_volume_free_bytes": 2**29 + 2**25,
    }


async def stranded(world: World) -> States:
    _, pending = await world.without_kafka(10)
    assert pending
    assert pending["relay_oldest_pending_seconds"] > 10
    # It is healthy but for Kafka, then gone with its node, then back.
    return {**pending, "relay_kafka_up": 1}, None


async def absent(world: World) -> States:
    return await world.healthy(), None


SCENARIOS: dict[str, Callable[[World], Awaitable[States]]] = {
    "RelayBehind": behind,
    "RelayFarBehind": far_behind,
    "RelayKafkaDown": kafka_down,
    "RelayClaimsDown": claims_down,
    "RelayClaimsAwaited": claims_awaited,
    "RelayCannotStore": cannot_store,
    "RelayRefuses": refuses,
    "RelayJournalFilling": journal_filling,
    "RelayLogPinned": log_pinned,
    "RelayVolumeFilling": volume_filling,
    "RelayLongConnectionDown": _long_connection,
    "RelayLongConnectionFlapping": _long_connection,
    "RelayDeadLetters": dead_letters,
    "RelayAccountBroken": account_broken,
    "RelayStrandedEvents": stranded,
    "RelayAbsent": absent,
}


def series(states: States) -> list[dict[str, str]]:
    """Stretch two scrapes over time, in promtool's notation; counters grow while it is bad."""
    well, bad = states
    made = []
    for name in well | (bad or {}):
        here, there = well.get(name), None if bad is None else bad.get(name)
        metric, _, labels = name.partition("{")
        labels = labels.removesuffix("}") + ("," if labels else "") + 'instance="10.0.0.1:9090"'
        made.append({"series": f"{metric}{{{labels}}}", "values": _values(metric, here, there)})
    return made


def _values(metric: str, here: float | None, there: float | None) -> str:
    counter = metric.endswith(("_total", "_bucket", "_count", "_sum"))
    before = f"_x{WELL}" if here is None else f"{here:.3f}x{WELL - 1}"
    if there is None:
        return f"{before} _x{BAD} " + (f"_x{AGAIN}" if here is None else f"{here:.3f}x{AGAIN}")
    growth = max(there - (here or 0), 0)
    # What is no counter's growth is a difference that stays.
    if not counter or there < (here or 0):
        after = there if here is None else here
        return f"{before} {there:.3f}x{BAD - 1} {after:.3f}x{AGAIN}"
    first, last = (here or 0) + growth, (here or 0) + growth * BAD
    return f"{before} {first:.3f}+{growth:.3f}x{BAD - 1} {last:.3f}x{AGAIN}"


@pytest.mark.parametrize("alert", ALERTS)
async def test_alert_fires_and_clears(
    alert: str, tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """It is silent while all is well, fires in its own state, and is silent again after it."""
    promtool = needed("promtool", "prometheus")
    world = World(tmp_path, embedded_kafka, topic_prefix)
    states = await SCENARIOS[alert](world)
    firing = f'count(ALERTS{{alertstate="firing", alertname="{alert}"}})'
    moments = [
        ('count(ALERTS{alertstate="firing"})', WELL - 2, False),
        (firing, WELL + BAD - 2, True),
        (firing, WELL + BAD + AGAIN - 5, False),
    ]
    proved(promtool, tmp_path, series(states), moments)


async def test_scale_down_under_load_is_no_alarm(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """The last scrape of a replica that then drained shows events which were just on their way."""
    promtool = needed("promtool", "prometheus")
    healthy = await World(tmp_path, embedded_kafka, topic_prefix).healthy()
    busy = {**healthy, "relay_pending_events": 3, "relay_oldest_pending_seconds": 0.05}
    alert = 'count(ALERTS{alertname="RelayStrandedEvents"})'
    proved(promtool, tmp_path, series((busy, None)), [(alert, WELL + BAD - 2, False)])


def proved(
    promtool: str,
    directory: Path,
    samples: list[dict[str, str]],
    moments: list[tuple[str, int, bool]],
) -> None:
    """Let promtool evaluate the rules, and expressions on alerts at steps: is there one or none."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": samples,
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": f"{moment * STEP}s",
                        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                    }
                    for expression, moment, fires in moments
                ],
            }
        ],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(test))
    run([promtool, "test", "rules", str(directory / "test.yaml")])


def test_every_alert_is_tried_and_explained() -> None:
    """With a section of the operations guide that its annotation leads to."""
    text = (ROOT / "docs" / "operations.md").read_text()
    anchors = {line[4:].lower() for line in text.splitlines() if line.startswith("### Relay")}
    assert set(SCENARIOS) == set(ALERTS)
    for name, rule in ALERTS.items():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors
        assert f"`{name}`" in text or f"### {name}" in text
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_every_metric_of_the_alerts_exists() -> None:
    exposed = set(re.findall(r"^# HELP (\S+)", Metrics().exposition().decode(), re.MULTILINE))
    for rule in ALERTS.values():
        assert set(re.findall(r"relay_[a-z_]+", rule["expr"])) <= exposed
