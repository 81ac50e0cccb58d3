"""The JSON below `/api/`: what this replica says, for other replicas, `--peers` and scripts."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from relay.console import guard
from relay.console.fleet import FILTERS
from relay.console.replica import Replica
from relay.console.said import Deed, Picks
from relay.events import Outcome, Transport
from relay.journal.search import Filter
from relay.journal.view import PENDING

log = structlog.get_logger()

#: Events of an answer, where none asks for less, and at most.
LIMIT, MOST = 50, 1000
#: Characters of a word that is looked for.
LONGEST = 512
_NUMBERS = ("since", "until")
#: What a row may show as its ending.
OUTCOMES = (
    PENDING,
    *(one.value for one in Outcome if one not in {Outcome.ACCEPTED, Outcome.CHALLENGE}),
)
_PICKS: TypeAdapter[dict[str, Picks]] = TypeAdapter(dict[str, Picks])


class Api:
    """The handlers."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def routes(self) -> list[web.RouteDef]:
        """Give what is answered."""
        return [
            web.get("/api/overview", self._overview),
            web.get("/api/events", self._events),
            web.get("/api/event", self._event),
            web.post("/api/{deed:replay|discard}", self._change),
        ]

    async def _overview(self, _: web.Request) -> web.Response:
        return _json(asdict(await self._replica.overview()))

    async def _events(self, request: web.Request) -> web.Response:
        wanted, before = wanted_of(request.query), None
        for name, seq in starts(request.query.get("before", "")).items():
            before = seq if name == self._replica.journal else before
        limit = min(max(number(request.query.get("limit", str(LIMIT))), 1), MOST)
        return _json(asdict(await self._replica.found(wanted, before, limit)))

    async def _event(self, request: web.Request) -> web.Response:
        event_id, app = request.query.get("id", ""), request.query.get("app") or None
        body = request.query.get("body") == "1"
        shown = await self._replica.shown(event_id, app, body=body)
        if body:
            looked(request[guard.USER], shown.life.app, event_id)
        return _json(asdict(shown))

    async def _change(self, request: web.Request) -> web.Response:
        """Change what is named and lies here; what another journal has is passed over."""
        guard.refuse_foreign(request, strict=False)
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType
        try:
            picks = _PICKS.validate_json(await request.read())["events"]
        except (ValidationError, KeyError):
            raise web.HTTPBadRequest from None
        if sum(map(len, picks.values())) > MOST:
            raise web.HTTPRequestEntityTooLarge(MOST)
        deed, events = Deed(request.match_info["deed"]), picks.get(self._replica.journal, [])
        return _json(asdict(await self._replica.change(deed, events, request[guard.USER])))


def looked(user: str, app: str, event_id: str) -> None:
    """Note that somebody has read what a customer wrote."""
    log.info("console_body_shown", user=user, app=app, event_id=event_id)


def wanted_of(query: Mapping[str, str]) -> Filter:
    """Read a filter out of an address. Raises HTTPBadRequest."""
    given: dict[str, Any] = {
        field: query[name].strip()[:LONGEST]
        for field, name in FILTERS.items()
        if query.get(name, "").strip()
    }
    given |= {name: number(given[name]) for name in _NUMBERS if name in given}
    if given.get("outcome", PENDING) not in OUTCOMES:
        raise web.HTTPBadRequest
    if given.get("transport", Transport.WEBHOOK) not in tuple(Transport):
        raise web.HTTPBadRequest
    return Filter(**given)


def starts(text: str) -> dict[str, int]:
    """Read `journal:seq,journal:seq`: where the next page of each begins. Raises HTTPBadRequest."""
    parts = [one.rpartition(":") for one in text.split(",") if one]
    return {name: number(seq) for name, _, seq in parts}


def number(text: str) -> int:
    """Read what SQLite can count. Raises HTTPBadRequest."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):  # noqa: PLR2004 - digits of 2**63
        raise web.HTTPBadRequest
    return int(text)


def _json(document: object) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")
