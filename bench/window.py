"""One measured window: load on a server, and what changed meanwhile on both sides."""

import json
import math
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import procfs, servers
from bench.events import Batch, Generator
from bench.load import Load, Plan
from bench.quantiles import Spread
from bench.servers import BenchError, Cores, Relay, Server
from tests.kafka_server import KafkaServer

_WARM = 2_000
_LONGEST = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how often. Times in seconds."""

    rounds: int = 3
    seconds: float = 6.0
    warmup: float = 1.0
    backlog: int = 100_000
    memory_events: int = 1_000_000
    starts: int = 5
    long_connection_events: int = 20_000
    relay: str = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The state of things at one moment; totals since their start."""

    at: float
    server_cpu: float
    server_core: float
    other_cores: float
    published: float
    pending: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One measured window: what the generator saw, and what changed on the machine."""

    server: str
    load: Load
    seconds: float
    published: float
    pending_before: float
    pending_after: float
    #: Share of a core that the server used.
    server_cpu: float
    #: Share of the server's core that others used: they disturb the figure.
    foreign: float
    #: How busy the cores of generator and Kafka were.
    others: float

    @property
    def rate(self) -> float:
        """Events/s that last: for the relay, what was published if that is less."""
        answered = self.load.answered / self.load.seconds
        return min(answered, self.published / self.seconds) if self.published else answered

    def cpu_us(self, events: float) -> float:
        """CPU of the server for each of these events, in microseconds; NaN without events."""
        return 1e6 * self.server_cpu * self.seconds / events if events else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all suites use; it loads a server to the end of a batch, or for a time."""

    options: Options
    cores: Cores
    events: Generator
    kafka: KafkaServer
    directory: Path
    #: Tells what is being done now.
    say: Callable[[str], None]

    @contextmanager
    def relay(
        self, name: str, *, warm: bool = True, environment: Mapping[str, str] | None = None
    ) -> Iterator[Relay]:
        """Start a relay with a journal of its own; warm: it has published events already."""
        with servers.relay(
            self.options.relay,
            self.cores.server,
            self.directory / name,
            self.kafka.bootstrap,
            environment,
        ) as relay:
            if warm:
                self.warm(relay)
            yield relay

    def warm(self, relay: Relay) -> None:
        """Have a relay publish events, so that what comes is its usual state."""
        with self.events.batch(_WARM) as batch:
            self.send_all(relay, batch)
        relay.wait_until_drained()

    def send_all(self, server: Server, batch: Batch) -> Load:
        """Send a batch to its end, by 64 connections."""
        return self._run(
            Plan(
                port=server.port,
                descriptor=batch.descriptor,
                count=batch.count,
                connections=64,
                seconds=_LONGEST,
            )
        )

    def window(self, server: Server, batch: Batch, *, connections: int, rate: float) -> Window:
        """Load a server for the usual time and watch."""
        plan = Plan(
            port=server.port,
            descriptor=batch.descriptor,
            count=batch.count,
            connections=connections,
            seconds=self.options.seconds,
            rate=rate,
            warmup=self.options.warmup,
            wrap=not isinstance(server, Relay),
        )
        samples: list[Sample] = []
        load = self._run(plan, lambda: samples.append(self.sample(server)))
        return _window(server, load, *samples)

    def sample(self, server: Server) -> Sample:
        """Read all counters."""
        metrics = server.metrics() if isinstance(server, Relay) else {}
        return Sample(
            at=time.monotonic(),
            server_cpu=procfs.cpu_seconds(server.pid),
            server_core=procfs.busy_seconds((self.cores.server,)),
            other_cores=procfs.busy_seconds(self.cores.others) / len(self.cores.others),
            published=metrics.get('relay_settled_total{outcome="published"}', 0),
            pending=metrics.get("relay_pending_events", 0),
        )

    def _run(self, plan: Plan, watch: Callable[[], None] | None = None) -> Load:
        """Run the generator; `watch` is called when the measured window begins and ends."""
        command = (sys.executable, "-m", "bench.load", json.dumps(asdict(plan)))
        with servers.running(
            command, cores=self.cores.others, descriptors=(plan.descriptor,)
        ) as process:
            assert process.stdout is not None
            started = json.loads(process.stdout.readline() or "{}").get("started", 0.0)
            if watch is not None:
                time.sleep(max(0.0, started + plan.warmup - time.monotonic()))
                watch()
                left = started + plan.warmup + plan.seconds - time.monotonic()
                select.select([process.stdout], [], [], max(0.0, left))
                watch()
            line = process.stdout.readline()
        return _load(line)


def _load(line: bytes) -> Load:
    if not line:
        raise BenchError("The load generator broke off; its error is above.")
    fields = json.loads(line)
    for name in ("latency", "lateness"):
        fields[name] = Spread(**fields[name])
    load = Load(**fields)
    if load.errors:
        raise BenchError(f"{load.errors} requests failed, the first with: {load.first_error}")
    return load


def _window(server: Server, load: Load, before: Sample, after: Sample) -> Window:
    seconds = after.at - before.at
    cpu = after.server_cpu - before.server_cpu
    return Window(
        server=server.name,
        load=load,
        seconds=seconds,
        published=after.published - before.published,
        pending_before=before.pending,
        pending_after=after.pending,
        server_cpu=cpu / seconds,
        foreign=max(0.0, after.server_core - before.server_core - cpu) / seconds,
        others=(after.other_cores - before.other_cores) / seconds,
    )
