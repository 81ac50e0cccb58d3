"""Tokens to log in at Kafka with: out of a file, of a token server, or signed for AWS.

What is known for good reasons is asked for once. No token and no secret ever stands in a message.
"""

import asyncio
import json
import time
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import aiohttp
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError

from relay.egress.kafka.faults import describe
from relay.errors import ProxyError
from relay.feishu import proxies
from relay.feishu.proxies import proxy_for, through
from relay.observe import clock
from relay.settings import Kafka
from relay.settings.login import region

#: Seconds for a token server's answer.
_TIMEOUT = 10
#: The part of a token's life for which it is used, and its life if the server does not say.
_SHARE, _LIFE = 0.8, 60
#: What a token server says of whoever asks, and not of itself.
_REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
#: As much as is read of an answer, and as is shown of a word in it.
_MOST_BYTES, _MOST_SHOWN = 2**20, 200


class FileToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """What stands in a file at that moment; somebody else renews it."""

    def __init__(self, path: Path, extensions: Mapping[str, str]) -> None:
        self._path = path
        self._extensions = dict(extensions)

    def extensions(self) -> dict[str, str]:
        """Give what the broker is told beside the token."""
        return self._extensions

    async def token(self) -> str:
        """Read the file. Raises AuthenticationFailedError."""
        try:
            text = (await asyncio.to_thread(self._path.read_text, "ascii")).strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is not ASCII"
            raise AuthenticationFailedError(f"the token file {self._path}: {reason}") from error
        if not text or not text.isprintable() or " " in text:
            raise AuthenticationFailedError(f"the token file {self._path} holds no token")
        return text

    def refused(self) -> None:
        """Forget a token that a broker did not take: here none is remembered."""


class _Cached(AbstractTokenProvider):  # type: ignore[misc]
    """A token that is used for most of its life; who needs a new one waits for the same answer."""

    def __init__(self, extensions: Mapping[str, str]) -> None:
        self._extensions = dict(extensions)
        self._token = ""
        #: Time of the boot clock from which on it is no longer given out.
        self._until = 0.0
        self._asking: asyncio.Task[None] | None = None

    def extensions(self) -> dict[str, str]:
        """Give what the broker is told beside the token."""
        return self._extensions

    async def token(self) -> str:
        """Give a token that holds for a while yet."""
        if clock.boot() >= self._until:
            asking, loop = self._asking, asyncio.get_running_loop()
            if asking is None or asking.done() or asking.get_loop() is not loop:
                asking = self._asking = loop.create_task(self._renew())
            await asyncio.shield(asking)
        return self._token

    def refused(self) -> None:
        """Forget a token that a broker did not take."""
        self._until = 0.0

    async def _renew(self) -> None:
        asked_at = clock.boot()
        self._token, life = await self._ask()
        self._until = asked_at + life * _SHARE

    @abstractmethod
    async def _ask(self) -> tuple[str, float]:
        """Give a new token, and for how many seconds it holds."""


class ClientCredentials(_Cached):
    """A token for an id and a secret (RFC 6749, section 4.4)."""

    def __init__(
        self, url: str, client: tuple[str, str], scope: str, extensions: Mapping[str, str]
    ) -> None:
        super().__init__(extensions)
        self._url = url
        # The RFC wants both encoded as in a form.
        known = b64encode(":".join(map(quote_plus, client)).encode()).decode()
        self._headers = {"Authorization": f"Basic {known}"}
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})

    async def _ask(self) -> tuple[str, float]:
        """Raises AuthenticationFailedError if it says no, else KafkaConnectionError."""
        timeout, proxy = aiohttp.ClientTimeout(total=_TIMEOUT), None
        try:
            proxy = proxy_for(self._url)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(
                    self._url,
                    data=self._form,
                    headers=self._headers,
                    allow_redirects=False,
                    proxy=through(proxy),
                ) as answer,
            ):
                status, body = answer.status, b""
                while len(body) < _MOST_BYTES and (part := await answer.content.readany()):
                    body += part
        except (aiohttp.ClientError, OSError, ProxyError) as error:
            reason = proxies.describe(error, proxy) if proxy else describe(error)
            message = f"the token server does not answer: {reason}"
            raise KafkaConnectionError(message) from error
        return _read(status, body)


def _read(status: int, body: bytes) -> tuple[str, float]:
    """Read a token server's answer (RFC 6749, sections 5.1 and 5.2)."""
    told = _object(body)
    if status == HTTPStatus.OK:
        token, life = told.get("access_token"), told.get("expires_in", _LIFE)
        if isinstance(token, str) and token.isascii() and token.isprintable() and token:
            return token, _seconds(life)
        raise KafkaConnectionError("the token server's answer has no token")
    words = [str(told[name]) for name in ("error", "error_description") if name in told]
    shown = ": ".join([f"HTTP {status}", *words])[:_MOST_SHOWN]
    if status in _REFUSALS:
        raise AuthenticationFailedError(f"the token server refuses: {shown}")
    raise KafkaConnectionError(f"the token server has no token: {shown}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _seconds(life: object) -> float:
    """Read a number; some servers write it as text."""
    try:
        return min(max(float(str(life)), 0.0), 86_400.0)
    except ValueError:
        return _LIFE


class AwsToken(_Cached):
    """A request to MSK, signed with whatever credentials AWS' own library finds."""

    def __init__(self, region: str) -> None:
        super().__init__({})
        self._region = region

    async def _ask(self) -> tuple[str, float]:
        """Raises AuthenticationFailedError if there are no credentials."""
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        from botocore.exceptions import BotoCoreError

        sign = MSKAuthTokenProvider.generate_auth_token
        try:
            token, expires = await asyncio.to_thread(sign, self._region)
        except AttributeError as error:  # the signer's word for that there are none
            raise AuthenticationFailedError("AWS' signer finds no credentials") from error
        except (BotoCoreError, ValueError) as error:
            raise AuthenticationFailedError(f"AWS' signer: {describe(error)}") from error
        return token, expires / 1000 - time.time()


def provider(settings: Kafka) -> AbstractTokenProvider:
    """Give what gives out tokens; the same for the same settings, so that one token serves all."""
    if settings.sasl_mechanism == "AWS_MSK_IAM":
        return _aws(region())
    if settings.oauth_token_file:
        return FileToken(settings.oauth_token_file, settings.oauth_extensions)
    client = settings.oauth_client_id, settings.oauth_client_secret.get_secret_value()
    extensions = tuple(sorted(settings.oauth_extensions.items()))
    return _server(settings.oauth_token_url, client, settings.oauth_scope, extensions)


_aws = lru_cache(maxsize=1)(AwsToken)


@lru_cache(maxsize=1)
def _server(
    url: str, client: tuple[str, str], scope: str, extensions: tuple[tuple[str, str], ...]
) -> ClientCredentials:
    return ClientCredentials(url, client, scope, dict(extensions))
