"""All replicas: this one and the peers of the settings, each asked the same."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter

from relay.console import peers
from relay.console.peers import Question
from relay.console.replica import Replica
from relay.console.said import Answer, Deed, Done, Found, Overview, Picks, Shown
from relay.errors import EventNotFoundError, JournalError
from relay.journal.search import Filter
from relay.settings import Console

T = TypeVar("T", Overview, Found, Shown, Done)

OVERVIEW, FOUND, SHOWN, DONE = (
    TypeAdapter(Overview),
    TypeAdapter(Found),
    TypeAdapter(Shown),
    TypeAdapter(Done),
)


class Fleet:
    """Asks every replica, in the name of a user."""

    def __init__(self, settings: Console, replica: Replica) -> None:
        self._places = settings.endpoints
        self._password = settings.password.get_secret_value()
        self._replica = replica

    async def overviews(self, user: str) -> list[Answer[Overview]]:
        """Say how each is."""
        question = Question(path="/api/overview", reader=OVERVIEW, params={})
        return await self._all(user, self._replica.overview(), question)

    async def found(
        self, user: str, wanted: Filter, before: Mapping[str, int], limit: int
    ) -> list[Answer[Found]]:
        """Give a page of each; `before` says by journal where it begins."""
        params = asked(wanted) | {"limit": limit}
        if before:
            params["before"] = ",".join(f"{name}:{seq}" for name, seq in before.items())
        own = self._replica.found(wanted, before.get(self._replica.journal), limit)
        question = Question(path="/api/events", reader=FOUND, params=params)
        return await self._all(user, own, question)

    async def shown(
        self, user: str, event_id: str, app: str | None, *, body: bool
    ) -> list[Answer[Shown]]:
        """Give an event of each that has it."""
        params: dict[str, str | int] = {"id": event_id}
        params |= ({"app": app} if app else {}) | ({"body": 1} if body else {})
        own = self._replica.shown(event_id, app, body=body)
        question = Question(path="/api/event", reader=SHOWN, params=params)
        return await self._all(user, own, question)

    async def change(self, user: str, deed: Deed, picks: Picks) -> list[Answer[Done]]:
        """Have each change those of the events that it has."""
        own = self._replica.change(deed, picks.get(self._replica.journal, []), user)
        question = Question(path=f"/api/{deed}", reader=DONE, params={}, deed={"events": picks})
        return await self._all(user, own, question)

    async def _all(self, user: str, own: Awaitable[T], question: Question[T]) -> list[Answer[T]]:
        """This one's own answer first; a peer that turns out to be this one is not told twice."""
        login = user, self._password
        asking: asyncio.Task[list[Answer[T]]] = asyncio.create_task(
            peers.ask(self._places, login, question)
        )
        answers: list[Answer[T]] = [await self._own(own)]
        answers += await asking
        return distinct(answers)

    async def _own(self, own: Awaitable[T]) -> Answer[T]:
        name, journal = self._replica.name, self._replica.journal
        try:
            return Answer(name=name, journal=journal, said=await own)
        except EventNotFoundError:
            return Answer(name=name, journal=journal)
        except (JournalError, TimeoutError) as error:
            return Answer(name=name, journal=journal, problem=str(error))


def asked(wanted: Filter) -> dict[str, str | int]:
    """Write a filter as the parameters of `/api/events`."""
    names = {name: getattr(wanted, name) for name in FILTERS}
    return {FILTERS[name]: value for name, value in names.items() if value is not None}


#: A filter's fields, and what they are called in an address.
FILTERS = {
    "text": "text",
    "event_id": "id",
    "ticket": "ticket",
    "message_id": "message",
    "event_type": "type",
    "app": "app",
    "transport": "transport",
    "outcome": "outcome",
    "reason": "reason",
    "since": "since",
    "until": "until",
}


def distinct(answers: Sequence[Answer[T]]) -> list[Answer[T]]:
    """Leave out what a journal has said before: it has several addresses, or is this one."""
    seen: set[str] = set()
    kept = []
    for answer in answers:
        if not answer.journal or answer.journal not in seen:
            kept.append(answer)
        seen.add(answer.journal)
    return kept


def untouched(picks: Picks, answers: Sequence[Answer[Any]]) -> int:
    """Count the events whose replica has said nothing."""
    heard = {answer.journal for answer in answers if answer.said is not None}
    return sum(len(events) for journal, events in picks.items() if journal not in heard)
