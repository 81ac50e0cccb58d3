"""The pages that a person sees, over all replicas."""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from relay.console import api, guard, words
from relay.console.fleet import Fleet, asked, untouched
from relay.console.guard import Gate
from relay.console.pages import Pages
from relay.console.replica import Replica
from relay.console.said import Answer, Deed, Found, Picks
from relay.events import Outcome, Transport
from relay.journal.rows.lives import Life
from relay.journal.search import Filter

#: Seconds after which an overview is shown anew.
REFRESH = 5
#: Events on a page, and dead letters.
ROWS, LETTERS = 50, 200
#: What a box of a form has as its value: journal, app and id.
_PARTS = 3
#: The reason of a dead letter that was discarded.
DISCARDED = "discarded"


class Screens:
    """The handlers."""

    def __init__(self, gate: Gate, pages: Pages, replica: Replica, fleet: Fleet) -> None:
        self._gate = gate
        self._pages = pages
        self._replica = replica
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """Give what is answered."""
        return [
            web.get("/", self._overview),
            web.get("/events", self._events),
            web.get("/event", self._event),
            web.get("/dead-letters", self._letters),
            web.post("/confirm", self._confirm),
            web.post("/do", self._do),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        answers = await self._fleet.overviews(request[guard.USER])
        paused = "pause" in request.query
        values = {
            "answers": answers,
            "attention": words.attention(answers),
            "arrivals": words.arrivals(answers),
            "paused": paused,
            "refresh": REFRESH,
        }
        headers = {} if paused else {"Refresh": f"{REFRESH}; url=/"}
        return await self._page(request, "overview", values, headers)

    async def _events(self, request: web.Request) -> web.Response:
        given = {name: value.strip() for name, value in request.query.items() if value.strip()}
        now, before = _now(), api.starts(given.pop("before", ""))
        problem, wanted = "", Filter()
        try:
            wanted = api.wanted_of(words.with_instants(given, now))
        except ValueError as error:
            problem = str(error)
        user = request[guard.USER]
        answers = [] if problem else await self._fleet.found(user, wanted, before, ROWS)
        lives, then = merged(answers, before, ROWS)
        older = ""
        if then:
            older = "/events?" + urlencode(asked(wanted) | {"before": _starts(then)})
        values = {
            "given": given,
            "problem": problem,
            "answers": answers,
            "rows": lives,
            "older": older,
            "narrowed": bool(given),
            "outcomes": api.OUTCOMES,
            "transports": [one.value for one in Transport],
        }
        return await self._page(request, "events", values)

    async def _event(self, request: web.Request) -> web.Response:
        event_id, app = request.query.get("id", ""), request.query.get("app") or None
        body, user = request.query.get("body") == "1", request[guard.USER]
        answers = await self._fleet.shown(user, event_id, app, body=body)
        found = [answer.said for answer in answers if answer.said]
        if not found and not any(answer.problem for answer in answers):
            raise web.HTTPNotFound
        if body and found and found[0].journal == self._replica.journal:
            api.looked(user, found[0].life.app, event_id)
        values = {
            "id": event_id,
            "answers": answers,
            "shown": [(one, words.story(one)) for one in found],
            "body": body,
            "remedies": words.REMEDIES,
        }
        return await self._page(request, "event", values)

    async def _letters(self, request: web.Request) -> web.Response:
        user, before = request[guard.USER], api.starts(request.query.get("before", ""))
        reason = request.query.get("reason") or None
        wanted = Filter(outcome=Outcome.DEAD_LETTER.value, reason=reason)
        overviews = await self._fleet.overviews(user)
        answers = await self._fleet.found(user, wanted, before, LETTERS)
        lives, then = merged(answers, before, LETTERS)
        groups: dict[str, list[tuple[Found, Life]]] = {}
        for found, life in lives:
            # What is decided upon is shown only to who asks for it.
            if life.reason != DISCARDED or reason == DISCARDED:
                groups.setdefault(life.reason or "", []).append((found, life))
        counts: dict[str, int] = {}
        for one in overviews:
            for name, count in one.said.letters.items() if one.said else ():
                counts[name] = counts.get(name, 0) + count
        values = {
            "answers": answers,
            "groups": groups,
            "counts": counts,
            "count": sum(map(len, groups.values())),
            "reason": reason,
            "remedies": words.REMEDIES,
            "older": "/dead-letters?"
            + urlencode(_only({"reason": reason, "before": _starts(then)}))
            if then
            else "",
        }
        return await self._page(request, "letters", values)

    async def _confirm(self, request: web.Request) -> web.Response:
        """Ask, with the count, before anything is done."""
        deed, picks = await self._form(request)
        count = sum(map(len, picks.values()))
        return await self._page(request, "confirm", {"deed": deed, "picks": picks, "count": count})

    async def _do(self, request: web.Request) -> web.Response:
        deed, picks = await self._form(request)
        answers = await self._fleet.change(request[guard.USER], deed, picks)
        values = {
            "deed": deed,
            "answers": answers,
            "done": sum(len(one.said.done) for one in answers if one.said),
            "left": [pair for one in answers if one.said for pair in one.said.left.items()],
            "untouched": untouched(picks, answers),
        }
        return await self._page(request, "done", values)

    async def _form(self, request: web.Request) -> tuple[Deed, Picks]:
        """Read what one of our own pages has sent. Raises HTTPForbidden or HTTPBadRequest."""
        guard.refuse_foreign(request, strict=True)
        form = await request.post()
        if not self._gate.is_own(str(form.get("token", "")), request[guard.USER]):
            raise web.HTTPForbidden
        # `replay` is for what was chosen, `replay-all` for all that was shown.
        deed, _, every = str(form.get("deed", "")).partition("-")
        if deed not in tuple(Deed):
            raise web.HTTPBadRequest
        picks: Picks = {}
        for one in form.getall("shown" if every else "pick", []):
            parts = str(one).split("|", _PARTS - 1)
            if len(parts) < _PARTS:
                raise web.HTTPBadRequest
            picks.setdefault(parts[0], []).append((parts[1], parts[2]))
        return Deed(deed), picks

    async def _page(
        self,
        request: web.Request,
        name: str,
        values: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        """Render in a thread: a page may be long."""
        user = request[guard.USER]
        values |= {"user": user, "here": name, "now": _now(), "token": self._gate.token(user)}
        text = await self._replica.read(lambda: self._pages.render(name, values))
        return web.Response(text=text, content_type="text/html", headers=headers)


def merged(
    answers: Sequence[Answer[Found]], before: Mapping[str, int], limit: int
) -> tuple[list[tuple[Found, Life]], dict[str, int]]:
    """Put the replicas' pages into one, the newest first; give also where the next one begins.

    Nothing if there is none. Of a replica that has no more it begins at 0, before its first event.
    """
    found = [answer.said for answer in answers if answer.said]
    rows = [(one, life) for one in found for life in one.lives]
    rows.sort(key=lambda row: (-row[1].received_at, -row[1].seq))
    rows, cut = rows[:limit], len(rows) > limit
    last = {one.journal: life.seq for one, life in rows}
    then = {}
    for one in found:
        whole = not one.lives or one.lives[-1].seq == last.get(one.journal)
        start = last.get(one.journal, before.get(one.journal))
        then[one.journal] = (one.before or 0) if whole else start
    more = cut or any(one.before for one in found)
    return rows, {name: seq for name, seq in then.items() if seq is not None} if more else {}


def _starts(then: Mapping[str, int]) -> str:
    return ",".join(f"{name}:{seq}" for name, seq in then.items())


def _only(params: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value}


def _now() -> int:
    return int(time.time() * 1000)
