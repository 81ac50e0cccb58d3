"""What the commands of `relay events` are asked with: which journal, and which events of it."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.say import event_types, named
from relay.events import Outcome, Transport
from relay.journal import view as journalview
from relay.journal.search import Filter

if TYPE_CHECKING:
    from relay.contract.normalize import Router

#: More events than any journal has.
MOST = 10**15


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings (default: RELAY_CONFIG)."),
]
JournalOption = Annotated[
    Path | None,
    typer.Option("--journal", help="A journal file; without it, the settings name one."),
]
AppOption = Annotated[
    str | None,
    typer.Option("--app", callback=named, help="The app, where two have an event of the same id."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Ending(StrEnum):
    """What events can be narrowed to."""

    PENDING = journalview.PENDING
    PUBLISHED = Outcome.PUBLISHED.value
    DUPLICATE = Outcome.DUPLICATE.value
    DEAD_LETTER = Outcome.DEAD_LETTER.value
    WITHHELD = Outcome.WITHHELD.value


def moment(text: str) -> int:
    """Read a time: `2h` is two hours ago; or a date, with a time of UTC unless it says otherwise.

    Gives Unix time in milliseconds.
    """
    if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
        return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text}: neither 2h (30s, 5m, 3d) nor 2026-12-01 or 2026-12-01T10:30"
        raise typer.BadParameter(message) from None
    return int(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)


#: By the name that Filter has for it.
_NARROWING: dict[str, Any] = {
    "ticket": Annotated[
        str | None,
        typer.Option("--ticket", callback=named, help="A ticket's id, or another key of records."),
    ],
    "message_id": Annotated[
        str | None, typer.Option("--message", callback=named, help="A message's id.")
    ],
    "event_type": Annotated[
        str | None,
        typer.Option(
            "--type",
            callback=named,
            help="An event type, as Feishu has it.",
            autocompletion=event_types,
        ),
    ],
    "app": Annotated[
        str | None, typer.Option("--app", callback=named, help="An app, as the settings name it.")
    ],
    "since": Annotated[
        int | None,
        typer.Option(
            "--since", parser=moment, metavar="WHEN", help="Received since: 2h, 2026-12-01T10:30."
        ),
    ],
    "until": Annotated[
        int | None,
        typer.Option("--until", parser=moment, metavar="WHEN", help="Received before that."),
    ],
    "transport": Annotated[Transport | None, typer.Option("--transport", help="How it came.")],
    "outcome": Annotated[
        Ending | None, typer.Option("--outcome", help="Ended so, or has not ended.")
    ],
    "reason": Annotated[
        str | None,
        typer.Option("--reason", callback=named, help="Why: of a dead letter, or of a duplicate."),
    ],
}


def narrowed(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that narrow events; it takes them as its `wanted`, a Filter."""
    own = [one for one in signature(command).parameters.values() if one.name != "wanted"]
    asked = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
        for name, annotation in _NARROWING.items()
    ]

    @wraps(command)
    def narrow(**options: Any) -> None:
        wanted = Filter(**{name: options.pop(name) for name in _NARROWING})
        command(wanted=wanted, **options)

    whole = signature(command).replace(parameters=[*own[:1], *asked, *own[1:]])
    narrow.__signature__ = whole  # type: ignore[attr-defined]
    narrow.__annotations__ = {one.name: one.annotation for one in whole.parameters.values()}
    return narrow


def path_of(journal: Path | None, config: Path | None) -> Path:
    """Give the journal's file."""
    from relay import settings

    return journal or settings.load(config).journal.path


def router_of(journal: Path | None, config: Path | None) -> "Router":
    """Give the router of the settings, or else the defaults."""
    from relay import settings
    from relay.contract.normalize import Router
    from relay.egress import routing

    return Router("feishu.", {}) if journal else routing.router(settings.load(config))


@contextmanager
def searching(
    what: str = "looking through the journal",
) -> Iterator[Callable[[float], None]]:
    """Show on a terminal which part of the rows has been looked through."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=1, visible=False)
        yield lambda done: progress.update(task, completed=done, visible=True)
