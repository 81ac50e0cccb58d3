"""`relay subscribe`, `unsubscribe` and `subscriptions`: which events Feishu sends at all."""

from typing import Annotated

import aiohttp
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from relay import journalview, settings
from relay.cli_events import ConfigOption
from relay.errors import FeishuRefusedError, JournalError
from relay.feishu import Feishu, HelpDesk
from relay.normalize import EVENT_TYPES
from relay.rules import rfc3339

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
    typer.echo("Subscribed: " + ", ".join(types))


def unsubscribe(
    app_name: AppOption = "default", event: EventOption = None, config: ConfigOption = None
) -> None:
    """Ask Feishu to send them no more."""
    types = _change(app_name, event, config, subscribe=False)
    typer.echo("No longer subscribed: " + ", ".join(types))


def subscriptions(app_name: AppOption = "default", config: ConfigOption = None) -> None:
    """Show when an event of each type has last come; Feishu itself gives no list."""
    loaded = settings.load(config)
    latest: dict[str, int] = {}
    try:
        with journalview.opened(loaded.journal.path) as view:
            latest = view.latest(app_name)
    except JournalError as error:
        typer.echo(f"(nothing is known of earlier events: {error})", err=True)
    table = Table("event type", "last received", box=None, pad_edge=False, header_style="bold")
    for event_type in sorted({*EVENT_TYPES, *latest}):
        at = latest.get(event_type)
        table.add_row(event_type, rfc3339(at) if at else "never, within the dedupe window")
    Console().print(table)
    typer.echo("Feishu has no call that lists subscriptions; subscribing twice does no harm.")


def _change(
    name: str, event_types: list[str] | None, config: ConfigOption, *, subscribe: bool
) -> list[str]:
    """Call Feishu; raises FeishuError or SettingsError."""
    loaded = settings.load(config)
    types = event_types or list(EVENT_TYPES)
    app = loaded.apps.get(name)
    if app is None:
        raise FeishuRefusedError(f"no app {name!r} is configured; there are: {_names(loaded)}")
    missing = [
        f"apps.{name}.{field}"
        for field, value in (
            ("app_id", app.app_id),
            ("app_secret", app.app_secret.get_secret_value()),
            ("helpdesk_id", app.helpdesk_id),
            ("helpdesk_token", app.helpdesk_token.get_secret_value()),
        )
        if not value
    ]
    if missing:
        raise FeishuRefusedError(f"this needs {', '.join(missing)}")
    uvloop.run(_subscribe(loaded.feishu_url, app, types, subscribe=subscribe))
    return types


def _names(loaded: settings.Settings) -> str:
    return ", ".join(sorted(loaded.apps))


async def _subscribe(
    url: str, app: settings.App, event_types: list[str], *, subscribe: bool
) -> None:
    async with aiohttp.ClientSession() as session:
        feishu = Feishu(session, url)
        token = await feishu.tenant_token(app.app_id, app.app_secret.get_secret_value())
        desk = HelpDesk(
            tenant_token=token,
            helpdesk_id=app.helpdesk_id,
            helpdesk_token=app.helpdesk_token.get_secret_value(),
        )
        await feishu.subscribe(desk, event_types, subscribe=subscribe)
