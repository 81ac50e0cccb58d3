"""`relay subscribe`, `unsubscribe`, `subscriptions`, `backfill` call Feishu, `simulate` is it."""

import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.events.options import ConfigOption, JsonOption, searching
from relay.cli.remedies import run
from relay.cli.say import FAILED, console, document, event_types, named, note, say, unknown
from relay.contract.printable import printable
from relay.errors import FeishuRefusedError, JournalError
from relay.events import Callback, Transport
from relay.journal import view as journalview

if TYPE_CHECKING:
    from relay import settings
    from relay.feishu.api import Feishu, HelpDesk
    from relay.feishu.backfill import Found, Mark, Range

AppOption = Annotated[str, typer.Option("--app", help="The app's name in the settings.")]
EventOption = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        help="An event type; repeatable. Default: the four of the helpdesk.",
        autocompletion=event_types,
    ),
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


def subscriptions(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    app_name: AppOption = "default",
    config: ConfigOption = None,
) -> None:
    """Show when an event of each type has last come; Feishu itself gives no list."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relay import settings
    from relay.contract.normalize import EVENT_TYPES
    from relay.contract.rules.values import rfc3339

    loaded = settings.load(config)
    latest: dict[str, int] = {}
    try:
        with searching() as progress, journalview.opened(loaded.journal.path, progress) as view:
            latest = view.latest(app_name)
    except JournalError as error:
        note(f"(nothing is known of earlier events: {error})")
    names = sorted({*EVENT_TYPES, *latest})
    if as_json:
        for name in names:
            at = latest.get(name)
            document({"event_type": name, "last_received": rfc3339(at) if at else None})
        return
    table = Table("event type", "last received", box=None, pad_edge=False, header_style="bold")
    for event_type in names:
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
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add what an outage has missed, read from Feishu's API; a running relay publishes it."""
    import uvloop

    from relay import settings
    from relay.feishu.backfill import Range

    loaded = settings.load(config)
    app = _app(loaded, app_name)
    wanted = Range(since=_instant(since), until=_instant(until) if until else _now())
    if wanted.since > wanted.until:
        raise typer.BadParameter("--since is later than --until")
    seen = _seen(loaded.journal.path, app_name)
    with journalview.opened(loaded.journal.path) as view:
        this = _Run(view, app_name, dry_run=dry_run, as_json=as_json)
        uvloop.run(this.all(loaded.feishu(app), app, wanted, seen))


def simulate(
    url: Annotated[
        str, typer.Option(help="Where to send.")
    ] = "http://127.0.0.1:8080/webhook/event",
    encrypt_key: Annotated[
        str,
        typer.Option(
            envvar="RELAY_APPS__DEFAULT__ENCRYPT_KEY",
            show_envvar=False,
            callback=named,
            help="The app's; empty: plain bodies.",
        ),
    ] = "",
    verification_token: Annotated[
        str,
        typer.Option(
            envvar="RELAY_APPS__DEFAULT__VERIFICATION_TOKEN",
            show_envvar=False,
            callback=named,
            help="The app's; stands in each body.",
        ),
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
    app_id: Annotated[
        str,
        typer.Option(
            envvar="RELAY_APPS__DEFAULT__APP_ID",
            show_envvar=False,
            callback=named,
            help="Of the app that is played for.",
        ),
    ] = "cli_9f5343c580712544",
    app_secret: Annotated[
        str,
        typer.Option(
            envvar="RELAY_APPS__DEFAULT__APP_SECRET",
            show_envvar=False,
            callback=named,
            help="What its clients show.",
        ),
    ] = "dev-app-secret",  # noqa: S107 - guards nothing
) -> None:
    """Play Feishu: send events by webhook or long connection; exit 1 on a wrong answer.

    Key, token, id and secret are those of the app `default` in the environment, if not given.
    """
    from relay.simulator.gateway import GatewayOptions
    from relay.simulator.run import Server, serve_and_simulate
    from relay.simulator.run import simulate as play
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
        summary = run(play(options, console()))
    else:
        host, _, port = (listen or "127.0.0.1:7070").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
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
        summary = run(serve_and_simulate(options, server, console()))
    if summary.unexpected:
        raise typer.Exit(FAILED)


class _Run:
    """One run of `relay backfill`: what was found, and what of it is new."""

    def __init__(
        self, view: journalview.JournalView, app: str, *, dry_run: bool, as_json: bool
    ) -> None:
        self._view = view
        self._app = app
        self._as_json = as_json
        self._dry_run = dry_run
        self._found: Counter[str] = Counter()
        self._new: Counter[str] = Counter()

    async def all(self, url: str, app: "settings.App", wanted: "Range", seen: "set[Mark]") -> None:
        """Read the service desk; raises FeishuError."""
        import aiohttp
        from rich.console import Console
        from rich.progress import Progress

        from relay.feishu.api import Feishu
        from relay.feishu.backfill import Backfill

        async with aiohttp.ClientSession() as session:
            feishu = Feishu(session, url)
            source = Backfill(feishu, await _desk(feishu, app), app.app_id)
            tickets = await source.tickets(wanted)
            with Progress(console=Console(stderr=True), transient=True) as progress:
                for ticket in progress.track(tickets, description="tickets"):
                    async for found in source.events(ticket, wanted):
                        self._take(found, seen)
        self._tell(len(tickets))

    def _take(self, found: "Found", seen: "set[Mark]") -> None:
        from relay.contract import exactjson

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
        from rich.console import Console
        from rich.table import Table

        from relay.feishu.backfill import CREATED, MESSAGE, UPDATED

        kinds = (CREATED, MESSAGE, UPDATED)
        if self._as_json:
            found = {name: self._found[name] for name in kinds}
            new = {name: self._new[name] for name in kinds}
            document({"tickets": tickets, "dry_run": self._dry_run, "found": found, "added": new})
            return
        verb = "would be added" if self._dry_run else "added"
        table = Table("event type", "found", verb, box=None, pad_edge=False, header_style="bold")
        for event_type in kinds:
            table.add_row(event_type, str(self._found[event_type]), str(self._new[event_type]))
        console = Console()
        console.print(table)
        console.print(f"{tickets:,} tickets read. A running relay publishes what was added.")


def _seen(journal: Path, app: str) -> "set[Mark]":
    """Read from the journal what has already come."""
    from relay.contract import exactjson
    from relay.feishu.backfill import CREATED, MESSAGE, UPDATED, mark_of

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
    import uvloop

    from relay import settings
    from relay.contract.normalize import EVENT_TYPES

    loaded = settings.load(config)
    types = event_types or list(EVENT_TYPES)
    app = _app(loaded, name)
    uvloop.run(_subscribe(loaded.feishu(app), app, types, subscribe=subscribe))
    return types


def _app(loaded: "settings.Settings", name: str) -> "settings.App":
    """Find an app that has all that the helpdesk calls need."""
    app = loaded.apps.get(name)
    if app is None:
        raise FeishuRefusedError(unknown(name, sorted(loaded.apps), "app "))
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


async def _desk(feishu: "Feishu", app: "settings.App") -> "HelpDesk":
    from relay.feishu.api import HelpDesk

    return HelpDesk(
        tenant_token=await feishu.tenant_token(app.app_id, app.app_secret.get_secret_value()),
        helpdesk_id=app.helpdesk_id,
        helpdesk_token=app.helpdesk_token.get_secret_value(),
    )


async def _subscribe(
    url: str, app: "settings.App", event_types: list[str], *, subscribe: bool
) -> None:
    import aiohttp

    from relay.feishu.api import Feishu

    async with aiohttp.ClientSession() as session:
        feishu = Feishu(session, url)
        await feishu.subscribe(await _desk(feishu, app), event_types, subscribe=subscribe)
