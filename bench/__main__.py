"""The command: `python -m bench`, from the root of the repository (`make bench`)."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import procfs, report
from bench.events import generator
from bench.servers import BenchError, Cores
from bench.suites import SUITES, Figures
from bench.window import Bench, Options
from tests.kafka_server import BENCH_JVM, KafkaError, KafkaServer

_RELAY = Path(sys.executable).with_name("relay")
_QUICK = Options(
    seconds=2,
    warmup=0.5,
    backlog=20_000,
    memory_events=50_000,
    starts=3,
    long_connection_events=4_000,
)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(  # noqa: PLR0913 - one parameter per option of the command
    *,
    only: Annotated[str, typer.Option(help=f"Only these, of: {', '.join(SUITES)}.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A minute or two, rougher.")] = False,
    memory_events: Annotated[
        int | None, typer.Option(min=1, help="Events in the memory run.")
    ] = None,
    relay: Annotated[Path, typer.Option(help="The relay command to measure.")] = _RELAY,
    directory: Annotated[
        Path | None, typer.Option(help="Where the journals lie during the run; a disk.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
) -> None:
    """Measure the relay against a bare aiohttp server, with a real Kafka behind it."""
    console = Console()
    options = _options(relay, quick=quick, memory_events=memory_events)
    try:
        machine, figures = _measure(console, options, _chosen(only), directory)
    except (BenchError, KafkaError) as error:
        console.print(f"[red]The benchmark failed.[/red] {error}", highlight=False)
        raise typer.Exit(1) from error
    report.show(console, figures, machine)
    if json_file:
        content = {"machine": asdict(machine), "options": asdict(options), "figures": figures}
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    if markdown:
        markdown.write_text(report.markdown(figures, machine, _method(options)))


def _options(relay: Path, *, quick: bool, memory_events: int | None) -> Options:
    options = _QUICK if quick else Options()
    return replace(options, relay=str(relay), memory_events=memory_events or options.memory_events)


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(SUITES)
    if unknown := set(names) - set(SUITES):
        raise typer.BadParameter(f"no such suite: {', '.join(sorted(unknown))}")
    return names


def _measure(
    console: Console, options: Options, names: list[str], directory: Path | None
) -> tuple[procfs.Machine, Figures]:
    """Start what all suites need, run them, and stop everything again."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cores = Cores.of_this_machine()
    with ExitStack() as stack:
        say = stack.enter_context(_progress(console, _steps(names, options)))
        place = stack.enter_context(_scratch(directory))
        machine = procfs.describe(place)
        events = stack.enter_context(generator((cores.server, *cores.others)))
        os.sched_setaffinity(0, cores.others)
        kafka = stack.enter_context(KafkaServer(jvm=BENCH_JVM))
        bench = Bench(
            options=options, cores=cores, events=events, kafka=kafka, directory=place, say=say
        )
        figures: Figures = {}
        for name in names:
            figures |= SUITES[name].run(bench)
    return machine, figures


def _steps(names: list[str], options: Options) -> int:
    return sum(SUITES[name].steps(options) for name in names)


@contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[str], None]]:
    """Show a bar, or lines where there is no terminal; the function names the step that begins."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("starting Kafka", total=steps + 1)

        def say(step: str) -> None:
            progress.update(task, description=step, advance=1)
            if not console.is_terminal:
                console.print(step)

        yield say


@contextmanager
def _scratch(directory: Path | None) -> Iterator[Path]:
    """Make a directory on a disk: an fsync into memory would cost nothing."""
    usual = Path(tempfile.gettempdir())
    place = directory or (Path.cwd() if procfs.is_memory(usual) else usual)
    if procfs.is_memory(place):
        raise BenchError(f"{place} lies in memory; name a directory on a disk by --directory.")
    with tempfile.TemporaryDirectory(prefix="relay-bench-", dir=place) as scratch:
        yield Path(scratch)


def _method(options: Options) -> str:
    return (
        f"Medians of {options.rounds} interleaved rounds of {options.seconds:.0f} s; one core for "
        "the server, the others for Kafka and the load generator; default settings: fsync before "
        "each answer, exactly-once. The method is described in `bench/README.md`."
    )


if __name__ == "__main__":
    app(prog_name="python -m bench")
