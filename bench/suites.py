"""What is measured: each suite gives figures by name; `report.py` says what they mean."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from bench import procfs, servers
from bench.events import Batch
from bench.flood import SHAPES, flood
from bench.longconn import long_connection
from bench.quantiles import Spread
from bench.replicas import replicas
from bench.servers import BenchError, Relay, Server
from bench.window import Bench, Options, Window

CONNECTIONS = (64, 256)
RATES = (100, 500, 1000)
END_TO_END_RATE = 500
#: No relay takes more than this per second, so a batch of that size lasts for a window.
_MOST_PER_SECOND = 16_000
_MEMORY_BATCH = 100_000
_LONGEST = 300.0

Figures = dict[str, float]


def throughput(bench: Bench) -> Figures:
    """Full load: events/s on one core, against the bare server in the same round."""
    figures: Figures = {}
    windows: dict[tuple[str, int], list[Window]] = {}
    with _both(bench, "throughput") as (bare, relay):
        for number, connections in _rounds(bench, CONNECTIONS):
            bench.say(f"throughput, {connections} connections, round {number}")
            count = round(_MOST_PER_SECOND * (bench.options.seconds + bench.options.warmup))
            with bench.events.batch(count) as batch:
                for server in (bare, relay):
                    window = bench.window(server, batch, connections=connections, rate=0)
                    windows.setdefault((server.name, connections), []).append(window)
            relay.wait_until_drained()
    for connections in CONNECTIONS:
        figures |= _throughput(
            connections, windows["bare", connections], windows["relay", connections]
        )
    return figures


def latency(bench: Bench) -> Figures:
    """Fixed rates: how long an answer takes."""
    figures: Figures = {}
    windows: dict[tuple[str, int], list[Window]] = {}
    with _both(bench, "latency") as (bare, relay):
        for number, rate in _rounds(bench, RATES):
            bench.say(f"answers at {rate}/s, round {number}")
            with bench.events.batch(_count(bench, rate)) as batch:
                for server in (bare, relay):
                    window = bench.window(server, batch, connections=64, rate=rate)
                    windows.setdefault((server.name, rate), []).append(window)
            relay.wait_until_drained()
    for (name, rate), some in windows.items():
        prefix = f"latency.{rate}.{name}"
        figures |= _spread(prefix, [one.load.latency for one in some])
        figures |= _spread(f"{prefix}.generator_late", [one.load.lateness for one in some])
        figures[f"{prefix}.foreign"] = max(one.foreign for one in some)
    return figures


def end_to_end(bench: Bench) -> Figures:
    """From the moment an event is due until a read-committed consumer has it."""
    spreads = []
    count = _count(bench, END_TO_END_RATE)
    with bench.relay("end-to-end") as relay:
        for number in range(1, bench.options.rounds + 1):
            bench.say(f"end to end at {END_TO_END_RATE}/s, round {number}")
            with bench.events.batch(count) as batch, _consumer(bench, batch) as finished:
                window = bench.window(relay, batch, connections=64, rate=END_TO_END_RATE)
                seen = finished()
            arrivals = dict(seen)
            if len(seen) != window.load.answered_in_all or len(arrivals) != len(seen):
                raise BenchError(
                    f"{window.load.answered_in_all} events were accepted, the consumer saw "
                    f"{len(seen)} records of {len(arrivals)} events."
                )
            first = round(bench.options.warmup * END_TO_END_RATE)
            spreads.append(
                Spread.of(
                    at - (window.load.started + index / END_TO_END_RATE)
                    for index, at in seen
                    if index >= first
                )
            )
    return _spread(f"end_to_end.{END_TO_END_RATE}", spreads)


def drain(bench: Bench) -> Figures:
    """A backlog: its memory while Kafka hangs, and how fast it goes when Kafka is back."""
    count = bench.options.backlog
    with bench.relay("drain") as relay, ExitStack() as paused:
        before = procfs.resident_mb(relay.pid)
        bench.say(f"backlog of {count:,} events while Kafka hangs")
        with bench.events.batch(count) as batch:
            bench.kafka.pause()
            paused.callback(bench.kafka.resume)
            load = bench.send_all(relay, batch)
        after = procfs.resident_mb(relay.pid)
        bench.say(f"draining {count:,} events")
        full = relay.pending()
        paused.close()
        noticed, seconds = _watch_drain(relay, full)
        drained = procfs.resident_mb(relay.pid)
    return {
        "drain.events": full,
        "drain.rate": full / seconds,
        "drain.noticed_s": noticed,
        "drain.accepted_rate": load.answered_in_all / load.seconds,
        "drain.rss_before_mb": before,
        "drain.rss_backlog_mb": after,
        "drain.rss_added_mb": after - before,
        "drain.rss_drained_mb": drained,
    }


def memory(bench: Bench) -> Figures:
    """Resident memory after many events, each one new."""
    left = bench.options.memory_events
    with bench.relay("memory") as relay:
        start = procfs.resident_mb(relay.pid)
        while left > 0:
            bench.say(f"memory: {left:,} events to go")
            with bench.events.batch(min(left, _MEMORY_BATCH)) as batch:
                left -= bench.send_all(relay, batch).answered_in_all
        relay.wait_until_drained()
        return {
            "memory.events": bench.options.memory_events,
            "memory.rss_start_mb": start,
            "memory.rss_mb": procfs.resident_mb(relay.pid),
            "memory.rss_peak_mb": procfs.peak_mb(relay.pid),
        }


def start(bench: Bench) -> Figures:
    """From the command to `/readyz`, with an empty journal."""
    taken = []
    for number in range(bench.options.starts):
        bench.say(f"start {number + 1}")
        began = time.monotonic()
        with bench.relay(f"start-{number}", warm=False):
            taken.append(time.monotonic() - began)
    return {"start.seconds": median(taken), "start.slowest_s": max(taken)}


def micro(bench: Bench) -> Figures:
    """What each step costs by itself, on the server's core."""
    bench.say("cost of each step")
    command = (sys.executable, "-m", "bench.micro", bench.kafka.bootstrap, str(bench.directory))
    with servers.running(command, cores=(bench.cores.server,)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise BenchError("The steps could not be measured; the error is above.")
    return {f"micro.{name}": value for name, value in json.loads(line).items()}


@contextmanager
def _both(bench: Bench, name: str) -> Iterator[tuple[Server, Relay]]:
    """Both servers on the same core; the one that is not loaded waits."""
    with servers.bare(bench.cores.server, bench.directory) as bare, bench.relay(name) as relay:
        yield bare, relay


def _rounds(bench: Bench, variants: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for number in range(1, bench.options.rounds + 1):
        for variant in variants:
            yield number, variant


def _count(bench: Bench, rate: int) -> int:
    return round(rate * (bench.options.seconds + bench.options.warmup))


def _throughput(connections: int, bare: list[Window], relay: list[Window]) -> Figures:
    pairs = list(zip(relay, bare, strict=True))
    prefix = f"throughput.{connections}"
    figures = {
        "bare.rate": median(one.rate for one in bare),
        "bare.ratio": 1.0,
        "bare.cpu_us": median(one.cpu_us(one.load.answered) for one in bare),
        "relay.rate": median(one.rate for one in relay),
        "relay.ratio": median(mine.rate / other.rate for mine, other in pairs),
        "relay.answered_rate": median(one.load.answered / one.load.seconds for one in relay),
        "relay.published_rate": median(one.published / one.seconds for one in relay),
        "relay.pending_before": median(one.pending_before for one in relay),
        "relay.pending_after": median(one.pending_after for one in relay),
        "relay.backlog_growth": median(
            (one.pending_after - one.pending_before) / one.load.answered for one in relay
        ),
        "relay.cpu_us": median(one.cpu_us(one.published) for one in relay),
        "relay.cpu_ratio": median(
            mine.cpu_us(mine.published) / other.cpu_us(other.load.answered) for mine, other in pairs
        ),
    }
    named = {f"{prefix}.{name}": value for name, value in figures.items()}
    return named | _shares(f"{prefix}.bare", bare) | _shares(f"{prefix}.relay", relay)


def _shares(prefix: str, some: list[Window]) -> Figures:
    return {
        f"{prefix}.generator_cpu": median(one.load.cpu for one in some),
        f"{prefix}.server_cpu": median(one.server_cpu for one in some),
        f"{prefix}.other_cores": median(one.others for one in some),
        f"{prefix}.foreign": max(one.foreign for one in some),
        **_spread(prefix, [one.load.latency for one in some]),
    }


def _spread(prefix: str, rounds: list[Spread]) -> Figures:
    over = Spread.over(rounds)
    return {
        f"{prefix}.p50_ms": over.p50,
        f"{prefix}.p99_ms": over.p99,
        f"{prefix}.max_ms": over.max,
    }


@contextmanager
def _consumer(bench: Bench, batch: Batch) -> Iterator[Callable[[], list[tuple[int, float]]]]:
    """Start a consumer at the end of the topic; the function waits for what it saw."""
    command = (sys.executable, "-m", "bench.consumer", bench.kafka.bootstrap, batch.run)
    with servers.running((*command, str(batch.count)), cores=bench.cores.others) as process:
        output = process.stdout
        assert output is not None
        if output.readline() != b"ready\n":
            raise BenchError("The consumer did not start; its error is above.")
        yield lambda: json.loads(output.readline() or "[]")


def _watch_drain(relay: Relay, full: int) -> tuple[float, float]:
    """Give the seconds until the backlog began to shrink, and from then until it was gone."""
    began = last_full = time.monotonic()
    while pending := relay.pending():
        now = time.monotonic()
        if pending >= full:
            last_full = now
        if now - began > _LONGEST:
            raise BenchError(f"{pending} of {full} events still pending after {_LONGEST:.0f} s.")
        time.sleep(0.05)
    return last_full - began, time.monotonic() - last_full


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite, and how often it says what it does (for the progress bar)."""

    run: Callable[[Bench], Figures]
    steps: Callable[[Options], int]


SUITES = {
    "throughput": Suite(run=throughput, steps=lambda options: options.rounds * len(CONNECTIONS)),
    "latency": Suite(run=latency, steps=lambda options: options.rounds * len(RATES)),
    "end-to-end": Suite(run=end_to_end, steps=lambda options: options.rounds),
    "flood": Suite(run=flood, steps=lambda _: 1 + len(SHAPES)),
    "drain": Suite(run=drain, steps=lambda _: 2),
    "memory": Suite(run=memory, steps=lambda options: -(-options.memory_events // _MEMORY_BATCH)),
    "start": Suite(run=start, steps=lambda options: options.starts),
    "micro": Suite(run=micro, steps=lambda _: 1),
    "replicas": Suite(run=replicas, steps=lambda options: 1 + 2 * options.rounds + options.starts),
    "long-connection": Suite(run=long_connection, steps=lambda options: 2 * options.rounds + 2),
}
