"""The operator's listener: pages for a browser, and the same as JSON for other replicas."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from relay.console import guard
from relay.console.api import Api
from relay.console.fleet import Fleet
from relay.console.pages import Pages
from relay.console.replica import Parts, Replica
from relay.console.screens import Screens
from relay.errors import EventNotFoundError, JournalError
from relay.settings import Console
from relay.settings.values import bound

log = structlog.get_logger()

#: Bytes of a form: the numbers of a page's events.
MAX_BODY = 256 * 1024
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
        app.router.add_get("/style.css", self._style)
        fleet = Fleet(settings, self._replica)
        screens = Screens(self._gate, self._pages, self._replica, fleet)
        app.router.add_routes([*screens.routes(), *Api(self._replica).routes()])
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
            request[guard.USER] = await self._gate.admit(request)
            answer = await handler(request)
        except EventNotFoundError:
            return self._refusal(request, web.HTTPNotFound())
        except (JournalError, TimeoutError) as error:
            log.warning("console_cannot_read", error=str(error))
            return self._refusal(request, web.HTTPServiceUnavailable())
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
        values = {"title": status.phrase, "sentence": sentence, "user": request.get(guard.USER, "")}
        text = self._pages.render("refused", values)
        return web.Response(text=text, status=status, headers=headers, content_type="text/html")

    async def _style(self, _: web.Request) -> web.Response:
        return web.Response(body=self._pages.style, content_type="text/css", charset="utf-8")
