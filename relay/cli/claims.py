"""`relay claims`: what an operator says to the replicas that share claims."""

from pathlib import Path
from typing import Annotated

import typer

from relay.cli.say import named, say
from relay.errors import ClaimsError

app = typer.Typer(help="What several replicas share: who publishes an event.", no_args_is_help=True)


@app.callback()
def claims() -> None:
    """What several replicas share: who publishes an event."""


@app.command(epilog="Example: relay claims gone relay-0")
def gone(
    replica: Annotated[
        str, typer.Argument(metavar="NAME", callback=named, help="Its claims.replica.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with the settings (default: RELAY_CONFIG)."),
    ] = None,
) -> None:
    """Say that a replica is gone for good: none waits any more for what it has published."""
    import uvloop

    from relay import settings
    from relay.claims.claims import Claims
    from relay.journal.retention import Retention
    from relay.observe.metrics import Metrics

    found = settings.load(config)
    if not found.claims.url.get_secret_value():
        raise ClaimsError("claims.url is not set: there is one replica, and none waits")
    store = Claims(found.claims, Retention(found.journal.dedupe_window), Metrics())
    uvloop.run(store.dismiss(replica))
    say(f"{replica}: none waits for it any more; it may come back at any time.")
