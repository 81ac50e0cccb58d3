"""Several replicas that share claims: time to answer, what a second one adds, how one stops."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import uvloop

from bench import servers
from bench.events import payload
from bench.quantiles import Spread
from bench.servers import BenchError, Relay
from bench.window import Bench, Window
from relay.claims.claims import Claims
from relay.events import StoredEvent, Transport
from relay.journal.retention import Retention
from relay.observe.metrics import Metrics
from relay.settings import Claims as Settings
from tests.redis_server import RedisServer, redis_server

REPLICAS, RATE = 3, 300
#: Share of a core for each replica when their throughput is compared: Kafka, the claims store and
#: the load generator need the rest.
QUOTA = 0.25
#: Microseconds in which a share is given out.
_PERIOD = 20_000
_CONNECTIONS = 64
_MOST_PER_SECOND = 4_000
_DRAIN_DELAY = 1.0
_CLAIMED, _BATCH = 50_000, 500
_WINDOW = 86_400

Figures = dict[str, float]


def replicas(bench: Bench) -> Figures:
    """Run three replicas, then one beside two, then stop one."""
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        raise BenchError("This suite needs redis-server or valkey-server.")
    place = bench.directory / "claims"
    place.mkdir()
    with servers.pinned(bench.cores.others), redis_server(place) as store:
        bench.say("cost of claims")
        return {
            "replicas.claims_us": uvloop.run(_claims_cost(store)),
            **_answers(bench, store),
            **_scaling(bench, store),
            "replicas.stop_s": _stop(bench, store),
        }


async def _claims_cost(store: RedisServer) -> float:
    """Claim new events batch after batch; give the client's CPU for each, in microseconds."""
    claims = Claims(Settings.model_validate({"url": store.url}), Retention(_WINDOW), Metrics())
    now = time.time_ns() // 1_000_000
    events = [
        StoredEvent(
            seq=number,
            app="default",
            transport=Transport.WEBHOOK,
            received_at=now,
            event_id=os.urandom(16).hex(),
            event_type="t",
            body=payload(number, "claims", now),
        )
        for number in range(_CLAIMED)
    ]
    await claims.ask(events[:_BATCH], "warm")
    began = time.process_time()
    for first in range(_BATCH, _CLAIMED, _BATCH):
        verdict = await claims.ask(events[first : first + _BATCH], "mine")
        assert not verdict.lost
        claims.published()
    taken = time.process_time() - began
    await claims.close()
    return 1e6 * taken / (_CLAIMED - _BATCH)


def _answers(bench: Bench, store: RedisServer) -> Figures:
    """Load three replicas on one core with a third of the rate each."""
    rounds: list[Spread] = []
    rate = RATE / REPLICAS
    with _running(bench, store, "answers", [bench.cores.server] * REPLICAS) as relays:
        for number in range(1, bench.options.rounds + 1):
            bench.say(f"{REPLICAS} replicas at {RATE}/s in all, round {number}")
            windows = _loaded(bench, relays, rate=rate, most=rate)
            latencies = [window.load.latency for window in windows]
            slowest = max(one.p99 for one in latencies)
            rounds.append(replace(Spread.over(latencies), p99=slowest))
    over = Spread.over(rounds)
    return {
        "replicas.answer.p50_ms": over.p50,
        "replicas.answer.p99_ms": over.p99,
        "replicas.answer.max_ms": over.max,
    }


def _scaling(bench: Bench, store: RedisServer) -> Figures:
    """Two replicas, each with a share of a core of its own, against one with the same share."""
    cores = [bench.cores.server, bench.cores.others[0]]
    alone, together = [], []
    with _running(bench, store, "scaling", cores) as relays, ExitStack() as stack:
        for relay in relays:
            stack.enter_context(_limited(relay.pid))
        for number in range(1, bench.options.rounds + 1):
            bench.say(f"one replica and two, {QUOTA:.0%} of a core each, round {number}")
            for some, rates in ((relays[:1], alone), (relays, together)):
                windows = _loaded(bench, some, rate=0, most=_MOST_PER_SECOND)
                rates.append(sum(window.rate for window in windows))
                for relay in some:
                    relay.wait_until_drained()
    return {
        "replicas.one.rate": median(alone),
        "replicas.two.rate": median(together),
        "replicas.scale": median(two / one for one, two in zip(alone, together, strict=True)),
    }


def _stop(bench: Bench, store: RedisServer) -> float:
    """From SIGTERM to the end of a process with nothing pending, less the drain delay."""
    taken = []
    delay = {"RELAY_DRAIN__DELAY": f"{_DRAIN_DELAY}s"}
    for number in range(bench.options.starts):
        bench.say(f"stop {number + 1}")
        core = [bench.cores.server]
        with _running(bench, store, f"stop-{number}", core, delay) as (relay,):
            began = time.monotonic()
            relay.process.terminate()
            relay.process.wait(60)
            taken.append(time.monotonic() - began - _DRAIN_DELAY)
    return max(taken)


@contextmanager
def _running(
    bench: Bench,
    store: RedisServer,
    name: str,
    cores: Sequence[int],
    environment: dict[str, str] | None = None,
) -> Iterator[list[Relay]]:
    """Start a replica on each of the cores; each has published events already."""
    settings = {"RELAY_CLAIMS__URL": store.url, **(environment or {})}
    with ExitStack() as stack:
        relays = []
        for number, core in enumerate(cores):
            place = bench.directory / f"{name}-{number}"
            relay = stack.enter_context(
                servers.relay(bench.options.relay, core, place, bench.kafka.bootstrap, settings)
            )
            bench.warm(relay)
            relays.append(relay)
        yield relays


def _loaded(bench: Bench, relays: Sequence[Relay], *, rate: float, most: float) -> list[Window]:
    """Load all of them at the same time, each with events of its own."""
    count = round(most * (bench.options.seconds + bench.options.warmup))
    with ExitStack() as stack, ThreadPoolExecutor(len(relays)) as pool:
        batches = [stack.enter_context(bench.events.batch(count)) for _ in relays]
        running = [
            pool.submit(bench.window, relay, batch, connections=_CONNECTIONS, rate=rate)
            for relay, batch in zip(relays, batches, strict=True)
        ]
        return [one.result() for one in running]


@contextmanager
def _limited(pid: int) -> Iterator[None]:
    """Give a process its share of a core, by a control group of the kernel (needs root)."""
    name = f"relay-bench-{pid}"
    old, new = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    quota = round(QUOTA * _PERIOD)
    try:
        if old.is_dir():
            group, limits = old / name, {"cpu.cfs_period_us": _PERIOD, "cpu.cfs_quota_us": quota}
        else:
            group, limits = new / name, {"cpu.max": f"{quota} {_PERIOD}"}
        group.mkdir()
        for file, value in limits.items():
            (group / file).write_text(str(value))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise BenchError(f"A share of a core cannot be set: {error}") from error
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()
