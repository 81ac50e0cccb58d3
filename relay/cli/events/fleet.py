"""`--peers`: the same of every replica, by the JSON of their consoles; a silent one is named."""

import asyncio
import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.say import note
from relay.journal.rows.lives import Life
from relay.journal.search import LIMIT, Filter

PeersOption = Annotated[
    str | None,
    typer.Option(
        "--peers",
        help="Ask these replicas' consoles, host:port,...: a name may stand for many addresses.",
    ),
]


def found(
    places: str, config: Path | None, wanted: Filter, limit: int
) -> tuple[Sequence[tuple[str, Life]], bool]:
    """Give the latest events of all that answer, each with its replica's name; and if all did."""
    from relay import settings
    from relay.console import peers
    from relay.console.fleet import FOUND, asked, distinct
    from relay.settings import values
    from relay.settings.console import PORT

    try:
        endpoints = values.endpoints(places, PORT)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from None
    password = settings.load(config).console.password.get_secret_value()
    if not password:
        raise typer.BadParameter("the settings have no console.password", param_hint="--peers")
    params = asked(wanted) | {"limit": min(limit, LIMIT)}
    question = peers.Question(path="/api/events", reader=FOUND, params=params)
    answers = distinct(asyncio.run(peers.ask(endpoints, (getpass.getuser(), password), question)))
    for answer in answers:
        if answer.said is None:
            note(f"relay: {answer.name} does not answer: {answer.problem}")
    rows = [(one.said.name, life) for one in answers if one.said for life in one.said.lives]
    rows.sort(key=lambda row: -row[1].received_at)
    return rows[:limit], all(one.said for one in answers)
