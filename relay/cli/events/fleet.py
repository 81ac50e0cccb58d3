"""`--peers`: the same of every replica, by the JSON of their consoles; a silent one is named."""

import asyncio
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from relay.cli.say import note
from relay.journal.search import LIMIT, Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.console.peers import Question
    from relay.console.said import Done, Found, Overview, Picks, Shown
    from relay.journal.rows.lives import Life

    T = TypeVar("T", Overview, Found, Shown, Done)

PeersOption = Annotated[
    str | None,
    typer.Option(
        "--peers",
        help="Ask these replicas' consoles, host:port,...: a name may stand for many addresses.",
    ),
]


class Fleet:
    """The consoles that `--peers` names, asked with the password of the settings."""

    def __init__(self, places: str, config: Path | None) -> None:
        from relay import settings
        from relay.settings import values
        from relay.settings.console import PORT

        try:
            self._places = values.endpoints(places, PORT)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--peers") from None
        password = settings.load(config).console.password.get_secret_value()
        if not password:
            raise typer.BadParameter("the settings have no console.password", param_hint="--peers")
        self._login = getpass.getuser(), password
        #: Whether all have answered so far.
        self.whole = True

    def found(self, wanted: Filter, limit: int) -> "list[tuple[Found, Life]]":
        """Give the latest events of all that answer, each with who has it."""
        answers = self._page(wanted, min(limit, LIMIT), {})
        rows = [(one, life) for one in answers for life in one.lives]
        rows.sort(key=lambda row: -row[1].received_at)
        return rows[:limit]

    def every(self, wanted: Filter) -> "list[tuple[Found, Life]]":
        """Give all such events of all that answer, page after page of each."""
        rows: list[tuple[Found, Life]] = []
        before: dict[str, int] = {}
        more = True
        while more:
            answers = self._page(wanted, LIMIT, before)
            rows += [(one, life) for one in answers for life in one.lives]
            # One that has no more begins before its first event.
            before |= {one.journal: one.before or 0 for one in answers}
            more = any(one.before is not None for one in answers)
        return rows

    def shown(self, event_id: str, app: str | None) -> "list[Shown]":
        """Give an event, with its body, of each that has it."""
        from relay.console.fleet import SHOWN
        from relay.console.peers import Question

        params: dict[str, str | int] = {"id": event_id, "body": 1}
        params |= {"app": app} if app else {}
        return self._ask(Question(path="/api/event", reader=SHOWN, params=params))

    def change(self, deed: str, rows: "Sequence[tuple[Found, Life]]") -> "list[Done]":
        """Have each replay or discard what it has."""
        from relay.console.fleet import DONE
        from relay.console.peers import Question

        done: list[Done] = []
        for first in range(0, len(rows), LIMIT):
            picks: Picks = {}
            for one, life in rows[first : first + LIMIT]:
                picks.setdefault(one.journal, []).append((life.app, life.event_id))
            question = Question(path=f"/api/{deed}", reader=DONE, params={}, deed={"events": picks})
            done += self._ask(question)
        return done

    def _page(self, wanted: Filter, limit: int, before: "dict[str, int]") -> "list[Found]":
        """Give a page of each that answers; `before` says by journal where it begins."""
        from relay.console.fleet import FOUND, asked
        from relay.console.peers import Question

        params = asked(wanted) | {"limit": limit}
        if before:
            params["before"] = ",".join(f"{name}:{seq}" for name, seq in before.items())
        return self._ask(Question(path="/api/events", reader=FOUND, params=params))

    def _ask(self, question: "Question[T]") -> "list[T]":
        """Ask all; name who does not answer."""
        from relay.console import peers
        from relay.console.fleet import distinct

        answers = distinct(asyncio.run(peers.ask(self._places, self._login, question)))
        for answer in answers:
            if answer.problem:
                note(f"relay: {answer.name} does not answer: {answer.problem}")
        self.whole &= not any(one.problem for one in answers)
        return [one.said for one in answers if one.said is not None]
