"""Feishu's own API: what relay asks it. Secrets go in here and never come out in a message.

Error codes: Feishu's pages of each call, and for the long connection what its SDKs act on.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from relay.errors import FeishuRefusedError, FeishuUnavailableError

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
    1000040351: "the app belongs to the other domain: Feishu's or Lark's (RELAY_FEISHU_URL)",
}
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

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Make one call; give the answer's JSON object, whatever its code says."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with self._session.request(
                method, self._url + path, timeout=timeout, **request
            ) as response:
                answer = await _json(response)
                status = response.status
        except TimeoutError:
            raise FeishuUnavailableError(f"{self._url} did not answer in {TIMEOUT} s") from None
        except (aiohttp.ClientError, OSError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise FeishuUnavailableError(f"{self._url} cannot be reached: {reason}") from None
        if "code" not in answer:
            message = f"{self._url} answered {status} to {path}, and no code"
            raise FeishuUnavailableError(message)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer["code"] == 0:
            raise FeishuUnavailableError(f"{self._url} answered {status} to {path}")
        return answer


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
