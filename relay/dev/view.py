"""What `relay dev` shows: what came in, how it was answered, what a consumer saw, and the account.

Two ways to show the same things: a full-screen view on a terminal, plain lines anywhere else. It
only listens: nothing in here changes what the relay or the simulator does.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Protocol, Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from relay.contract.printable import printable
from relay.observe.account import Account
from relay.simulator.run import phrase
from relay.simulator.sender import NO_ANSWER, Answer, Kind, Summary
from relay.tail import (
    TYPE_STYLES,
    WIDE,
    Seen,
    column,
    local_time,
    render,
    short_id,
    short_type,
)

_T = TypeVar("_T")

#: More than the rows of any terminal.
_KEPT = 200
#: Seconds over which rates are taken.
_RATE_WINDOW = 10.0
#: Rows of the header, the rules and the account.
_FIXED_ROWS = 9
#: Rows from which the commands stay on the screen.
_TALL = 23
#: Seconds between two accounts in plain output, and its width in columns.
_ACCOUNT_INTERVAL = 5.0
_LINE_WIDTH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything is, for the header and the commands to send an event by hand."""

    #: How to call `relay`.
    command: str
    webhook: str
    admin: str
    #: With a name and the password.
    console: str
    broker: str
    topic_prefix: str
    encrypt_key: str
    verification_token: str
    #: The token of the app `plain`, which has no encrypt key.
    plain_token: str

    def commands(self) -> str:
        """Two ways to send an event by hand, to be copied as they are."""
        secrets = f"--verification-token {self.verification_token}"
        if self.encrypt_key:
            secrets = f"--encrypt-key {self.encrypt_key} {secrets}"
        return (
            f"{self.command} simulate --count 1 --url {self.webhook} \\\n"
            f"  {secrets}\n"
            f"curl {self.webhook}/plain -d '"
            '{"schema":"2.0","header":{\n'
            """  "event_id":"'$(date +%s)'","event_type":"helpdesk.ticket.created_v1",\n"""
            f'  "token":"{self.plain_token}"}},"event":{{"ticket_id":"7","status":1,\n'
            """  "guest":{"name":"me"}}}'"""
        )


@dataclass(slots=True)
class Board:
    """Everything there is to show, as it comes in."""

    places: Places
    account: Callable[[], Account]
    summary: Summary = field(default_factory=Summary)
    answers: deque[tuple[float, Answer]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    records: deque[Seen] = field(default_factory=lambda: deque(maxlen=_KEPT))
    #: The relay's own log lines.
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    begun: float = field(default_factory=time.monotonic)
    consumed: int = 0
    #: Event ids that a consumer saw more than once; the promise is that there are none.
    twice: int = 0
    _ids: set[str] = field(default_factory=set)
    #: Seconds; of the last events and repeats.
    _acks: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    _in: deque[float] = field(default_factory=deque)
    _out: deque[float] = field(default_factory=deque)

    def answered(self, answer: Answer) -> None:
        """Take in one answer of the relay."""
        self.summary.add(answer)
        self.answers.append((time.time(), answer))
        self._in.append(time.monotonic())
        if not answer.kind.hostile and answer.status != NO_ANSWER:
            self._acks.append(answer.latency)

    def seen(self, record: Seen) -> None:
        """Take in one record as a consumer saw it."""
        self.consumed += 1
        self.records.append(record)
        self._out.append(time.monotonic())
        if event_id := record.header("ce_id"):
            self.twice += event_id in self._ids
            self._ids.add(event_id)

    def account_line(self) -> Text:
        """The promise in numbers, with a mark whether they add up."""
        now = self.account()
        settled = now.published + now.duplicate + now.dead_letter + now.withheld
        holds = now.received == settled + now.pending
        line = Text.assemble(
            ("received ", "dim"), (str(now.received), "bold"),
            (" = published ", "dim"), (str(now.published), "bold green"),
            (" + duplicate ", "dim"), (str(now.duplicate), "bold yellow"),
            (" + dead-lettered ", "dim"), (str(now.dead_letter), "bold red"),
            (f" + withheld {now.withheld}" if now.withheld else "", "dim"),
            (" + pending ", "dim"), (str(now.pending), "bold cyan"),
        )  # fmt: skip
        return line.append("  ✓" if holds else "  ✗ does not add up", "green" if holds else "red")

    def figures_line(self) -> Text:
        """Rates and latencies."""
        acks = sorted(self._acks) or [0.0]
        middle, tail = (acks[int(share * (len(acks) - 1))] * 1000 for share in (0.5, 0.99))
        refused = sum(count for (kind, _), count in self.summary.counts.items() if kind.hostile)
        line = Text.assemble(
            f"in {_rate(self._in, self.begun):.1f}/s · out {_rate(self._out, self.begun):.1f}/s",
            f" · ack p50 {middle:.1f} ms p99 {tail:.1f} ms · refused {refused}",
            f" · consumer {self.consumed}",
        )
        if self.twice:
            line.append(f" · TWICE {self.twice}", "bold red")
        if self.summary.unexpected:
            line.append(f" · UNEXPECTED {self.summary.unexpected}", "bold red")
        return line


def _rate(moments: deque[float], begun: float) -> float:
    now = time.monotonic()
    while moments and moments[0] < now - _RATE_WINDOW:
        moments.popleft()
    return len(moments) / min(_RATE_WINDOW, max(1.0, now - begun))


def render_answer(at: float, answer: Answer, width: int) -> Text:
    """Show one request and its answer in one line."""
    wide = width >= WIDE
    kind = f"forged: {answer.kind}" if answer.kind.hostile else answer.kind.value
    style = "red" if answer.kind.hostile else "yellow" if answer.kind is Kind.REPEAT else "green"
    plain = "dim" if answer.kind.hostile else ""
    short = short_type(answer.event_type)
    line = Text.assemble((local_time(at), "dim"))
    line.append(column(kind, 25), style)
    line.append(
        short_id(answer.ticket_id or "-", wide=wide), "dim" if answer.kind.hostile else "not dim"
    )
    line.append(column(short, 10), plain if answer.kind.hostile else TYPE_STYLES.get(short, plain))
    status = answer.problem or phrase(answer.status)
    if answer.pushed and not answer.problem:
        status = f"acknowledged {answer.status}"
    if answer.unexpected:
        status = f"{answer.problem or answer.status}, must be {answer.expected}"
    elif answer.kind.hostile:
        status = f"refused, {status if wide else answer.status}"
    line.append(column(status, 33 if wide else 17), "bold red" if answer.unexpected else style)
    return line.append(f"{answer.latency * 1000:.1f} ms")


class View(Protocol):
    """One way to show a board."""

    board: Board

    def answered(self, answer: Answer) -> None:
        """Take in one answer of the relay."""

    def seen(self, record: Seen) -> None:
        """Take in one record as a consumer saw it."""

    def tick(self) -> None:
        """Keep up to date; called several times a second."""


class Screen:
    """The full-screen view; the terminal is as before when it ends."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self._live = Live(
            _Frame(board),
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        """Take the screen."""
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the screen back."""
        self._live.stop()

    def answered(self, answer: Answer) -> None:
        """Take in one answer; it shows at the next tick."""
        self.board.answered(answer)

    def seen(self, record: Seen) -> None:
        """Take in one record; it shows at the next tick."""
        self.board.seen(record)

    def tick(self) -> None:
        """Draw."""
        self._live.refresh()


@dataclass(frozen=True, slots=True)
class _Frame:
    """One drawing of the board, as large as the terminal is at that moment."""

    board: Board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board, width = self.board, options.max_width
        height = options.height or console.height
        commands = board.places.commands().splitlines() if height >= _TALL else []
        note = _last(board.notes, 1)
        free = height - _FIXED_ROWS - len(note) - (len(commands) + 1 if commands else 0)
        above = max(1, free // 2)
        answers = [render_answer(*item, width) for item in _last(board.answers, above)]
        prefix, below = board.places.topic_prefix, max(1, free - above)
        records = [render(record, prefix, width=width) for record in _last(board.records, below)]
        yield from _header(board, width)
        yield Rule("what came in, and its answer", align="left", style="blue")
        yield from _filled(answers, above)
        yield Rule("what a read-committed consumer saw", align="left", style="blue")
        yield from _filled(records, below)
        yield Rule("the account", align="left", style="blue")
        yield _row(board.account_line())
        yield _row(board.figures_line())
        yield from [_row(Text(printable(line), "yellow")) for line in note]
        if commands:
            yield Rule("send one by hand", align="left", style="blue")
            yield from [_row(Text(line, "dim")) for line in commands]


def _header(board: Board, width: int) -> RenderResult:
    minutes, seconds = divmod(int(time.monotonic() - board.begun), 60)
    title = Text(column(f"relay dev  {minutes:02d}:{seconds:02d}", width - 16), "bold")
    yield _row(title.append("Ctrl-C to stop", "not bold dim"))
    places = board.places
    yield _row(Text(f"console {places.console}", "cyan"))
    yield _row(Text(f"webhook {places.webhook}  admin {places.admin}", "cyan"))
    yield _row(Text(f"Kafka   {places.broker}  topics {places.topic_prefix}*", "cyan"))


def _row(text: Text) -> Text:
    """Keep a line to one row: cut, never wrapped."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _filled(lines: list[Text], rows: int) -> list[Text]:
    return [_row(line) for line in lines] + [Text()] * (rows - len(lines))


def _last(items: deque[_T], count: int) -> list[_T]:
    return list(items)[-count:]


class Lines:
    """One plain line per thing, for pipes and files."""

    def __init__(self, board: Board, out: IO[str], gone: Callable[[], None]) -> None:
        self.board = board
        self._out = out
        #: Called when nobody reads any more, maybe more than once.
        self._gone = gone
        self._next_account = 0.0

    def __enter__(self) -> Self:
        """Say where everything is."""
        places = self.board.places
        self._say(f"console {places.console}")
        self._say(f"webhook {places.webhook}  admin {places.admin}  Kafka {places.broker}")
        self._say("Send one by hand:\n" + places.commands())
        self._next_account = time.monotonic() + _ACCOUNT_INTERVAL
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def answered(self, answer: Answer) -> None:
        """Take in one answer and print it."""
        self.board.answered(answer)
        self._say("in       " + render_answer(time.time(), answer, _LINE_WIDTH).plain)

    def seen(self, record: Seen) -> None:
        """Take in one record and print it."""
        self.board.seen(record)
        prefix = self.board.places.topic_prefix
        self._say("out      " + render(record, prefix, width=_LINE_WIDTH).plain)

    def tick(self) -> None:
        """Print the account every few seconds, and what the relay logged."""
        while self.board.notes:
            self._say("log      " + printable(self.board.notes.popleft()))
        if time.monotonic() >= self._next_account:
            self._next_account += _ACCOUNT_INTERVAL
            self._say("account  " + self.board.account_line().plain)
            self._say("         " + self.board.figures_line().plain)

    def _say(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except BrokenPipeError:
            self._gone()
