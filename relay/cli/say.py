"""What commands print, and the only way: never a character that a terminal would obey.

And what they end with.
"""

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

import typer

from relay.contract.printable import escaped, printable

if TYPE_CHECKING:
    from rich.console import Console

#: Exit codes: a thing that failed, and a command or configuration that cannot be understood.
FAILED, MISUSED = 1, 2


def replace_what_no_terminal_shows() -> None:
    """Let a character that standard output or error cannot encode be no error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # closed, or no file
            cast("Any", stream).reconfigure(errors="replace")


def say(text: str) -> None:
    """Print a result, one line; what standard output cannot encode is replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    typer.echo(printable(text).encode(encoding, "replace").decode(encoding))


def note(text: str) -> None:
    """Print a line that is no result, on standard error."""
    typer.echo(printable(text), err=True)


def document(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON; without an indent it is one line."""
    separators = None if indent else (",", ":")
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)
    typer.echo(escaped(text))


def printed(value: Any) -> bool:
    """Whether `document` can print a value, alone or inside another: what is too deep it cannot."""
    try:
        json.dumps([[[value]]], indent=2)
    except RecursionError:
        return False
    return True


def console() -> "Console":
    """Give a console for standard output as it is now."""
    from rich.console import Console

    return Console()


def seen() -> bool:
    """Whether results go to a terminal, not to a file or a program."""
    return sys.stdout.isatty()


def asks() -> bool:
    """Whether somebody is there who can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str, read: Callable[[str], object], *, default: str | None, secret: bool) -> str:
    """Ask until `read` takes the answer; a ValueError of it says why not."""
    while True:
        answer = typer.prompt(
            question, default=default, hide_input=secret, show_default=bool(default)
        ).strip()
        try:
            read(answer)
        except ValueError as error:
            note(f"{error}")
        else:
            return str(answer)


def unknown(word: str, known: Iterable[str], kind: str = "") -> str:
    """Say that there is no such thing, and which may have been meant."""
    there = list(known)
    near = get_close_matches(word, there, n=2)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"there is no {kind}{word!r}.{meant} There are: {', '.join(there)}"


def named(value: str | list[str] | None) -> str | list[str] | None:
    """Refuse bytes that are no UTF-8, which Python reads as surrogates: nothing is called so."""
    for word in [value] if isinstance(value, str) else value or ():
        if word != word.encode(errors="replace").decode():
            raise typer.BadParameter("is not UTF-8, as all names and ids are")
    return value


def event_types(incomplete: str) -> list[str]:
    """Complete the name of an event type."""
    from relay.settings.topics import DEAD_LETTER, DEFAULTS

    names = [name for name in DEFAULTS if name != DEAD_LETTER]
    return [name for name in names if name.startswith(incomplete)]


def complain(message: str, *, advice: str = "") -> None:
    """Say on standard error why a command ends, maybe in several lines, and what to do next."""
    lines = [printable(line) for line in message.split("\n")]
    typer.secho("relay: " + "\n".join(lines), err=True, fg=typer.colors.RED)
    if advice:
        note(f"Next: {advice}")
