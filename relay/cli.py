"""The command line: reads arguments and settings, calls the part that does the work."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from relay import __version__, logs, settings
from relay.errors import RelayError, SettingsError

app = typer.Typer(
    help="Feishu helpdesk events, once and in order, on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings (default: RELAY_CONFIG)."),
]

#: Exit codes: a thing that failed, and a command or configuration that cannot be understood.
FAILED, MISUSED = 1, 2


def main() -> None:
    """Run a command; an error that was foreseen is one message, never a traceback."""
    try:
        app()
    except SettingsError as error:
        _complain("the configuration is not usable:\n" + _indent(str(error)))
        sys.exit(MISUSED)
    except RelayError as error:
        _complain(str(error))
        sys.exit(FAILED)
    except OSError as error:
        _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(FAILED)


def _complain(message: str) -> None:
    typer.secho(f"relay: {message}", err=True, fg=typer.colors.RED)


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
    logs.configure(loaded.log)
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


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
