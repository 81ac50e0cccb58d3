"""Feishu's own API: what relay asks it. Secrets go in here and never come out in a message.

Error codes: Feishu's pages of each call, and for the long connection what its SDKs act on.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from relay.errors import FeishuRefusedError, FeishuUnavailableError, ProxyError
from relay.feishu.proxies import describe, proxy_for, through

#: Seconds for one call.
TIMEOUT = 15
#: Seconds; no sensible interval is longer.
LONGEST_INTERVAL = 86_400
#: What an endpoint call's code means where it is known.
_ENDPOINT_CODES = {
    1: "Feishu is busy",
    403: "the app may not use the long connection",
    514: "app id or secret is wrong",
    1000040343: "Feishu has an internal error",
    1000040344: "app id or secret is missing",
    1000040345: "app id or secret is wrong, or Feishu is busy",
    1000040350: "too many connections of this app are open",
    1000040351: "the app belongs to the other domain: Feishu's or Lark's (feishu_url)",
}
#: The same for the API's calls, with what to do.
API_CODES = {
    10003: "app_id or app_secret is wrong: look into the app's Credentials page",
    10014: "app_secret is wrong: look into the app's Credentials page",
    99991400: "too many calls; Feishu wants fewer per second",
    99991661: "the tenant access token is missing",
    99991663: "the tenant access token is not valid: is feishu_url the app's own domain?",
    99991672: "the app lacks a scope: add it, and publish a version of the app",
    154000: "Feishu's service desk has an internal error; try again",
    154003: "helpdesk_id or helpdesk_token is wrong: look into the service desk's API settings",
    155000: "Feishu's service desk does not take the request: is the event added to the app, and"
    " the version with it published?",
}
_BUSY_CODES = {99991400, 154000}
#: Codes that pass by themselves.
_PASSING = {1, 1000040343, 1000040350}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """What Feishu asks of a long connection's client; seconds."""

    ping_interval: float = 120.0
    reconnect_interval: float = 120.0
    reconnect_nonce: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to connect, once. The URL is a secret: whoever has it is the app."""

    url: str
    config: ClientConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpDesk:
    """What the helpdesk calls need: the app's token, and the service desk's own id and token."""

    tenant_token: str
    helpdesk_id: str
    helpdesk_token: str

    def headers(self) -> dict[str, str]:
        """Give both authorizations."""
        both = f"{self.helpdesk_id}:{self.helpdesk_token}".encode()
        own = {"X-Lark-Helpdesk-Authorization": b64encode(both).decode()}
        return _bearer(self.tenant_token) | own


class Feishu:
    """Calls of one domain: Feishu's, Lark's or the simulator's."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def endpoint(self, app_id: str, app_secret: str) -> Endpoint:
        """Ask where to open a long connection.

        Raises FeishuUnavailableError (it may pass) or FeishuRefusedError (somebody must act).
        """
        credentials = {"AppID": app_id, "AppSecret": app_secret}
        answer = await self._call(
            "POST", "/callback/ws/endpoint", json=credentials, headers={"locale": "zh"}
        )
        code = answer.get("code")
        if code != 0:
            raise _endpoint_error(code, answer.get("msg"))
        given = answer.get("data")
        data: dict[str, Any] = given if isinstance(given, dict) else {}
        url = data.get("URL")
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise FeishuUnavailableError("Feishu named no address to connect to")
        return Endpoint(url=url, config=client_config(data.get("ClientConfig"), ClientConfig()))

    async def tenant_token(self, app_id: str, app_secret: str) -> str:
        """Get a tenant access token, good for two hours at most.

        Raises FeishuUnavailableError or FeishuRefusedError.
        """
        answer = await self._call(
            "POST",
            "/open-apis/auth/v3/tenant_access_token/internal",
            json={"app_id": app_id, "app_secret": app_secret},
        )
        token = _checked(answer).get("tenant_access_token")
        if not isinstance(token, str) or not token:
            raise FeishuUnavailableError("Feishu gave no tenant access token")
        return token

    async def subscribe(
        self, desk: HelpDesk, event_types: Sequence[str], *, subscribe: bool = True
    ) -> None:
        """Subscribe a service desk to events, or end that.

        Raises FeishuUnavailableError or FeishuRefusedError.
        """
        verb = "subscribe" if subscribe else "unsubscribe"
        events = [_subscription(event_type) for event_type in event_types]
        _checked(
            await self._call(
                "POST",
                f"/open-apis/helpdesk/v1/events/{verb}",
                json={"events": events},
                headers=desk.headers(),
            )
        )

    async def helpdesk(self, desk: HelpDesk, path: str, query: Mapping[str, int]) -> dict[str, Any]:
        """Read from the service desk's API; give the answer's `data`.

        Raises FeishuUnavailableError or FeishuRefusedError.
        """
        answer = await self._call(
            "GET", f"/open-apis/helpdesk/v1{path}", params=query, headers=desk.headers()
        )
        data = _checked(answer).get("data")
        return data if isinstance(data, dict) else {}

    async def online_clients(self, token: str) -> int:
        """Count the app's open long connections, whoever holds them."""
        answer = await self._call("GET", "/open-apis/event/v1/connection", headers=_bearer(token))
        data = _checked(answer).get("data")
        count = data.get("online_instance_cnt") if isinstance(data, dict) else None
        if not isinstance(count, int):
            raise FeishuUnavailableError("Feishu did not say how many clients are online")
        return count

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Make one call; give the answer's JSON object, whatever its code says."""
        timeout, proxy = aiohttp.ClientTimeout(total=TIMEOUT), None
        try:
            proxy = proxy_for(self._url)
            async with self._session.request(
                # A redirect would take secrets to whom it names.
                method,
                self._url + path,
                timeout=timeout,
                allow_redirects=False,
                proxy=through(proxy),
                **request,
            ) as response:
                answer = await _json(response)
                status = response.status
        except TimeoutError:
            raise FeishuUnavailableError(f"{self._url} did not answer in {TIMEOUT} s") from None
        except (aiohttp.ClientError, OSError, ProxyError) as error:
            reason = describe(error, proxy)
            raise FeishuUnavailableError(f"{self._url} cannot be reached: {reason}") from None
        if "code" not in answer:
            way = f" (through the proxy {proxy})" if proxy else ""
            message = f"{self._url} answered {status} to {path}, and no code{way}"
            raise FeishuUnavailableError(message)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer["code"] == 0:
            raise FeishuUnavailableError(f"{self._url} answered {status} to {path}")
        return answer


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _subscription(event_type: str) -> dict[str, str]:
    """Write `helpdesk.ticket.created_v1` as Feishu wants it: type and subtype."""
    kind, _, version = event_type.rpartition(".")
    return {"type": kind, "subtype": f"{kind.rpartition('.')[2]}.{version}"}


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Give the answer if its code is 0, else raise what the code means."""
    code, said = answer.get("code"), answer.get("msg")
    if code == 0:
        return answer
    known = API_CODES.get(code, "Feishu refuses") if isinstance(code, int) else "Feishu refuses"
    sentence = f"{known} (code {code}, {said!r})"
    if isinstance(code, int) and code in _BUSY_CODES:
        raise FeishuUnavailableError(sentence)
    raise FeishuRefusedError(sentence)


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        answer = await response.json(content_type=None)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _endpoint_error(code: object, message: object) -> Exception:
    known = _ENDPOINT_CODES.get(code, "") if isinstance(code, int) else ""
    sentence = f"no long connection: {known or 'Feishu refuses it'} (code {code}, {message!r})"
    if isinstance(code, int) and code in _PASSING:
        return FeishuUnavailableError(sentence)
    return FeishuRefusedError(sentence)


def client_config(given: object, current: ClientConfig) -> ClientConfig:
    """Take what is sensible of Feishu's `ClientConfig`; keep the current value of all else."""
    values = given if isinstance(given, dict) else {}

    def seconds(name: str, otherwise: float) -> float:
        value = values.get(name)
        return float(value) if type(value) is int and 0 < value <= LONGEST_INTERVAL else otherwise

    return ClientConfig(
        ping_interval=seconds("PingInterval", current.ping_interval),
        reconnect_interval=seconds("ReconnectInterval", current.reconnect_interval),
        reconnect_nonce=seconds("ReconnectNonce", current.reconnect_nonce),
    )
