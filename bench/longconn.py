"""The long connection: the relay beside the official Python client, fed by the same gateway."""

import json
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import procfs, servers
from bench.events import TOPIC, Batch
from bench.gateway import Plan
from bench.quantiles import Spread
from bench.servers import BenchError, Relay
from bench.window import Bench
from tests.ports import free_port

_RATE = 200
_DROPS = 3
#: Seconds that a connection lives before it is dropped: one that dies young is not opened again at
#: once, time after time.
_LIFE = 11.0
_WARM = 200
_REQUIREMENTS = Path(__file__).parents[1] / "tests" / "sdk" / "python" / "requirements.txt"
_CLIENT = Path(__file__).parent / "official" / "client.py"

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway's process: pushes events, and says what was acknowledged."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """What a client takes for Feishu."""
        return f"http://127.0.0.1:{self.port}"

    def order(self, order: Mapping[str, Any]) -> None:
        """Tell it to begin; `result` waits for the end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        """Wait for what became of the last order."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError("The gateway broke off; its error is above.")
        return json.loads(line)

    def push(self, plan: Plan) -> dict[str, Any]:
        """Push events; all must be acknowledged."""
        self.order(asdict(plan))
        result: dict[str, Any] = self.result()
        if result["refused"] or len(result["acknowledged"]) != plan.count:
            raise BenchError(
                f"of {plan.count} events {len(result['acknowledged'])} were acknowledged and "
                f"{result['refused']} refused"
            )
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one round saw of one client."""

    rate: float
    rss_mb: float
    latency: Spread


def long_connection(bench: Bench) -> Figures:
    """Throughput, time to acknowledge, memory and a kill, for both clients in turn."""
    python = _official_environment(bench)
    runs: dict[str, list[Run]] = {"relay": [], "official": []}
    for number in range(1, bench.options.rounds + 1):
        bench.say(f"long connection, relay, round {number}")
        runs["relay"].append(_relay_run(bench, f"longconn-{number}"))
        bench.say(f"long connection, official client, round {number}")
        runs["official"].append(_official_run(bench, python))
    figures: Figures = {"longconn.events": bench.options.long_connection_events}
    for name, some in runs.items():
        latency = Spread.over([run.latency for run in some])
        figures |= {
            f"longconn.{name}.rate": median(run.rate for run in some),
            f"longconn.{name}.rss_mb": median(run.rss_mb for run in some),
            f"longconn.{name}.p50_ms": latency.p50,
            f"longconn.{name}.p99_ms": latency.p99,
            f"longconn.{name}.max_ms": latency.max,
        }
    pairs = zip(runs["relay"], runs["official"], strict=True)
    figures["longconn.ratio"] = median(mine.rate / other.rate for mine, other in pairs)
    bench.say("long connection, memory without one")
    figures["longconn.rss_added_mb"] = figures["longconn.relay.rss_mb"] - _webhook_only(bench)
    bench.say("long connection, drops and kills")
    figures["longconn.reconnect_s"] = _reconnects(bench)
    return figures | _kills(bench, python)


def _relay_run(bench: Bench, name: str) -> Run:
    with _gateway(bench) as gateway, _relay(bench, gateway, name) as relay:
        gateway.push(_plan(_WARM))
        paced = gateway.push(_paced(bench))
        relay.wait_until_drained()
        resident = procfs.resident_mb(relay.pid)
        result = gateway.push(_plan(bench.options.long_connection_events))
        relay.wait_until_drained()
        seconds = time.monotonic() - result["began"]
    return _run(bench, seconds, resident, paced)


def _official_run(bench: Bench, python: Path) -> Run:
    with _gateway(bench) as gateway, _official(bench, gateway, python) as process:
        gateway.push(_plan(_WARM))
        paced = gateway.push(_paced(bench))
        resident = procfs.resident_mb(process.pid)
        result = gateway.push(_plan(bench.options.long_connection_events))
        seconds = result["ended"] - result["began"]
    return _run(bench, seconds, resident, paced)


def _run(bench: Bench, seconds: float, resident: float, paced: Mapping[str, Any]) -> Run:
    return Run(
        rate=bench.options.long_connection_events / seconds,
        rss_mb=resident,
        latency=Spread(**paced["latency"]),
    )


def _webhook_only(bench: Bench) -> float:
    """Give the memory of a relay that took about as many events by webhook."""
    with bench.relay("webhook-only") as relay:
        return procfs.resident_mb(relay.pid)


def _reconnects(bench: Bench) -> float:
    """Give the longest time until the relay came back after a clean end of its connection."""
    with _gateway(bench) as gateway, _relay(bench, gateway, "drops"):
        gateway.push(_plan(_WARM))
        taken = []
        for _ in range(_DROPS):
            time.sleep(_LIFE)
            gateway.order({"drop": True})
            taken.append(float(gateway.result()))
        return max(taken)


def _kills(bench: Bench, python: Path) -> Figures:
    """Kill each client in the middle, start it again, and compare with what Kafka has."""
    figures: Figures = {}
    for name in ("relay", "official"):
        with ExitStack() as stack:
            gateway = stack.enter_context(_gateway(bench))
            plan = _plan(max(2_000, bench.options.long_connection_events // 4))
            with _client(bench, gateway, python, name) as first:
                gateway.push(_plan(_WARM))
                seen = stack.enter_context(_consumer(bench, plan))
                gateway.order(asdict(plan))
                time.sleep(0.4 if name == "relay" else 1.5)
                first.send_signal(signal.SIGKILL)
                first.wait()
            with _client(bench, gateway, python, name):
                acknowledged = gateway.result()["acknowledged"]
                records = Counter(index for index, _ in json.loads(seen.readline()))
        figures |= {
            f"longconn.{name}.kill_acknowledged": len(acknowledged),
            f"longconn.{name}.kill_lost": len(set(acknowledged) - set(records)),
            f"longconn.{name}.kill_twice": sum(count > 1 for count in records.values()),
        }
    return figures


def _plan(count: int) -> Plan:
    return Plan(run=secrets.token_hex(8), first=0, count=count)


def _paced(bench: Bench) -> Plan:
    count = round(_RATE * bench.options.seconds)
    return Plan(run=secrets.token_hex(8), first=0, count=count, rate=_RATE)


@contextmanager
def _gateway(bench: Bench) -> Iterator[Gateway]:
    port = free_port()
    command = (sys.executable, "-m", "bench.gateway", str(port))
    with servers.running(command, cores=bench.cores.others) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise BenchError("The gateway did not start; its error is above.")
        yield Gateway(process=process, port=port)


@contextmanager
def _relay(bench: Bench, gateway: Gateway, name: str) -> Iterator[Relay]:
    environment = {
        "RELAY_FEISHU_URL": gateway.url,
        "RELAY_APPS__DEFAULT__LONG_CONNECTION": "true",
        "RELAY_APPS__DEFAULT__APP_ID": "cli_bench",
        "RELAY_APPS__DEFAULT__APP_SECRET": "bench-secret",
    }
    with bench.relay(name, warm=False, environment=environment) as relay:
        yield relay


@contextmanager
def _official(bench: Bench, gateway: Gateway, python: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = (
        str(python),
        str(_CLIENT),
        gateway.url,
        bench.kafka.bootstrap,
        TOPIC,
        sysconfig.get_path("purelib"),
    )
    log = bench.directory / "official.log"
    with (
        log.open("wb") as output,
        servers.running(command, cores=(bench.cores.server,), output=output) as process,
    ):
        yield process


@contextmanager
def _client(
    bench: Bench, gateway: Gateway, python: Path, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    if name == "relay":
        with _relay(bench, gateway, "kill") as relay:
            yield relay.process
            if relay.process.poll() is None:
                relay.wait_until_drained()
    else:
        with _official(bench, gateway, python) as process:
            yield process


@contextmanager
def _consumer(bench: Bench, plan: Plan) -> Iterator[Any]:
    """Watch the topic from now on, until nothing has come for ten seconds."""
    batch = Batch(descriptor=-1, run=plan.run, count=100 * plan.count)
    command = (sys.executable, "-m", "bench.consumer", bench.kafka.bootstrap, batch.run)
    with servers.running((*command, str(batch.count)), cores=bench.cores.others) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise BenchError("The consumer did not start; its error is above.")
        yield process.stdout


def _official_environment(bench: Bench) -> Path:
    """Make an environment with the official client, once; give its Python."""
    place = Path(sys.prefix) / "official"
    python, done = place / "bin" / "python", place / "installed"
    wanted = _REQUIREMENTS.read_text()
    if not done.exists() or done.read_text() != wanted:
        bench.say("installing the official client (once)")
        venv.create(place, with_pip=True)
        install = (str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps")
        subprocess.run((*install, "-r", str(_REQUIREMENTS)), check=True)
        done.write_text(wanted)
    return python
