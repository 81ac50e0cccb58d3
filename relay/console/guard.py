"""Who may come in, and what a browser may do with an answer.

Holds nothing that a stranger can make grow, and keeps nobody out who has the password.
"""

import asyncio
import hashlib
import hmac
import time
from base64 import b64decode
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from aiohttp import web

#: Without a script, a frame or anything from elsewhere.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    # Nothing for others. With `no-referrer` a browser would not say either that a form is our own.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Seconds before the next look at a password from where one was wrong, doubled up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.25, 4.0
#: Seconds after which wrong passwords are forgotten.
FORGIVEN = 60.0
#: Addresses of which it is known, requests of one that may wait, and of all.
ADDRESSES, WAITING, WAITING_IN_ALL = 1000, 4, 200
#: Seconds for which a form, and the cookie of who had the password, are good: so many, or twice.
PERIOD = 6 * 3600
COOKIE = "relay_console"
#: Who has asked, in a request that was let in.
USER = web.RequestKey("user", str)
#: Characters of a user's name; it stands in the log.
LONGEST_NAME = 100


class Gate:
    """Asks for the password. One that was wrong makes the next one from there wait."""

    def __init__(self, password: str) -> None:
        self._key = hashlib.sha256(b"relay console\0" + password.encode()).digest()
        self._password = self._digest(password.encode())
        #: Wrong passwords in a row by address, and monotonic time of the last.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    async def admit(self, request: web.Request) -> str:
        """Give the user's name. Raises HTTPUnauthorized or HTTPTooManyRequests."""
        given = request.headers.get("Authorization")
        if given is None:
            raise unauthorized()
        place = _place(request.remote)
        if not self._known(request.cookies.get(COOKIE, "")):
            with self._queued(place):
                await asyncio.sleep(self._pause(place))
        user, password = _credentials(given)
        if not hmac.compare_digest(self._digest(password), self._password):
            self._note(place)
            raise unauthorized()
        self._wrong.pop(place, None)
        if not user:
            raise unauthorized()
        return user

    def cookie(self) -> str:
        """Show later that the password was known here: who has it never waits for strangers."""
        return self._stamp("cookie", _period())

    def token(self, user: str) -> str:
        """Give what a form carries, to show that it is one of this user's pages."""
        return self._stamp("form\0" + user, _period())

    def is_own(self, token: str, user: str) -> bool:
        """Whether a form carries what `token` gave, in this or the last period."""
        return self._stamped("form\0" + user, token)

    def _known(self, cookie: str) -> bool:
        return self._stamped("cookie", cookie)

    def _stamp(self, what: str, period: int) -> str:
        return self._digest(f"{what}\0{period}".encode()).hex()

    def _stamped(self, what: str, given: str) -> bool:
        now, last = (self._stamp(what, _period() - age).encode() for age in (0, 1))
        mark = given.encode(errors="replace")
        return hmac.compare_digest(now, mark) | hmac.compare_digest(last, mark)

    def _digest(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, "sha256")

    @contextmanager
    def _queued(self, place: str) -> Iterator[None]:
        """Let few wait; more would be ways to try more passwords at a time."""
        if self._pause(place) and (
            self._waiting[place] >= WAITING or self._waiting.total() >= WAITING_IN_ALL
        ):
            raise web.HTTPTooManyRequests(headers={"Retry-After": "5"})
        self._waiting[place] += 1
        try:
            yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def _pause(self, place: str) -> float:
        count, at = self._wrong.get(place, (0, 0.0))
        if not count or time.monotonic() - at > FORGIVEN:
            return 0
        return float(min(FIRST_WAIT * 2 ** min(count - 1, 10), LONGEST_WAIT))

    def _note(self, place: str) -> None:
        count, at = self._wrong.pop(place, (0, 0.0))
        if time.monotonic() - at > FORGIVEN:
            count = 0
        self._wrong[place] = (count + 1, time.monotonic())
        if len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)


def unauthorized() -> web.HTTPUnauthorized:
    """Ask for name and password."""
    asked = 'Basic realm="relay console", charset="UTF-8"'
    return web.HTTPUnauthorized(headers={"WWW-Authenticate": asked})


def refuse_foreign(request: web.Request, *, strict: bool) -> None:
    """Refuse what another site's page sends; `strict`: what does not say where it is from, too.

    Raises HTTPForbidden.
    """
    site, origin = (request.headers.get(name) for name in ("Sec-Fetch-Site", "Origin"))
    foreign = site not in {None, "same-origin"}
    if origin is not None:
        foreign |= urlsplit(origin).netloc != request.host
    if foreign or (strict and site is None and origin is None):
        raise web.HTTPForbidden(text="this did not come from a page of this console")


async def protect(_: web.Request, response: web.StreamResponse) -> None:
    """Put the headers on an answer of any kind."""
    response.headers.update(HEADERS)


def _credentials(header: str) -> tuple[str, bytes]:
    """Read Basic's name and password; what is not readable is no password."""
    scheme, _, coded = header.partition(" ")
    try:
        decoded = b64decode(coded.strip(), validate=True) if scheme.lower() == "basic" else b""
        user, _, password = decoded.partition(b":")
        name = user.decode()
    except ValueError:
        return "", b""
    name = name if name.isprintable() and len(name) <= LONGEST_NAME else ""
    return name, password


def _place(remote: str | None) -> str:
    """Give an address; of IPv6 the network, of which anybody has a whole one."""
    try:
        address = ip_address((remote or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and not address.ipv4_mapped:
        return str(ip_network((address, 64), strict=False))
    return str(address)


def _period() -> int:
    return int(time.time() // PERIOD)


#: What a refusal says to a person.
SENTENCES = {
    HTTPStatus.UNAUTHORIZED: "This needs a name, for the log, and the console's password.",
    HTTPStatus.FORBIDDEN: "This did not come from a page of this console, or the page was too old.",
    HTTPStatus.NOT_FOUND: "There is no such page, or no such event.",
    HTTPStatus.METHOD_NOT_ALLOWED: "A page is read, a form is sent; this was neither.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "That was too much at once.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many wrong passwords came from there; wait a moment.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The journal cannot be read just now.",
}
