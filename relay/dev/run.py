"""`relay dev`: broker, relay, simulator and a consumer in one process, and a view of all four.

Everything is real but the people: the relay runs as in production, on a journal of its own in a
temporary directory. Nothing is left behind.
"""

import asyncio
import io
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Sequence
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    redirect_stderr,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from relay.app import Relay
from relay.contract.normalize import Router
from relay.dev import settings as devsettings
from relay.dev.broker import EmbeddedBroker
from relay.dev.view import Board, Lines, Places, Screen, View
from relay.egress.kafka.client import client_options
from relay.egress.kafka.topics import journal_topic
from relay.observe import logs
from relay.settings import Settings
from relay.simulator.feishu import SmallFeishu
from relay.simulator.run import table
from relay.simulator.sender import Simulator, SimulatorOptions
from relay.tail import Tail

_T = TypeVar("_T")

_BOOTSTRAP = "RELAY_KAFKA__BOOTSTRAP_SERVERS"
#: Seconds between two drawings.
_TICK = 0.125
#: Seconds that the consumer gets to see what the relay has published last.
_CATCH_UP = 3.0
_INTERRUPTED = 130
#: Seconds that the relay gets to open its long connection.
_CONNECTING = 10.0
#: Log lines kept for the view.
_NOTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    """What the simulator does meanwhile."""

    #: Requests per second; 0 is as fast as they are answered.
    rate: float = 3
    #: Share of events that are sent a second time.
    repeat: float = 0.1
    #: Share of requests that must be refused.
    hostile: float = 0.1
    #: Tickets open at a time.
    tickets: int = 8
    seed: int | None = None
    #: Seconds; 0 is until Ctrl-C.
    duration: float = 0
    #: Send half of the events over a long connection.
    long_connection: bool = False


async def run(options: DevOptions) -> int:
    """Run until Ctrl-C, SIGTERM or the duration's end; give the exit code.

    A second Ctrl-C does not wait for the drain. Raises RelayError if a part cannot start.
    """
    console = Console()
    try:
        with _stopped_by_signals() as stop:
            board = await _run(options, console, stop)
    except asyncio.CancelledError:
        return _INTERRUPTED
    console.print(table(board.summary))
    console.print(board.account_line(), soft_wrap=True)
    console.print(board.figures_line(), soft_wrap=True)
    return 0


async def _run(options: DevOptions, console: Console, stop: asyncio.Event) -> Board:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-dev-"))
        broker = None if os.environ.get(_BOOTSTRAP) else stack.enter_context(EmbeddedBroker())
        feishu = await _feishu(stack) if options.long_connection else None
        config = _configure(Path(directory), broker, feishu)
        notes = stack.enter_context(_logs_as_notes(config))
        app = Relay(config)
        relay = await stack.enter_async_context(_running(app))
        tail = await stack.enter_async_context(_tail(config, broker))
        board = Board(_places(config, app, broker), app.metrics.account, notes=notes)
        with _view(board, console, stop) as view:
            if feishu:
                async with asyncio.timeout(_CONNECTING):
                    await feishu.gateway.arrived.wait()
            simulators = _simulators(options, config, board.places, feishu)
            await _play(options, simulators, view, relay, tail, stop)
        return board


async def _feishu(stack: AsyncExitStack) -> SmallFeishu:
    """Play Feishu's side of the long connection for as long as the stack lasts."""
    feishu = SmallFeishu()
    await feishu.start()
    stack.push_async_callback(feishu.stop)
    return feishu


def _configure(
    directory: Path, broker: EmbeddedBroker | None, feishu: SmallFeishu | None
) -> Settings:
    """Load the settings, and make the topics on a broker that makes none when asked."""
    config = devsettings.load(directory, broker.bootstrap if broker else "", feishu)
    if broker:
        router = Router(*config.kafka.routes)
        broker.create_topics([*router.topics, journal_topic(config.kafka)])
    return config


def _tail(config: Settings, broker: EmbeddedBroker | None) -> Tail:
    """A consumer of all topics; on a real broker it starts at their end."""
    topics = Router(*config.kafka.routes).topics
    return Tail(client_options(config.kafka), topics, from_beginning=broker is not None)


def _places(config: Settings, app: Relay, broker: EmbeddedBroker | None) -> Places:
    default, plain = config.apps["default"], config.apps["plain"]
    return Places(
        command=_command(),
        webhook=f"http://127.0.0.1:{app.webhook_port}/webhook/event",
        admin=f"http://127.0.0.1:{app.admin_port}",
        console=_console(config, app),
        broker=config.kafka.bootstrap_servers + (" (embedded)" if broker else ""),
        topic_prefix=config.kafka.topic_prefix,
        encrypt_key=default.encrypt_keys[0],
        verification_token=default.verification_tokens[0],
        plain_token=plain.verification_tokens[0],
    )


def _console(config: Settings, app: Relay) -> str:
    """Give what opens the pages as it is typed: the password in it guards nothing."""
    password = quote(config.console.password.get_secret_value(), safe="")
    return f"http://dev:{password}@127.0.0.1:{app.console_port}"


def _command() -> str:
    """How this shell calls `relay`: by its name, or by the path that was used."""
    path = Path(sys.argv[0])
    if path.name != "relay" or shutil.which("relay") == str(path):
        return "relay"
    return os.path.relpath(path)


def _view(board: Board, console: Console, stop: asyncio.Event) -> Screen | Lines:
    if console.is_terminal:
        return Screen(board, console)

    def gone() -> None:
        """Nobody reads any more, as after `| head`: end, and write the rest to nowhere."""
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a descriptor is needed
            os.dup2(nowhere.fileno(), console.file.fileno())
        stop.set()

    return Lines(board, console.file, gone)


@dataclass(frozen=True, slots=True)
class _Running:
    """The relay at work: set `stop`, then await `task`."""

    task: asyncio.Task[None]
    stop: asyncio.Event


@asynccontextmanager
async def _running(app: Relay) -> AsyncIterator[_Running]:
    """Run the relay until the context ends; raises what ended it earlier."""
    stop = asyncio.Event()
    async with _background(app.run(stop)) as task, _background(app.ready.wait()) as ready:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        try:
            yield _Running(task, stop)
        finally:
            stop.set()
            await task


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, _T]) -> AsyncIterator[asyncio.Task[_T]]:
    """Run beside the context, and not longer."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _play(
    options: DevOptions,
    simulators: Sequence[Simulator],
    view: View,
    relay: _Running,
    tail: Tail,
    stop: asyncio.Event,
) -> None:
    """Send, relay, consume and show, until told to stop; then end in that order."""
    halt = asyncio.Event()
    simulating = asyncio.gather(*(one.run(view.answered, halt) for one in simulators))
    async with (
        _background(_consume(tail, view)) as consuming,
        _background(_draw(view)) as drawing,
        _background(_awaited(simulating)) as sending,
        _background(stop.wait()) as stopped,
    ):
        await asyncio.wait(
            {relay.task, consuming, drawing, sending, stopped},
            timeout=options.duration or None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        halt.set()
        await sending
        relay.stop.set()
        await relay.task
        for task in (consuming, drawing):
            if task.done():
                task.result()  # raises what ended it
        await _catch_up(view.board)
        view.tick()


async def _awaited(work: Awaitable[Any]) -> None:
    await work


def _simulators(
    options: DevOptions, config: Settings, places: Places, feishu: SmallFeishu | None
) -> list[Simulator]:
    """Make one that calls the webhook, and perhaps one that pushes over the long connection."""
    calling = _simulator_options(options, config, places)
    if feishu is None:
        return [Simulator(calling)]
    half = replace(calling, rate=options.rate / 2)
    # Events of its own: to relay, the same id in another app is another event.
    seed = None if options.seed is None else options.seed + 1
    pushing = replace(half, hostile=0, app_id=feishu.gateway.options.app_id, seed=seed)
    return [Simulator(half), Simulator(pushing, feishu)]


def _simulator_options(options: DevOptions, config: Settings, places: Places) -> SimulatorOptions:
    return SimulatorOptions(
        url=places.webhook,
        encrypt_key=places.encrypt_key,
        verification_token=places.verification_token,
        rate=options.rate,
        repeat=options.repeat,
        hostile=options.hostile,
        tickets=options.tickets,
        app_id=config.apps["default"].app_id,
        seed=options.seed,
        max_body_bytes=config.webhook.max_body_bytes,
    )


async def _consume(tail: Tail, view: View) -> None:
    async for record in tail.records():
        view.seen(record)


async def _draw(view: View) -> None:
    while True:
        view.tick()
        await asyncio.sleep(_TICK)


async def _catch_up(board: Board) -> None:
    """Give the consumer a moment to see what the relay published last."""
    account = board.account()
    for _ in range(int(_CATCH_UP / _TICK)):
        if board.consumed >= account.published + account.dead_letter:
            return
        await asyncio.sleep(_TICK)


@contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """The first SIGINT or SIGTERM sets the event, the next one cancels the caller."""
    stop, loop, caller = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and caller:
            caller.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def _logs_as_notes(config: Settings) -> Iterator[deque[str]]:
    """Show the relay's log lines in the view: on the screen they would tear it."""
    notes: deque[str] = deque(maxlen=_NOTES)
    with redirect_stderr(_Notes(notes)):
        logs.configure(config.log.level, config.log.format)
        yield notes


class _Notes(io.TextIOBase):
    """A stream that keeps what is written as lines without colours."""

    def __init__(self, notes: deque[str]) -> None:
        self._notes = notes

    def write(self, text: str) -> int:
        """Keep what is more than white space."""
        self._notes.extend(Text.from_ansi(line).plain for line in text.splitlines() if line.strip())
        return len(text)
