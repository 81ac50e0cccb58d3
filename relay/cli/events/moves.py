"""Commands of `relay events` that take events elsewhere: export, import and backup."""

from pathlib import Path
from typing import Annotated

import typer

from relay.cli.events.options import ConfigOption, JournalOption, path_of, searching
from relay.cli.say import say
from relay.errors import JournalError

EXPORT = "Example: relay events export --journal /mnt/lost/journal.db events.jsonl"
BACKUP = "Example: relay events backup /backup/journal-2026-11-23.db"
IMPORT = "Example: relay events import events.jsonl"


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


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; there must be none yet.")],
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy the journal into one file, also while a relay runs on it."""
    from relay.journal.disk import backup as copy

    with searching("copying the journal") as progress:
        count = copy.write(path_of(journal, config), file, progress)
    say(f"{file}: {count:,} events")


def import_events(
    file: Annotated[Path, typer.Argument(help="A file of `relay events export`.")],
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Put another replica's pending events into this journal; a second time adds none."""
    from relay.journal import handover

    path = path_of(journal, config)
    taken = handover.read(file, path)
    say(f"{path}: {taken.added:,} events added, {taken.known:,} known already")
    if taken.open:
        say(
            f"{taken.open:,} are pending here too, and may be left to the lost replica: keep the"
            " file, and import it again when relay has settled them"
        )
        raise typer.Exit(1)
