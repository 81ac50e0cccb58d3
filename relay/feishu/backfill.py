"""After a long outage: reads tickets and messages through Feishu's API, and makes events of them.

Feishu's API tells the state, not the events that led to it, so these events have ids of their own,
which are the same in each run. It decides nothing about what is published: the journal does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from relay.contract import exactjson
from relay.errors import FeishuUnavailableError
from relay.feishu.api import Feishu, HelpDesk

Json = dict[str, Any]

#: Feishu takes ten calls per second, and gives 200 things per page and 10,000 in all.
CALLS_PER_SECOND, PAGE, MOST = 10, 200, 10_000
#: Seconds before a call that Feishu was too busy for is made again, and how often.
BUSY_WAIT, BUSY_TRIES = 1.0, 10
#: Milliseconds of the shortest range that is still split.
_SHORTEST = 2
#: A time below it is in seconds: milliseconds have been more since 1973.
_SECONDS_END = 10**11
#: What a document of a message's content has, some of it.
_CONTENT = {"content", "msg_type", "image_key", "image_keys"}
#: Who has one id as text in a ticket of the API, and an object of ids in an event.
_PEOPLE = {"guest", "agents", "collaborators", "closed_by"}

CREATED = "helpdesk.ticket.created_v1"
UPDATED = "helpdesk.ticket.updated_v1"
MESSAGE = "helpdesk.ticket_message.created_v1"

#: What identifies an event whatever its id: type, ticket or message id, and time of a change.
Mark = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An event that was made of Feishu's state."""

    event_id: str
    event_type: str
    body: Json

    @property
    def mark(self) -> Mark | None:
        """What the event is known by, whatever its id."""
        return mark_of(self.event_type, self.body["event"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From `since` to `until`, both included: Unix time in milliseconds."""

    since: int
    until: int

    def has(self, value: object) -> bool:
        """Whether a time lies in it."""
        return isinstance(value, int) and self.since <= value <= self.until


class Backfill:
    """Reads one service desk; one call at a time, never more per second than Feishu takes."""

    def __init__(self, feishu: Feishu, desk: HelpDesk, app_id: str) -> None:
        self._feishu = feishu
        self._desk = desk
        self._app_id = app_id
        self._next_call = 0.0

    async def tickets(self, wanted: Range) -> list[Json]:
        """List the tickets that may have something in the range: changed then, or since.

        One that changes meanwhile moves from page to page, and another may be passed over; so the
        list is read until it tells of no other (those made after the range do not count). Raises
        FeishuUnavailableError or FeishuRefusedError.
        """
        found: dict[str, Json] = {}
        while True:
            known = len(found)
            now = max(wanted.until, int(time.time() * 1000))
            for ticket in await self._listed(Range(since=wanted.since, until=now)):
                if (_milliseconds(ticket.get("created_at")) or 0) <= wanted.until:
                    found[str(ticket.get("ticket_id"))] = ticket
            if len(found) == known:
                return list(found.values())

    async def _listed(self, wanted: Range) -> list[Json]:
        """List the tickets that were made or changed in a range."""
        query = {"update_time_start": wanted.since, "update_time_end": wanted.until}
        total, first = await self._page("/tickets", "tickets", query, 1)
        if total > MOST and wanted.until - wanted.since >= _SHORTEST:
            middle = (wanted.since + wanted.until) // 2
            older = await self._listed(Range(since=wanted.since, until=middle))
            return older + await self._listed(Range(since=middle + 1, until=wanted.until))
        return first + [one async for one in self._rest("/tickets", "tickets", query, total)]

    async def events(self, ticket: Json, wanted: Range) -> AsyncIterator[Found]:
        """Make the events of one ticket, in their order. Raises as `tickets` does."""
        ticket_id = str(ticket.get("ticket_id"))
        if wanted.has(created_at := _milliseconds(ticket.get("created_at"))):
            yield self._found(CREATED, f"ticket-{ticket_id}", created_at, _as_event(ticket))
        async for message in self._messages(ticket_id):
            if wanted.has(at := _milliseconds(message.get("created_at"))):
                name = f"message-{message.get('message_id')}"
                yield self._found(MESSAGE, name, at, _message_event(message, ticket))
        updated_at = _milliseconds(ticket.get("updated_at"))
        if wanted.has(updated_at) and updated_at != created_at:
            event = {"object": _as_event(ticket)}
            yield self._found(UPDATED, f"update-{ticket_id}-{updated_at}", updated_at, event)

    async def _messages(self, ticket_id: str) -> AsyncIterator[Json]:
        """Read all: Feishu's pages disagree whether a range is in seconds or milliseconds."""
        path = f"/tickets/{ticket_id}/messages"
        total, first = await self._page(path, "messages", {}, 1)
        for message in first:
            yield message
        async for message in self._rest(path, "messages", {}, total):
            yield message

    async def _rest(
        self, path: str, name: str, query: Mapping[str, int], total: int
    ) -> AsyncIterator[Json]:
        """Read all pages behind the first."""
        for number in range(2, -(-total // PAGE) + 1):
            _, items = await self._page(path, name, query, number)
            for item in items:
                yield item

    async def _page(
        self, path: str, name: str, query: Mapping[str, int], number: int
    ) -> tuple[int, list[Json]]:
        """Read one page; give how many things there are in all, and those of the page."""
        for attempt in range(BUSY_TRIES):
            await self._turn()
            try:
                data = await self._feishu.helpdesk(
                    self._desk, path, {**query, "page": number, "page_size": PAGE}
                )
            except FeishuUnavailableError:
                if attempt == BUSY_TRIES - 1:
                    raise
                await asyncio.sleep(BUSY_WAIT)
                continue
            items = data.get(name)
            found = [one for one in items if isinstance(one, dict)] if items else []
            return int(data.get("total") or len(found)), found
        raise AssertionError

    async def _turn(self) -> None:
        """Wait until another call may be made."""
        now = time.monotonic()
        self._next_call = max(self._next_call, now) + 1 / CALLS_PER_SECOND
        await asyncio.sleep(self._next_call - now)

    def _found(self, event_type: str, name: str, at: int | None, event: Json) -> Found:
        event_id = f"backfill-{name}"
        header = {
            "event_id": event_id,
            "event_type": event_type,
            "create_time": str(at or 0),
            "token": "",
            "app_id": self._app_id,
        }
        body = {"schema": "2.0", "header": header, "event": event}
        return Found(event_id=event_id, event_type=event_type, body=body)


def mark_of(event_type: str, event: Json) -> Mark | None:
    """Identify an event by what it tells; None for one that no API call could tell again."""
    if event_type == CREATED:
        return CREATED, str(event.get("ticket_id")), ""
    if event_type == MESSAGE:
        return MESSAGE, str(event.get("message_id")), ""
    ticket = event.get("object")
    if event_type == UPDATED and isinstance(ticket, dict):
        return UPDATED, str(ticket.get("ticket_id")), str(ticket.get("updated_at"))
    return None


def _as_event(ticket: Json) -> Json:
    """Name the ticket's stage and its people's ids as events do."""
    event = {
        name: _with_ids(value) if name in _PEOPLE else value
        for name, value in ticket.items()
        if name != "ticket_type"
    }
    if "ticket_type" in ticket:
        event["stage"] = ticket["ticket_type"]
    return event


def _with_ids(people: Any) -> Any:
    """Make an object of each id; what is no person, or no list of them, stays as it is."""
    if isinstance(people, list):
        return [_with_ids(person) for person in people]
    if isinstance(people, dict) and isinstance(people.get("id"), str):
        return people | {"id": {"open_id": people["id"]}}
    return people


def _message_event(message: Json, ticket: Json) -> Json:
    """Make a message's event; who sent it is known by one id only.

    Its ticket stays the API's: that is what a message's event has, ids as text included.
    """
    kind, given = message.get("message_type"), message.get("content")
    content = _content(given, kind)
    text = content.get("content")
    if isinstance(text, dict | list):
        # A rich text, which events have as text.
        content["content"] = exactjson.dumps(text).decode()
    event = {
        "ticket_message_id": message.get("id"),
        "message_id": message.get("message_id"),
        "msg_type": kind,
        "text": text if isinstance(text, str) else given,
        "ticket": ticket,
        "chat_id": ticket.get("chat_id"),
        "content": content,
    }
    if message.get("user_id"):
        event["sender_id"] = {"open_id": message["user_id"]}
    return event


def _content(given: object, kind: object) -> Json:
    """Read a message's content: a JSON document, though some of Feishu's pages show mere text."""
    with suppress(ValueError):
        document = exactjson.loads(str(given).encode())
        # A guest may have written some other JSON.
        if isinstance(document, dict) and not _CONTENT.isdisjoint(document):
            return document
    return {"content": given, "msg_type": kind}


def _milliseconds(value: object) -> int | None:
    """Read a time as Feishu's API gives it: seconds or milliseconds, a number or one as text."""
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number * 1000 if 0 < number < _SECONDS_END else number
