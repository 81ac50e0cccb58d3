"""The operator's listener: pages for a browser, and the same as JSON for other replicas."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from relay.console import guard, words
from relay.console.pages import Pages
from relay.console.replica import Parts, Replica
from relay.console.said import Answer, Overview
from relay.settings import Console
from relay.settings.values import bound

log = structlog.get_logger()

#: Bytes of a form: the numbers of a page's events.
MAX_BODY = 256 * 1024
#: Seconds after which an overview is shown anew.
REFRESH = 5

_USER = web.RequestKey("user", str)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ConsoleServer:
    """The console of one replica."""

    def __init__(self, settings: Console, parts: Parts) -> None:
        self._settings = settings
        self._gate = guard.Gate(settings.password.get_secret_value())
        self._replica = Replica(parts)
        self._pages = Pages()
        app = web.Application(middlewares=[self._guarded], client_max_size=MAX_BODY)
        app.on_response_prepare.append(guard.protect)
        app.router.add_get("/", self._overview)
        app.router.add_get("/style.css", self._style)
        app.router.add_get("/api/overview", self._api_overview)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self) -> int:
        """Listen; give the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, bound(self._settings.host), self._settings.port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener."""
        await self._runner.cleanup()
        self._replica.close()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let nobody in without the password; answer each refusal as a page, or as JSON."""
        try:
            if request.path == "/style.css":
                return await handler(request)
            request[_USER] = await self._gate.admit(request)
            answer = await handler(request)
        except web.HTTPException as refused:
            if refused.status < HTTPStatus.BAD_REQUEST:
                raise
            return self._refusal(request, refused)
        answer.set_cookie(
            guard.COOKIE,
            self._gate.cookie(),
            max_age=guard.PERIOD,
            httponly=True,
            samesite="Strict",
        )
        return answer

    def _refusal(self, request: web.Request, refused: web.HTTPException) -> web.Response:
        status = HTTPStatus(refused.status)
        sentence = guard.SENTENCES.get(status, status.phrase)
        headers = {
            name: value
            for name, value in refused.headers.items()
            if name in {"WWW-Authenticate", "Retry-After", "Allow"}
        }
        if request.path.startswith("/api/"):
            document = {"error": status.name.lower(), "detail": sentence}
            return web.json_response(document, status=status, headers=headers)
        values = {"title": status.phrase, "sentence": sentence, "user": request.get(_USER, "")}
        text = self._pages.render("refused", values)
        return web.Response(text=text, status=status, headers=headers, content_type="text/html")

    async def _overview(self, request: web.Request) -> web.Response:
        answers = await self._overviews()
        paused = "pause" in request.query
        values = {
            "answers": answers,
            "attention": words.attention(answers),
            "now": _now(),
            "paused": paused,
            "refresh": REFRESH,
        }
        headers = {} if paused else {"Refresh": f"{REFRESH}; url=/"}
        return await self._page(request, "overview", values, headers)

    async def _overviews(self) -> list[Answer[Overview]]:
        own = await self._replica.overview()
        return [Answer(name=own.name, journal=own.journal, said=own)]

    async def _style(self, _: web.Request) -> web.Response:
        return web.Response(body=self._pages.style, content_type="text/css", charset="utf-8")

    async def _api_overview(self, _: web.Request) -> web.Response:
        return _json(asdict(await self._replica.overview()))

    async def _page(
        self,
        request: web.Request,
        name: str,
        values: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        """Render in a thread: a page may be long."""
        user = request[_USER]
        values |= {"user": user, "here": name, "token": self._gate.token(user)}
        text = await self._replica.read(lambda: self._pages.render(name, values))
        return web.Response(text=text, content_type="text/html", headers=headers)


def _json(document: object) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")


def _now() -> int:
    return int(time.time() * 1000)
