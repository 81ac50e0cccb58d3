"""Feishu's API as far as relay uses it, played: token, subscription, tickets, messages.

It answers from the events that were invented; it changes nothing but its subscriptions.
"""

import secrets
import time
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from relay.contract import exactjson
from relay.simulator.gateway import Gateway

Json = dict[str, Any]

#: Calls per second that Feishu takes of one app.
MOST_CALLS = 10
MOST_PER_PAGE = 200
_BAD_TOKEN, _BAD_SECRET, _BAD_APP, _TOO_MANY = 99991663, 10014, 10003, 99991400
_BAD_DESK, _NO_TICKET, _BAD_EVENTS = 154003, 154001, 155000


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A service desk, as the API knows it."""

    helpdesk_id: str = "6948728206392295444"
    helpdesk_token: str = "dev-helpdesk-token"  # noqa: S105 - guards nothing


@dataclass(slots=True)
class Archive:
    """Tickets and messages as they stand after the events so far."""

    tickets: dict[str, Json] = field(default_factory=dict)
    messages: dict[str, list[Json]] = field(default_factory=dict)

    def add(self, payload: Json) -> None:
        """Learn from an event."""
        event, event_type = payload["event"], payload["header"]["event_type"]
        if event_type == "helpdesk.ticket.created_v1":
            self._ticket(event)
        elif event_type == "helpdesk.ticket.updated_v1":
            self._ticket(event["object"])
        elif event_type == "helpdesk.ticket_message.created_v1":
            ticket_id = event["ticket"]["ticket_id"]
            self._ticket(event["ticket"])
            self.messages.setdefault(ticket_id, []).append(
                {
                    "id": event["ticket_message_id"],
                    "message_id": event["message_id"],
                    "message_type": event["msg_type"],
                    "created_at": int(payload["header"]["create_time"]),
                    "content": exactjson.dumps(event["content"]).decode(),
                    "user_name": "",
                    "user_id": event.get("sender_id", {}).get("open_id", ""),
                }
            )

    def _ticket(self, known: Json) -> None:
        now = int(time.time() * 1000)
        usual = {"created_at": now, "updated_at": -1, "closed_at": 0}
        ticket = self.tickets.setdefault(known["ticket_id"], usual)
        ticket |= {name: _with_id(value) for name, value in known.items() if name != "stage"}
        ticket["created_at"] = int(ticket["created_at"])
        if "stage" in known:
            ticket["ticket_type"] = known["stage"]


class HelpdeskApi:
    """The API of one app with one service desk."""

    def __init__(self, gateway: Gateway, archive: Archive, desk: Desk) -> None:
        self._gateway = gateway
        self._archive = archive
        self._desk = desk
        self._tokens: set[str] = set()
        self._calls: deque[float] = deque()
        #: Event types that are subscribed; None until somebody has used the call.
        self.subscribed: set[str] | None = None

    def routes(self) -> list[web.RouteDef]:
        """Give all calls."""
        base = "/open-apis/helpdesk/v1"
        return [
            web.post("/open-apis/auth/v3/tenant_access_token/internal", self._token),
            web.get("/open-apis/event/v1/connection", self._checked(self._connections, desk=False)),
            web.post(f"{base}/events/subscribe", self._checked(self._subscribe)),
            web.post(f"{base}/events/unsubscribe", self._checked(self._unsubscribe)),
            web.get(f"{base}/tickets", self._checked(self._tickets)),
            web.get(f"{base}/tickets/{{id}}", self._checked(self._ticket)),
            web.get(f"{base}/tickets/{{id}}/messages", self._checked(self._messages)),
        ]

    async def _token(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("app_id") != self._gateway.options.app_id:
            return _refusal(_BAD_APP, "invalid param")
        if asked.get("app_secret") != self._gateway.options.app_secret:
            return _refusal(_BAD_SECRET, "app secret invalid")
        token = f"t-{secrets.token_urlsafe(24)}"
        self._tokens.add(token)
        return web.json_response(
            {"code": 0, "msg": "ok", "tenant_access_token": token, "expire": 7200}
        )

    def _checked(
        self, work: Callable[[web.Request], Awaitable[web.Response]], *, desk: bool = True
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Demand the authorizations, and no more calls per second than Feishu takes."""
        own = f"{self._desk.helpdesk_id}:{self._desk.helpdesk_token}".encode()

        async def answer(request: web.Request) -> web.Response:
            if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._tokens:
                return _refusal(_BAD_TOKEN, "Invalid access token for authorization")
            if desk and request.headers.get("X-Lark-Helpdesk-Authorization") != (
                b64encode(own).decode()
            ):
                return _refusal(_BAD_DESK, "helpdesk token is not valid")
            if self._too_often():
                return _refusal(_TOO_MANY, "request trigger frequency limit", status=429)
            return await work(request)

        return answer

    def _too_often(self) -> bool:
        now = time.monotonic()
        while self._calls and self._calls[0] <= now - 1:
            self._calls.popleft()
        if len(self._calls) >= MOST_CALLS:
            return True
        self._calls.append(now)
        return False

    async def _connections(self, _: web.Request) -> web.Response:
        return _success({"online_instance_cnt": self._gateway.clients})

    async def _subscribe(self, request: web.Request) -> web.Response:
        if (types := await _event_types(request)) is None:
            return _refusal(_BAD_EVENTS, "the events are not valid")
        self.subscribed = (self.subscribed or set()) | types
        return _success({})

    async def _unsubscribe(self, request: web.Request) -> web.Response:
        if (types := await _event_types(request)) is None:
            return _refusal(_BAD_EVENTS, "the events are not valid")
        self.subscribed = (self.subscribed or set()) - types
        return _success({})

    async def _tickets(self, request: web.Request) -> web.Response:
        """List tickets by when they were made or changed."""
        found = [
            ticket
            for _, ticket in sorted(self._archive.tickets.items())
            if _within(request, "create_time", int(ticket["created_at"]))
            and _within(request, "update_time", max(ticket["created_at"], ticket["updated_at"]))
        ]
        return _success({"total": len(found), "tickets": _page(request, found)})

    async def _ticket(self, request: web.Request) -> web.Response:
        ticket = self._archive.tickets.get(request.match_info["id"])
        return _success({"ticket": ticket}) if ticket else _refusal(_NO_TICKET, "no such ticket")

    async def _messages(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self._archive.tickets:
            return _refusal(_NO_TICKET, "no such ticket")
        found = [
            message
            for message in self._archive.messages.get(request.match_info["id"], [])
            if _within(request, "time", int(message.get("created_at", 0)))
        ]
        return _success({"total": len(found), "messages": _page(request, found)})


def _with_id(people: Any) -> Any:
    """Give people one id each, as the API does where an event has an object of ids."""
    if isinstance(people, list):
        return [_with_id(person) for person in people]
    if isinstance(people, dict) and isinstance(people.get("id"), dict):
        return people | {"id": people["id"]["open_id"]}
    return people


async def _event_types(request: web.Request) -> set[str] | None:
    """Read `{"events": [{"type", "subtype"}]}`; None if it is not that."""
    try:
        events = (await request.json())["events"]
        return {f"{one['type']}.{one['subtype'].rpartition('.')[2]}" for one in events} or None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _within(request: web.Request, name: str, value: int) -> bool:
    start = int(request.query.get(f"{name}_start", "0"))
    return start <= value <= int(request.query.get(f"{name}_end", str(2**63)))


def _page(request: web.Request, found: list[Json]) -> list[Json]:
    number = max(1, int(request.query.get("page", "1")))
    size = min(MOST_PER_PAGE, max(1, int(request.query.get("page_size", "20"))))
    return found[(number - 1) * size : number * size]


def _success(data: Json) -> web.Response:
    return web.json_response({"code": 0, "msg": "success", "data": data})


def _refusal(code: int, message: str, *, status: int = 400) -> web.Response:
    return web.json_response({"code": code, "msg": message}, status=status)
