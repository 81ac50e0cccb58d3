"""`relay events`: list, show, replay and discard what a journal holds."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.say import document, printed, say
from relay.contract.printable import printable
from relay.errors import JournalError
from relay.events import Outcome, StoredEvent, withheld
from relay.journal import view as journalview

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="Look into the journal: what came in, what became of it; also while a relay runs.",
    no_args_is_help=True,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings (default: RELAY_CONFIG)."),
]
JournalOption = Annotated[
    Path | None,
    typer.Option("--journal", help="A journal file; without it, the settings name one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
AppOption = Annotated[
    str | None, typer.Option("--app", help="The app, where two have an event of the same id.")
]
EventId = Annotated[str, typer.Argument(metavar="ID", help="The event id.")]

#: Columns of a table that no terminal shows.
WIDE = 200
_STYLES = {"pending": "yellow", "dead_letter": "red", "published": "green"}


class Ending(StrEnum):
    """What `list` can be narrowed to."""

    PENDING = journalview.PENDING
    PUBLISHED = Outcome.PUBLISHED.value
    DUPLICATE = Outcome.DUPLICATE.value
    DEAD_LETTER = Outcome.DEAD_LETTER.value
    WITHHELD = Outcome.WITHHELD.value


def _path(journal: Path | None, config: Path | None) -> Path:
    from relay import settings

    return journal or settings.load(config).journal.path


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


@app.command("list", epilog="Example: relay events list --outcome dead_letter --limit 10")
def list_events(
    outcome: Annotated[
        Ending | None,
        typer.Option(help="Only events that ended so, or have not ended."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """List events, the latest first."""
    with searching() as progress, journalview.opened(_path(journal, config), progress) as view:
        entries = view.entries(outcome, limit)
    if as_json:
        for entry in entries:
            document(asdict(entry))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(_table(entries) if entries else "The journal has no such events.")


def _table(entries: list[journalview.Entry]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from relay.contract.rules.values import rfc3339

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("received", no_wrap=True, min_width=19)
    table.add_column("event id", no_wrap=True, min_width=32)
    table.add_column("outcome", no_wrap=True, min_width=9)
    table.add_column("type", no_wrap=True)
    table.add_column("app", no_wrap=True)
    table.add_column("bytes", no_wrap=True, justify="right")
    for entry in entries:
        ending = f"{entry.outcome}: {entry.reason}" if entry.reason else entry.outcome
        table.add_row(
            rfc3339(entry.received_at)[:19].replace("T", " "),
            Text(printable(entry.event_id)),
            Text(printable(ending), style=_STYLES.get(entry.outcome, "")),
            Text(printable(entry.event_type) or "-"),
            Text(printable(entry.app)),
            str(entry.size),
        )
    return table


@app.command(epilog="Example: relay events show a2afbfd2b19a8e301a0edd21038720a1 --record")
def show(
    event_id: EventId,
    record: Annotated[
        bool, typer.Option("--record", help="Also the Kafka record that it becomes.")
    ] = False,
    app_name: AppOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Show one event with its body as Feishu sent it (customers' text included)."""
    from relay.contract.rules.values import rfc3339

    with journalview.opened(_path(journal, config)) as view:
        entry, body = view.find(event_id, app_name)
    shown = {
        "app": entry.app,
        "transport": entry.transport,
        "received_at": rfc3339(entry.received_at),
        "outcome": entry.outcome,
        "reason": entry.reason,
        "settled_at": rfc3339(entry.settled_at) if entry.settled_at else None,
        "body": _body(body),
    }
    if record and body:
        stored = journalview.as_stored(entry, body)
        kept = withheld(entry.event_type)
        shown["record"] = None if kept else _record(stored, journal, config)
    document(shown, indent=2)


@app.command(epilog="Example: relay events replay a2afbfd2b19a8e301a0edd21038720a1")
def replay(
    event_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Event ids.")],
    app_name: AppOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Publish settled events or dead letters again; their records carry `relay_replayed: 1`."""
    with journalview.opened(_path(journal, config)) as view:
        for event_id in event_ids:
            view.replay(event_id, app_name)
            say(f"{event_id}: pending again; a running relay publishes it within a second")


@app.command(epilog="Example: relay events discard a2afbfd2b19a8e301a0edd21038720a1")
def discard(
    event_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Event ids.")],
    app_name: AppOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Let go of dead letters that are kept for a decision (too_large, refused, internal_error)."""
    with journalview.opened(_path(journal, config)) as view:
        for event_id in event_ids:
            view.discard(event_id, app_name)
            say(f"{event_id}: goes when the dedupe window has passed")


@app.command(epilog="Example: relay events erase a2afbfd2b19a8e301a0edd21038720a1")
def erase(
    event_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Event ids.")],
    app_name: AppOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Let go of settled events' bodies at once; the ids stay, so that repeats are recognized."""
    with journalview.opened(_path(journal, config)) as view:
        for event_id in event_ids:
            view.erase(event_id, app_name)
            say(f"{event_id}: has no body any more, and cannot be replayed")


@app.command(epilog="Example: relay events export --journal /mnt/lost/journal.db events.jsonl")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; there must be none yet.")],
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the pending events out of a stopped replica's journal, for `relay events import`."""
    import uvloop

    from relay import settings
    from relay.app import Relay
    from relay.observe import logs

    loaded = settings.load(config).at(journal)
    if not loaded.journal.path.exists():
        raise JournalError(f"{loaded.journal.path}: there is no such journal")
    logs.configure(loaded.log.level, loaded.log.format)
    count = uvloop.run(Relay(loaded).export(file))
    say(f"{file}: {count:,} events; they are no longer in the journal's care")


@app.command(epilog="Example: relay events backup /backup/journal-2026-11-23.db")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; there must be none yet.")],
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy the journal into one file, also while a relay runs on it."""
    from relay.journal.disk import backup as copy

    with searching("copying the journal") as progress:
        count = copy.write(_path(journal, config), file, progress)
    say(f"{file}: {count:,} events")


@app.command("import", epilog="Example: relay events import events.jsonl")
def import_events(
    file: Annotated[Path, typer.Argument(help="A file of `relay events export`.")],
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Put another replica's pending events into this journal; a second time adds none."""
    from relay.journal import handover

    path = _path(journal, config)
    taken = handover.read(file, path)
    say(f"{path}: {taken.added:,} events added, {taken.known:,} known already")
    if taken.open:
        say(
            f"{taken.open:,} are pending here too, and may be left to the lost replica: keep the"
            " file, and import it again when relay has settled them"
        )
        raise typer.Exit(1)


def _record(stored: StoredEvent, journal: Path | None, config: Path | None) -> dict[str, object]:
    """Give the record that an event becomes, by the settings or else the defaults."""
    from relay import settings
    from relay.contract.normalize import Router, normalize
    from relay.egress import routing
    from relay.egress.kafka.faults import describe

    router = Router("feishu.", {}) if journal else routing.router(settings.load(config))
    try:
        made = normalize(stored, router)
    except Exception as error:  # noqa: BLE001 - the reader wants to know what went wrong
        return {"error": describe(error)}
    return {
        "topic": made.topic,
        "key": made.key.decode(),
        "headers": {name: value.decode() for name, value in made.headers},
        "value": _body(made.value) if made.value else None,
    }


def _body(body: bytes) -> object:
    """Give the body as JSON without its credentials; what cannot be read or printed, as text."""
    from relay.contract import exactjson
    from relay.contract.credentials import concealed, concealed_text

    if not body:
        return None
    try:
        value = concealed(exactjson.loads(body))
    except ValueError:
        return concealed_text(body.decode(errors="replace"))
    return value if printed(value) else concealed_text(body.decode(errors="replace"))
