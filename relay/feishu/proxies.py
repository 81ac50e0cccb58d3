"""Which HTTP proxy a call goes through, by `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.

For what relay asks over HTTP, never for Kafka or claims. aiohttp itself would know no
proxy for `wss://`, no port and no network in `NO_PROXY`, and takes passwords out of `~/.netrc`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import aiohttp

from relay.errors import ProxyError
from relay.settings import values

#: The variable that counts for a URL's scheme, and the port that the scheme has.
_VARIABLES = {"https": "https_proxy", "wss": "https_proxy"}
_PORTS = {"https": 443, "wss": 443}
_PROXY = re.compile(r"(?:(https?)://)?(?:[^@/?#\s]*@)?([^@/?#\s]+)/?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; as text without the password that its URL may hold."""

    url: str = field(repr=False)
    place: str

    def __str__(self) -> str:
        return self.place


def through(proxy: Proxy | None) -> str | None:
    """Give an HTTP call's `proxy`."""
    return proxy.url if proxy else None


def describe(error: Exception, proxy: Proxy | None) -> str:
    """Say why an HTTP call failed, and whether it was the proxy, without URL and password."""
    if isinstance(error, ProxyError):
        return str(error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy {proxy} refuses: {error.status} {error.message}"
    reason = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} does not answer: {reason}"
    return f"{reason}, through the proxy {proxy}" if proxy else reason


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Say through which proxy a URL is asked; None: through none.

    Raises ProxyError for one that relay cannot use, without what may be its password.
    """
    try:
        target = urlsplit(url)
        host, port = target.hostname or "", target.port or _PORTS.get(target.scheme, 80)
    except ValueError:  # no URL: whoever asks it will say so
        return None
    name = _VARIABLES.get(target.scheme, "http_proxy")
    text = _variable(name, environment)
    if not text or _is_here(host) or _is_exempt(host, port, _variable("no_proxy", environment)):
        return None
    match = _PROXY.fullmatch(text)
    if match is None:
        raise ProxyError(f"{name.upper()} must be http://host:port or https://host:port")
    scheme = (match[1] or "http").lower()
    try:
        place = values.endpoint(match[2], _PORTS.get(scheme, 80))
    except ValueError as error:
        raise ProxyError(f"{name.upper()} {error}") from None
    return Proxy(text if match[1] else f"http://{text}", str(place))


def _variable(name: str, environment: Mapping[str, str]) -> str:
    """Read a variable: in small letters first, where an empty one is an end, too."""
    return environment.get(name, environment.get(name.upper(), "")).strip()


def _is_here(host: str) -> bool:
    """Whether it is this machine: a simulator is behind no proxy."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _is_exempt(host: str, port: int, text: str) -> bool:
    """Whether `NO_PROXY` has it: a name with all below it, an address, a network; with a port."""
    return any(_matches(host, entry) for entry, at in _entries(text) if at in {None, port})


def _entries(text: str) -> Iterator[tuple[str, int | None]]:
    for entry in re.split(r"[,\s]+", text.lower()):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]+)", entry)
        name, port = (match[1], int(match[2])) if match else (entry, None)
        if name:
            yield name.strip("[]"), port


def _matches(host: str, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        name, host = entry.removeprefix("*").strip("."), host.rstrip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    with suppress(ValueError):
        return address in ip_network(entry, strict=False)
    return False


def asked(url: str) -> str:
    """Say which host was asked: all else of the URL is a secret."""
    with suppress(ValueError):
        place = urlsplit(url)
        return f" ({place.hostname}:{place.port or _PORTS.get(place.scheme, 80)})"
    return ""
