"""`relay subscribe`, `unsubscribe`, `subscriptions`, `backfill`: the commands that call Feishu."""

import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import aiohttp
import typer
import uvloop

from relay import settings
from relay.cli.events import ConfigOption, searching
from relay.cli.say import note, say
from relay.contract import exactjson
from relay.contract.normalize import EVENT_TYPES
from relay.contract.printable import printable
from relay.contract.rules.values import rfc3339
from relay.errors import FeishuRefusedError, JournalError
from relay.events import Callback, Transport
from relay.feishu.api import Feishu, HelpDesk
from relay.feishu.backfill import CREATED, MESSAGE, UPDATED, Backfill, Found, Mark, Range, mark_of
from relay.journal import view as journalview

if TYPE_CHECKING:
    from rich.console import Console

AppOption = Annotated[str, typer.Option("--app", help="The app's name in the settings.")]
EventOption = Annotated[
    list[str] | None,
    typer.Option("--event", help="An event type; repeatable. Default: the four of the helpdesk."),
]


def subscribe(
    app_name: AppOption = "default", event: EventOption = None, config: ConfigOption = None
) -> None:
    """Ask Feishu to send the service desk's events to the app."""
    types = _change(app_name, event, config, subscribe=True)
    say("Subscribed: " + ", ".join(types))


def unsubscribe(
    app_name: AppOption = "default", event: EventOption = None, config: ConfigOption = None
) -> None:
    """Ask Feishu to send them no more."""
    types = _change(app_name, event, config, subscribe=False)
    say("No longer subscribed: " + ", ".join(types))


def subscriptions(app_name: AppOption = "default", config: ConfigOption = None) -> None:
    """Show when an event of each type has last come; Feishu itself gives no list."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    loaded = settings.load(config)
    latest: dict[str, int] = {}
    try:
        with searching() as progress, journalview.opened(loaded.journal.path, progress) as view:
            latest = view.latest(app_name)
    except JournalError as error:
        note(f"(nothing is known of earlier events: {error})")
    table = Table("event type", "last received", box=None, pad_edge=False, header_style="bold")
    for event_type in sorted({*EVENT_TYPES, *latest}):
        at = latest.get(event_type)
        table.add_row(
            Text(printable(event_type)), rfc3339(at) if at else "never, within the dedupe window"
        )
    Console().print(table)
    say("Feishu has no call that lists subscriptions; subscribing twice does no harm.")


def backfill(
    since: Annotated[str, typer.Option(help="UTC, as 2026-11-20 or 2026-11-20T08:30.")],
    until: Annotated[str, typer.Option(help="The same; default: now.")] = "",
    app_name: AppOption = "default",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be added, and add nothing.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Add what an outage has missed, read from Feishu's API; a running relay publishes it."""
    from rich.console import Console

    loaded = settings.load(config)
    app = _app(loaded, app_name)
    wanted = Range(since=_instant(since), until=_instant(until) if until else _now())
    if wanted.since > wanted.until:
        raise typer.BadParameter("--since is later than --until")
    seen = _seen(loaded.journal.path, app_name)
    with journalview.opened(loaded.journal.path) as view:
        run = _Run(view, app_name, Console(), dry_run=dry_run)
        uvloop.run(run.all(loaded.feishu(app), app, wanted, seen))


class _Run:
    """One run of `relay backfill`: what was found, and what of it is new."""

    def __init__(
        self, view: journalview.JournalView, app: str, console: "Console", *, dry_run: bool
    ) -> None:
        self._view = view
        self._app = app
        self._console = console
        self._dry_run = dry_run
        self._found: Counter[str] = Counter()
        self._new: Counter[str] = Counter()

    async def all(self, url: str, app: settings.App, wanted: Range, seen: set[Mark]) -> None:
        """Read the service desk; raises FeishuError."""
        from rich.progress import Progress

        async with aiohttp.ClientSession() as session:
            feishu = Feishu(session, url)
            source = Backfill(feishu, await _desk(feishu, app), app.app_id)
            tickets = await source.tickets(wanted)
            with Progress(console=self._console, transient=True) as progress:
                for ticket in progress.track(tickets, description="tickets"):
                    async for found in source.events(ticket, wanted):
                        self._take(found, seen)
        self._tell(len(tickets))

    def _take(self, found: Found, seen: set[Mark]) -> None:
        self._found[found.event_type] += 1
        if found.mark in seen:
            return
        if not self._dry_run and not self._view.add(
            Callback(
                app=self._app,
                transport=Transport.BACKFILL,
                received_at=_now(),
                event_id=found.event_id,
                event_type=found.event_type,
                body=exactjson.dumps(found.body),
            )
        ):
            return
        self._new[found.event_type] += 1

    def _tell(self, tickets: int) -> None:
        from rich.table import Table

        verb = "would be added" if self._dry_run else "added"
        table = Table("event type", "found", verb, box=None, pad_edge=False, header_style="bold")
        for event_type in (CREATED, MESSAGE, UPDATED):
            table.add_row(event_type, str(self._found[event_type]), str(self._new[event_type]))
        self._console.print(table)
        self._console.print(f"{tickets:,} tickets read. A running relay publishes what was added.")


def _seen(journal: Path, app: str) -> set[Mark]:
    """Read from the journal what has already come."""
    seen = set()
    with searching() as progress, journalview.opened(journal, progress) as view:
        for event_type, body in view.bodies(app, (CREATED, UPDATED, MESSAGE)):
            with suppress(ValueError):
                event = exactjson.loads(body).get("event")
                if isinstance(event, dict) and (mark := mark_of(event_type, event)):
                    seen.add(mark)
    return seen


def _instant(text: str) -> int:
    """Read a time as Unix milliseconds; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no time; write 2026-11-20 or 2026-11-20T08:30"
        raise typer.BadParameter(message) from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _now() -> int:
    return int(time.time() * 1000)


def _change(
    name: str, event_types: list[str] | None, config: ConfigOption, *, subscribe: bool
) -> list[str]:
    """Call Feishu; raises FeishuError or SettingsError."""
    loaded = settings.load(config)
    types = event_types or list(EVENT_TYPES)
    app = _app(loaded, name)
    uvloop.run(_subscribe(loaded.feishu(app), app, types, subscribe=subscribe))
    return types


def _app(loaded: settings.Settings, name: str) -> settings.App:
    """Find an app that has all that the helpdesk calls need."""
    app = loaded.apps.get(name)
    if app is None:
        names = ", ".join(sorted(loaded.apps))
        raise FeishuRefusedError(f"no app {name!r} is configured; there are: {names}")
    given = {
        "app_id": app.app_id,
        "app_secret": app.app_secret.get_secret_value(),
        "helpdesk_id": app.helpdesk_id,
        "helpdesk_token": app.helpdesk_token.get_secret_value(),
    }
    missing = [f"apps.{name}.{field}" for field, value in given.items() if not value]
    if missing:
        raise FeishuRefusedError(f"this needs {', '.join(missing)}")
    return app


async def _desk(feishu: Feishu, app: settings.App) -> HelpDesk:
    return HelpDesk(
        tenant_token=await feishu.tenant_token(app.app_id, app.app_secret.get_secret_value()),
        helpdesk_id=app.helpdesk_id,
        helpdesk_token=app.helpdesk_token.get_secret_value(),
    )


async def _subscribe(
    url: str, app: settings.App, event_types: list[str], *, subscribe: bool
) -> None:
    async with aiohttp.ClientSession() as session:
        feishu = Feishu(session, url)
        await feishu.subscribe(await _desk(feishu, app), event_types, subscribe=subscribe)
