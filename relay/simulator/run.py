"""A run of the simulator for a person at a terminal: progress, then a table and a sentence."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from relay.simulator.feishu import SmallFeishu
from relay.simulator.gateway import GatewayOptions
from relay.simulator.sender import (
    NO_ANSWER,
    Answer,
    Kind,
    Simulator,
    SimulatorOptions,
    Summary,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What else of Feishu is played: its API, and the long connection's gateway."""

    host: str
    port: int
    gateway: GatewayOptions
    #: Events go to the long connections, not to a URL.
    long_connection: bool = False
    #: Seconds between two forced disconnects, on average; 0: none.
    drop: float = 0


async def serve_and_simulate(
    options: SimulatorOptions, server: Server, console: Console
) -> Summary:
    """Play all of Feishu: API, gateway, and events. Raises OSError if the port is taken."""
    feishu = SmallFeishu(server.gateway)
    await feishu.start(server.host, server.port)
    dropping = asyncio.create_task(_drop(feishu, server.drop))
    try:
        _introduce(feishu, server.gateway, console)
        if not server.long_connection:
            return await simulate(options, console)
        if not feishu.gateway.clients:
            console.print("Waiting for a client to connect ...")
        await feishu.gateway.arrived.wait()
        return await simulate(options, console, feishu=feishu)
    finally:
        dropping.cancel()
        await feishu.stop()


def _introduce(feishu: SmallFeishu, gateway: GatewayOptions, console: Console) -> None:
    """Say what a relay needs to become a client."""
    console.print(f"Feishu is played at {feishu.url}. A relay becomes its client with:")
    for name, value in (
        ("RELAY_FEISHU_URL", feishu.url),
        ("RELAY_APPS__DEFAULT__LONG_CONNECTION", "true"),
        ("RELAY_APPS__DEFAULT__APP_ID", gateway.app_id),
        ("RELAY_APPS__DEFAULT__APP_SECRET", gateway.app_secret),
        ("RELAY_APPS__DEFAULT__HELPDESK_ID", feishu.desk.helpdesk_id),
        ("RELAY_APPS__DEFAULT__HELPDESK_TOKEN", feishu.desk.helpdesk_token),
    ):
        console.print(f"  {name}={value}", highlight=False, soft_wrap=True)


async def _drop(feishu: SmallFeishu, seconds: float) -> None:
    """Close the connection of somebody every now and then."""
    while seconds:
        await asyncio.sleep(random.expovariate(1 / seconds))
        await feishu.gateway.drop()


async def simulate(
    options: SimulatorOptions, console: Console, feishu: SmallFeishu | None = None
) -> Summary:
    """Run the simulator for a person at a terminal: progress, then a table and a sentence.

    Ctrl-C ends it early, with the table. Raises RelayError if nothing listens at the URL.
    """
    summary = Summary()
    begun = time.monotonic()
    with _progress(options, console, summary) as tick:

        def report(answer: Answer) -> None:
            summary.add(answer)
            tick()

        try:
            await Simulator(options, feishu).run(report)
        except asyncio.CancelledError:
            console.print("Stopped.")
    console.print(table(summary, long_connection=feishu is not None))
    console.print(sentence(summary, time.monotonic() - begun))
    return summary


@contextmanager
def _progress(
    options: SimulatorOptions, console: Console, summary: Summary
) -> Iterator[Callable[[], None]]:
    """Show a bar when the end is known, else a spinner; nothing where nobody watches."""
    columns = (BarColumn(), MofNCompleteColumn()) if options.count else (SpinnerColumn(),)
    progress = Progress(
        *columns,
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=options.count or None)
    begun = time.monotonic()

    def tick() -> None:
        rate = summary.sent / max(time.monotonic() - begun, 0.001)
        text = f"{summary.sent} sent, {rate:,.0f}/s, {summary.unexpected} unexpected"
        progress.update(task, completed=summary.sent, description=text)

    with progress if console.is_terminal else nullcontext():
        yield tick


def table(summary: Summary, *, long_connection: bool = False) -> Table:
    """Compare what was sent with what was answered."""
    result = Table("sent", "answered", "requests", "", box=None, padding=(0, 2, 0, 0))
    result.columns[2].justify = "right"
    order = list(Kind)
    for (kind, status), count in sorted(
        summary.counts.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
    ):
        verdict = "[green]as it must be[/]"
        if status != (expected := kind.expected(long_connection=long_connection)):
            verdict = f"[red]must be {phrase(expected)}[/]"
        result.add_row(kind.value, phrase(status), f"{count:,}", verdict)
    return result


def phrase(status: int) -> str:
    """Name a status for a reader: `401 Unauthorized`, `no answer`."""
    if status == NO_ANSWER:
        return "no answer"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # its name depends on Python's version
        return f"{status} Too Large"
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def sentence(summary: Summary, seconds: float) -> str:
    """Say in plain words how it went."""
    if not summary.sent:
        return "Nothing was sent."
    verdict = "every answer was as it must be"
    if summary.unexpected:
        verdict = f"[red]{_counted(summary.unexpected, 'answer')} not as it must be[/]"
    middle, tail = summary.quantile(0.5) * 1000, summary.quantile(0.99) * 1000
    rate = summary.sent / max(seconds, 0.001)
    return (
        f"{_counted(summary.sent, 'request')} in {seconds:.1f} s ({rate:,.0f}/s); "
        f"{verdict}; answered in {middle:.1f} ms (p50), {tail:.1f} ms (p99), "
        f"{summary.slowest * 1000:.1f} ms (slowest).\n{_fates(summary)}"
    )


def _fates(summary: Summary) -> str:
    """Say what became of the events among the requests, repeats included."""
    taken = late = 0
    for (kind, status), count in summary.counts.items():
        if not kind.hostile:
            taken += count * (status == HTTPStatus.OK)
            late += count * (status == NO_ANSWER)
    return (
        f"Events: {taken:,} acknowledged, {late:,} not answered within 3 s, "
        f"{summary.retried:,} sent again, {summary.lost:,} lost."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
