"""Says what the figures mean: tables for the terminal and for Markdown, with bounds and aims."""

import math
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from bench.flood import GOOD_RATE, SHAPES
from bench.procfs import Machine
from bench.suites import CONNECTIONS, END_TO_END_RATE, RATES, Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that is to be reached: at least the bound, better the aim."""

    what: str
    figure: str
    #: A second figure, named in the text of `what`.
    counted: str = ""
    bound: float
    aim: float
    unit: str = ""
    digits: int = 1
    more_is_better: bool = False

    def mark(self, value: float) -> str:
        """Judge a value."""
        if self._reaches(value, self.aim):
            return "aim met"
        return "bound met" if self._reaches(value, self.bound) else "MISSED"

    def text(self, value: float) -> str:
        """Give a value with its unit."""
        return number(value, self.digits) + (f" {self.unit}" if self.unit else "")

    def _reaches(self, value: float, limit: float) -> bool:
        return value >= limit if self.more_is_better else value <= limit


#: A backlog does not grow if it grows by less than one batch: this share of a window's events.
GROWTH = 0.05

#: CPU of a request to bare aiohttp where the bounds come from, in microseconds. They hold there;
#: on another machine only what is compared in the same run does.
BARE_US = 41

TARGETS = (
    Target(
        what="events/s, share of bare aiohttp, 64 connections",
        figure="throughput.64.relay.ratio",
        bound=0.30,
        aim=0.42,
        digits=2,
        more_is_better=True,
    ),
    Target(
        what="events/s, share of bare aiohttp, 256 connections",
        figure="throughput.256.relay.ratio",
        bound=0.34,
        aim=0.45,
        digits=2,
        more_is_better=True,
    ),
    Target(
        what="growth of the backlog meanwhile, of the events, 64 connections",
        figure="throughput.64.relay.backlog_growth",
        bound=GROWTH,
        aim=GROWTH,
        digits=2,
    ),
    Target(
        what="growth of the backlog meanwhile, of the events, 256 connections",
        figure="throughput.256.relay.backlog_growth",
        bound=GROWTH,
        aim=GROWTH,
        digits=2,
    ),
    Target(
        what="CPU per event at full load, 64 connections",
        figure="throughput.64.relay.cpu_us",
        bound=140,
        aim=105,
        unit="us",
    ),
    Target(
        what="the same, times bare aiohttp's",
        figure="throughput.64.relay.cpu_ratio",
        bound=140 / BARE_US,
        aim=105 / BARE_US,
        digits=2,
    ),
    Target(
        what="verify, decrypt, parse, normalize",
        figure="micro.envelope_and_normalize_us",
        bound=60,
        aim=30,
        unit="us",
    ),
    Target(
        what="answer p50 at 1,000/s",
        figure="latency.1000.relay.p50_ms",
        bound=1,
        aim=0.6,
        unit="ms",
        digits=2,
    ),
    Target(
        what="answer p99 at 1,000/s",
        figure="latency.1000.relay.p99_ms",
        bound=6,
        aim=3,
        unit="ms",
        digits=2,
    ),
    Target(
        what="answer p99 at 500/s",
        figure="latency.500.relay.p99_ms",
        bound=8,
        aim=3,
        unit="ms",
        digits=2,
    ),
    Target(
        what="answer p99 at full load, 64 connections",
        figure="throughput.64.relay.p99_ms",
        bound=40,
        aim=15,
        unit="ms",
    ),
    Target(
        what="end to end p50 at 500/s",
        figure="end_to_end.500.p50_ms",
        bound=60,
        aim=30,
        unit="ms",
    ),
    Target(
        what="answer p99 at 50/s beside 8 MB/s of unsigned bodies, worst of eight shapes",
        figure="flood.p99_ms",
        bound=50,
        aim=20,
        unit="ms",
    ),
    Target(
        what="drain of a backlog",
        figure="drain.rate",
        bound=8_000,
        aim=20_000,
        unit="events/s",
        digits=0,
        more_is_better=True,
    ),
    Target(
        what="resident memory after {:,.0f} events",
        counted="memory.events",
        figure="memory.rss_mb",
        bound=90,
        aim=60,
        unit="MB",
    ),
    Target(
        what="resident memory added by {:,.0f} pending events",
        counted="drain.events",
        figure="drain.rss_added_mb",
        bound=15,
        aim=5,
        unit="MB",
    ),
    Target(
        what="start to ready",
        figure="start.seconds",
        bound=1.5,
        aim=0.5,
        unit="s",
        digits=2,
    ),
    Target(
        what="answer p99, 3 replicas with claims at 300/s in all",
        figure="replicas.answer.p99_ms",
        bound=20,
        aim=10,
        unit="ms",
    ),
    Target(
        what="CPU of claims per event",
        figure="replicas.claims_us",
        bound=15,
        aim=5,
        unit="us",
    ),
    Target(
        what="events/s of 2 replicas, times those of 1",
        figure="replicas.scale",
        bound=1.8,
        aim=1.95,
        digits=2,
        more_is_better=True,
    ),
    Target(
        what="SIGTERM until the exit, beyond the drain delay, slowest",
        figure="replicas.stop_s",
        bound=1,
        aim=0.5,
        unit="s",
        digits=2,
    ),
    Target(
        what="events/s over one long connection, times the official Python client",
        figure="longconn.ratio",
        bound=3,
        aim=6,
        more_is_better=True,
    ),
    Target(
        what="acknowledgement p99 at 200/s, long connection",
        figure="longconn.relay.p99_ms",
        bound=15,
        aim=5,
        unit="ms",
    ),
    Target(
        what="resident memory that a long connection adds",
        figure="longconn.rss_added_mb",
        bound=10,
        aim=5,
        unit="MB",
    ),
    Target(
        what="connection dropped until the next attempt, slowest",
        figure="longconn.reconnect_s",
        bound=2,
        aim=1,
        unit="s",
        digits=2,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text; the first column names, the others hold figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> RichTable:
        """Draw it for a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row, style="red" if "MISSED" in row else None)
        return table

    def markdown(self) -> str:
        """Write it as Markdown."""
        rule = (":--", *("--:" for _ in self.header[1:]))
        lines = (f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows))
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


def tables(figures: Figures) -> list[Table]:
    """Give the tables for which there are figures."""
    made = [
        _targets(figures),
        _throughput(figures),
        _latency(figures),
        _flood(figures),
        _long_connection(figures),
        _others(figures),
    ]
    return [table for table in made if table.rows]


def show(console: Console, figures: Figures, machine: Machine) -> None:
    """Print everything."""
    for table in tables(figures):
        console.print(table.rich())
    for text in (describe(machine), *notes(figures)):
        console.print(text, markup=False, highlight=False)


def markdown(figures: Figures, machine: Machine, method: str) -> str:
    """Give everything as Markdown: the machine, how it was measured, the tables."""
    parts = [describe(machine), method, *(table.markdown() for table in tables(figures))]
    return "\n\n".join(part.strip() for part in (*parts, *notes(figures))) + "\n"


def describe(machine: Machine) -> str:
    """Describe the machine in a sentence or two."""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gb} GB memory, "
        f"Linux {machine.kernel}, Python {machine.python}. Disk: 4 KiB and fdatasync take "
        f"{machine.fsync.p50:.2f} ms (p50), {machine.fsync.p99:.2f} ms (p99)."
    )


def notes(figures: Figures) -> list[str]:
    """Say what makes the figures doubtful."""
    made = []
    for ending, limit, sentence in _DOUBTS:
        worst = max((v for name, v in figures.items() if name.endswith(ending)), default=0.0)
        if worst > limit:
            made.append(f"Doubtful: {sentence} ({worst:.0%}).")
    return made


def _cell(figures: Figures, name: str, digits: int, unit: str) -> str:
    text = number(figures.get(name, math.nan), digits)
    return f"{text} {unit}" if unit else text


def number(value: float, digits: int = 1) -> str:
    """Write a figure with separated thousands; a dash for one that is not known."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _targets(figures: Figures) -> Table:
    rows = []
    for target in TARGETS:
        if (value := figures.get(target.figure)) is not None:
            what = target.what.format(figures.get(target.counted))
            limits = (target.text(target.bound), target.text(target.aim))
            rows.append((what, target.text(value), *limits, target.mark(value)))
    return Table(
        title="Figures to reach",
        header=("what", "measured", "bound", "aim", ""),
        rows=tuple(rows),
    )


def _flood(figures: Figures) -> Table:
    shapes = [shape for shape in ("nothing", *SHAPES) if f"flood.{shape}.p99_ms" in figures]
    rows = [
        (
            shape,
            *(
                _cell(figures, f"flood.{shape}.{name}", 1, unit)
                for name, unit in (("mb_per_s", "MB/s"), ("p50_ms", "ms"), ("p99_ms", "ms"))
            ),
        )
        for shape in shapes
    ]
    return Table(
        title=f"Strangers' bodies beside {GOOD_RATE} good events/s",
        header=("shape", "sent", "p50", "p99"),
        rows=tuple(rows),
    )


def _throughput(figures: Figures) -> Table:
    measured = [number for number in CONNECTIONS if f"throughput.{number}.relay.rate" in figures]
    columns = [(number, server) for number in measured for server in ("bare", "relay")]
    rows = [
        (
            what,
            *(
                _cell(figures, f"throughput.{number}.{server}.{name}", digits, unit)
                for number, server in columns
            ),
        )
        for what, name, digits, unit in _THROUGHPUT
    ]
    return Table(
        title="Full load on one core, by connections",
        header=("", *(f"{server} {number}" for number, server in columns)),
        rows=tuple(rows if columns else ()),
    )


def _latency(figures: Figures) -> Table:
    rows = tuple(
        _latency_row(figures, rate, server)
        for rate in RATES
        for server in ("bare", "relay")
        if f"latency.{rate}.{server}.p50_ms" in figures
    )
    return Table(
        title="Time to answer at a fixed rate, and how late the load generator was",
        header=("rate", "server", "p50", "p99", "max", "late p99", "late max", "others"),
        rows=rows,
    )


def _latency_row(figures: Figures, rate: int, server: str) -> tuple[str, ...]:
    def of(name: str) -> str:
        return number(figures[f"latency.{rate}.{server}.{name}"], 2)

    times = ("p50_ms", "p99_ms", "max_ms", "generator_late.p99_ms", "generator_late.max_ms")
    return (f"{rate:,}/s", server, *(f"{of(name)} ms" for name in times), of("foreign"))


def _long_connection(figures: Figures) -> Table:
    clients = ("relay", "official")
    rows = tuple(
        (what, *(_cell(figures, f"longconn.{one}.{name}", digits, unit) for one in clients))
        for what, name, digits, unit in _LONG_CONNECTION
        if f"longconn.relay.{name}" in figures
    )
    return Table(
        title="One long connection, events in Kafka before the end of the clock",
        header=("", "relay", "official Python client"),
        rows=rows,
    )


def _others(figures: Figures) -> Table:
    return Table(
        title="One by one",
        header=("what", "measured"),
        rows=tuple(
            (what, _cell(figures, name, digits, unit))
            for what, name, digits, unit in _OTHERS
            if name in figures
        ),
    )


_DOUBTS = (
    (".foreign", 0.10, "other processes or the hypervisor used the server's core"),
    (".generator_cpu", 0.90, "the load generator used up its core"),
    (".other_cores", 0.95, "Kafka and the load generator used up their cores"),
)
_THROUGHPUT = (
    ("events/s", "rate", 0, ""),
    ("share of bare aiohttp", "ratio", 2, ""),
    ("answered/s", "answered_rate", 0, ""),
    ("published/s", "published_rate", 0, ""),
    ("pending at the begin", "pending_before", 0, ""),
    ("pending at the end", "pending_after", 0, ""),
    ("CPU of the server per event", "cpu_us", 1, "us"),
    ("answer p50", "p50_ms", 1, "ms"),
    ("answer p99", "p99_ms", 1, "ms"),
    ("answer max", "max_ms", 1, "ms"),
    ("CPU of the server", "server_cpu", 2, ""),
    ("CPU of the load generator", "generator_cpu", 2, ""),
    ("other cores busy", "other_cores", 2, ""),
    ("others on the server's core", "foreign", 2, ""),
)
_LONG_CONNECTION = (
    ("events/s", "rate", 0, ""),
    ("acknowledgement at 200/s, p50", "p50_ms", 1, "ms"),
    ("acknowledgement at 200/s, p99", "p99_ms", 1, "ms"),
    ("acknowledgement at 200/s, max", "max_ms", 1, "ms"),
    ("resident memory, after 1,400 events", "rss_mb", 1, "MB"),
    ("acknowledged in a run with a kill", "kill_acknowledged", 0, ""),
    ("of them lost", "kill_lost", 0, ""),
    ("on the topic more than once", "kill_twice", 0, ""),
)
_END_TO_END = f"end_to_end.{END_TO_END_RATE}"
_OTHERS = (
    (f"end to end at {END_TO_END_RATE}/s, p50", f"{_END_TO_END}.p50_ms", 1, "ms"),
    (f"end to end at {END_TO_END_RATE}/s, p99", f"{_END_TO_END}.p99_ms", 1, "ms"),
    (f"end to end at {END_TO_END_RATE}/s, max", f"{_END_TO_END}.max_ms", 1, "ms"),
    ("accepted while Kafka hangs", "drain.accepted_rate", 0, "events/s"),
    ("Kafka back until the backlog shrinks", "drain.noticed_s", 2, "s"),
    ("backlog drained, from then on", "drain.rate", 0, "events/s"),
    ("resident before the backlog", "drain.rss_before_mb", 1, "MB"),
    ("resident with the backlog", "drain.rss_backlog_mb", 1, "MB"),
    ("resident after the drain", "drain.rss_drained_mb", 1, "MB"),
    ("resident after the first 2,000 events", "memory.rss_start_mb", 1, "MB"),
    ("resident at the end of the memory run", "memory.rss_mb", 1, "MB"),
    ("most ever resident in the memory run", "memory.rss_peak_mb", 1, "MB"),
    ("start to ready, median", "start.seconds", 2, "s"),
    ("start to ready, slowest", "start.slowest_s", 2, "s"),
    ("3 replicas at 300/s in all: answer, p50", "replicas.answer.p50_ms", 2, "ms"),
    ("3 replicas at 300/s in all: answer, max", "replicas.answer.max_ms", 1, "ms"),
    ("1 replica with a quarter of a core", "replicas.one.rate", 0, "events/s"),
    ("2 replicas with a quarter of a core each", "replicas.two.rate", 0, "events/s"),
    ("verify, decrypt, parse", "micro.envelope_us", 1, "us/event"),
    ("normalize", "micro.normalize_us", 1, "us/event"),
    ("commit, 64 at once: CPU", "micro.commit_us", 1, "us/event"),
    ("commit, 64 at once: time", "micro.commit_wall_us", 1, "us/event"),
    *(
        (f"pack 40 for a partition, {name}: {what}", f"micro.pack_{name}_{key}", 1, unit)
        for name in ("none", "gzip", "snappy", "lz4", "zstd")
        for what, key, unit in (("CPU", "us", "us/event"), ("bytes", "bytes", "B/event"))
    ),
    ("publish, 500 at once: CPU", "micro.publish_us", 1, "us/event"),
    ("publish, 500 at once: time", "micro.publish_wall_us", 1, "us/event"),
    ("read back and settle, 500 at once: CPU", "micro.settle_us", 1, "us/event"),
    ("read back and settle, 500 at once: time", "micro.settle_wall_us", 1, "us/event"),
)
