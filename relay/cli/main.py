"""The command line: reads arguments and settings, calls the part that does the work."""

import os
import signal

if os.getpid() == 1:
    # In a container: the kernel keeps from PID 1 a signal that it has no handler for. Any other
    # process SIGTERM ends by itself. Before the other imports, which take half a second.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))

import asyncio
import math
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from relay import __version__, settings
from relay.cli import claims as cli_claims
from relay.cli import config as cli_config
from relay.cli import events as cli_events
from relay.cli import feishu as cli_feishu
from relay.cli import schema as cli_schema
from relay.cli.events import ConfigOption
from relay.cli.say import complain, console, document, replace_what_no_terminal_shows, say
from relay.errors import JournalError, RelayError, SettingsError
from relay.events import DeadLetterReason
from relay.journal import view as journalview
from relay.observe import logs
from relay.settings import values

app = typer.Typer(
    help="Feishu helpdesk events, once and in order, on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(cli_events.app, name="events")
app.add_typer(cli_claims.app, name="claims")
app.add_typer(cli_schema.app, name="schema")
app.add_typer(cli_config.app, name="config")

#: Exit codes: a thing that failed, and a command or configuration that cannot be understood.
FAILED, MISUSED = 1, 2
#: Seconds between two looks at what is left to drain.
DRAIN_LOOK = 0.2


def main() -> None:
    """Run a command; an error that was foreseen is one message, never a traceback."""
    replace_what_no_terminal_shows()
    try:
        app()
    except (RelayError, OSError) as error:
        from relay.cli.remedies import of

        remedy = of(error)
        complain(_message(error), advice=f"{remedy.advice} ({remedy.place})")
        sys.exit(_exit_code(error))


def _message(error: RelayError | OSError) -> str:
    if isinstance(error, SettingsError):
        return "the configuration is not usable:\n" + _indent(str(error))
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return str(error)


def _exit_code(error: RelayError | OSError) -> int:
    if isinstance(error, SettingsError):
        return MISUSED
    return error.exit_code if isinstance(error, RelayError) else FAILED


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine; of the errors of its task group the first foreseen one is what counts."""
    try:
        return uvloop.run(main)
    except* RelayError as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Take Feishu's events and publish them to Kafka, until SIGTERM."""
    loaded = settings.load(config)
    logs.configure(loaded.log.level, loaded.log.format)
    _run(_serve(loaded))


async def _serve(loaded: settings.Settings) -> None:
    from relay.app import Relay

    stop = asyncio.Event()
    _stop_on_signals(stop)
    await Relay(loaded).run(stop)


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first signal drains; the second ends the process at once, which the journal survives."""

    def on_signal() -> None:
        if stop.is_set():
            os._exit(FAILED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _time(text: str) -> float:
    """Read a length of time as settings have it, or a number of seconds."""
    try:
        found = float(values.seconds(text))  # type: ignore[arg-type]  # a text or a number
    except ValueError:
        found = math.inf
    if not 0 <= found < math.inf:
        raise typer.BadParameter("must be a length of time, as 60s, 5m or 300")
    return found


@app.command()
def drain(
    timeout: Annotated[
        float,
        typer.Option(
            metavar="TIME", parser=_time, help="Then what is left stays on disk: 300, 5m."
        ),
    ] = 300,
    journal: Annotated[
        Path | None, typer.Option(help="A journal file; without it, the settings name one.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Publish what a stopped replica's journal holds, and take nothing; exit 1 if some is left.

    A dead letter that only this journal has is left, too. SIGTERM ends it as a crash would.
    """
    loaded = settings.load(config).at(journal)
    if journal and not journal.exists():
        raise JournalError(f"{journal}: there is no such journal")
    logs.configure(loaded.log.level, loaded.log.format)
    path = loaded.journal.path
    left = _run(_drain(loaded, timeout))
    with cli_events.searching() as progress, journalview.opened(path, progress) as view:
        alone = () if loaded.kafka.dead_letter_value else tuple(DeadLetterReason)
        undecided = view.undecided(alone or journalview.UNDECIDED)
    if left:
        say(f"{path}: {left:,} events left")
    if undecided:
        say(
            f"{path}: {undecided:,} dead letters that only this journal has; replay or discard"
            f" each: relay events list --journal {path} --outcome dead_letter"
        )
    if left or undecided:
        raise typer.Exit(FAILED)
    say("Nothing is left.")


async def _drain(loaded: settings.Settings, timeout: float) -> int:  # noqa: ASYNC109 - a bound
    """Show how many are pending while the journal is emptied."""
    from rich.progress import Progress

    from relay.app import Relay

    relay = Relay(loaded)
    draining = asyncio.create_task(relay.drain(timeout))
    with Progress(console=console(), transient=True) as progress:
        task = progress.add_task("publishing", total=None)
        while not draining.done():
            await asyncio.wait({draining}, timeout=DRAIN_LOOK)
            account = relay.metrics.account()
            done = account.received - account.pending
            progress.update(task, total=account.received or None, completed=done)
    return await draining


@app.command()
def check(
    wait: Annotated[
        float,
        typer.Option(
            metavar="TIME", parser=_time, help="Look again until all will do, at most so long: 60s."
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Look at settings, journal, Kafka and topics; exit 1 if something will not do."""
    from relay.cli.check import failed, findings, settled, show

    tell = (lambda finding: document(finding.document())) if as_json else show
    try:
        loaded = settings.load(config)
    except SettingsError as error:
        if not as_json:
            raise
        tell(failed("settings", error))
        raise typer.Exit(MISUSED) from None
    logs.configure(level="error")
    if not _run(settled(lambda: findings(loaded), wait, tell)):
        raise typer.Exit(FAILED)


@app.command()
def dev(
    rate: Annotated[float, typer.Option(help="Requests per second; 0: as fast as answered.")] = 3,
    repeat: Annotated[float, typer.Option(help="Share of events sent twice.")] = 0.1,
    hostile: Annotated[float, typer.Option(help="Share of requests to be refused.")] = 0.1,
    tickets: Annotated[int, typer.Option(help="Tickets open at a time.")] = 8,
    seed: Annotated[int | None, typer.Option(help="Repeat an earlier run.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds; 0: until Ctrl-C.")] = 0,
    long_connection: Annotated[
        bool, typer.Option("--long-connection", help="Half of the events come that way.")
    ] = False,
) -> None:
    """Run everything on this machine: embedded broker, relay, simulator and a live view."""
    from relay.dev.run import DevOptions, run

    options = DevOptions(
        rate=rate,
        repeat=repeat,
        hostile=hostile,
        tickets=tickets,
        seed=seed,
        duration=duration,
        long_connection=long_connection,
    )
    raise typer.Exit(_run(run(options)))


@app.command()
def simulate(
    url: Annotated[
        str, typer.Option(help="Where to send.")
    ] = "http://127.0.0.1:8080/webhook/event",
    encrypt_key: Annotated[str, typer.Option(envvar="RELAY_APPS__DEFAULT__ENCRYPT_KEY")] = "",
    verification_token: Annotated[
        str, typer.Option(envvar="RELAY_APPS__DEFAULT__VERIFICATION_TOKEN")
    ] = "",
    rate: Annotated[float, typer.Option(help="Requests per second; 0: as fast as answered.")] = 10,
    count: Annotated[int, typer.Option(help="Requests in all; 0: until Ctrl-C.")] = 0,
    repeat: Annotated[float, typer.Option(help="Share of events sent twice.")] = 0.1,
    hostile: Annotated[float, typer.Option(help="Share of requests to be refused.")] = 0.0,
    tickets: Annotated[int, typer.Option(help="Tickets open at a time.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Repeat an earlier run.")] = None,
    time_scale: Annotated[
        float, typer.Option(help="Retry as Feishu does, its waits times this; 0: no retries.")
    ] = 0,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of Feishu's API and long connection; empty: neither.")
    ] = "",
    long_connection: Annotated[
        bool, typer.Option("--long-connection", help="Send over the long connection, not to --url.")
    ] = False,
    drop: Annotated[
        float, typer.Option(help="Seconds between two forced disconnects; 0: none.")
    ] = 0,
    max_part: Annotated[int, typer.Option(help="Bytes of a part of an event; 0: whole.")] = 0,
    ping_interval: Annotated[int, typer.Option(help="Seconds; what clients are told.")] = 120,
    app_id: Annotated[str, typer.Option(envvar="RELAY_APPS__DEFAULT__APP_ID")] = (
        "cli_9f5343c580712544"
    ),
    app_secret: Annotated[str, typer.Option(envvar="RELAY_APPS__DEFAULT__APP_SECRET")] = (
        "dev-app-secret"  # noqa: S107 - guards nothing
    ),
) -> None:
    """Play Feishu: send events by webhook or long connection; exit 1 on a wrong answer."""
    from relay.simulator.gateway import GatewayOptions
    from relay.simulator.run import Server, serve_and_simulate
    from relay.simulator.run import simulate as run
    from relay.simulator.sender import SimulatorOptions

    options = SimulatorOptions(
        url=url,
        encrypt_key=encrypt_key,
        verification_token=verification_token,
        rate=rate,
        count=count,
        repeat=repeat,
        hostile=hostile,
        tickets=tickets,
        seed=seed,
        app_id=app_id,
        time_scale=time_scale,
    )
    if not listen and not long_connection:
        summary = _run(run(options, console()))
    else:
        host, _, port = (listen or "127.0.0.1:7070").rpartition(":")
        if not port.isdecimal():
            raise typer.BadParameter("--listen is HOST:PORT")
        gateway = GatewayOptions(
            app_id=app_id,
            app_secret=app_secret,
            ping_interval=ping_interval,
            max_part=max_part,
            seed=seed,
        )
        server = Server(
            host=host or "127.0.0.1",
            port=int(port),
            gateway=gateway,
            long_connection=long_connection,
            drop=drop,
        )
        summary = _run(serve_and_simulate(options, server, console()))
    if summary.unexpected:
        raise typer.Exit(FAILED)


@app.command()
def tail(
    config: ConfigOption = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="A topic's full name; repeatable. Default: all.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest record.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show what consumers of the topics see, live."""
    from relay.contract.normalize import Router
    from relay.egress.kafka.client import client_options
    from relay.tail import follow, show

    kafka = settings.load(config).kafka
    topics = topic or Router(*kafka.routes).topics
    records = follow(client_options(kafka), topics, from_beginning=from_beginning)
    _run(show(console(), records, prefix=kafka.topic_prefix, as_json=as_json))


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


for command in (
    cli_feishu.subscribe,
    cli_feishu.unsubscribe,
    cli_feishu.subscriptions,
    cli_feishu.backfill,
    cli_config.init,
):
    app.command()(command)
