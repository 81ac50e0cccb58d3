"""A Confluent-compatible schema registry: the calls that put a schema into it.

Credentials go in here and never come out in a message. Paths and error codes are Confluent's;
Redpanda, Karapace and Apicurio (below `/apis/ccompat/v7`) answer the same.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp

from relay.errors import (
    ProxyError,
    RegistryDeniedError,
    RegistryIncompatibleError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
from relay.feishu.proxies import describe, proxy_for, through

#: Seconds for one call.
TIMEOUT = 15
_TYPE = "application/vnd.schemaregistry.v1+json"
#: Nothing is registered under that subject yet, or all of it is deleted.
_NEW = {40401, 40402}
_PASSING = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}
#: Characters of what a registry says that are shown: it may repeat both schemas.
_SHOWN = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    content: dict[str, Any]

    @property
    def code(self) -> object:
        """The registry's own code of an error: the status, or more digits than it has."""
        return self.content.get("error_code")

    @property
    def said(self) -> str:
        message = self.content.get("message")
        return f" ({message[:_SHOWN]})" if isinstance(message, str) and message else ""


class Registry:
    """Calls of one registry."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Take a session that has the credentials, and an address without any."""
        self._session = session
        self._url = url.rstrip("/")

    async def check(self, subject: str, schema: dict[str, Any]) -> None:
        """Ask whether a schema may follow the latest of its subject, by the registry's rule.

        Raises RegistryIncompatibleError if it may not; other errors as `register`.
        """
        place = f"/compatibility/subjects/{quote(subject)}/versions/latest?verbose=true"
        answer = await self._post(place, schema)
        if answer.status == HTTPStatus.NOT_FOUND and answer.code in _NEW:
            return
        self._refuse_errors(subject, answer)
        if answer.content.get("is_compatible") is not True:
            raise RegistryIncompatibleError(subject, _reasons(answer.content.get("messages")))

    async def register(self, subject: str, schema: dict[str, Any]) -> int:
        """Put a schema under a subject, unless it is there; give its id.

        Raises RegistryUnavailableError (it may pass), RegistryDeniedError (who asks may not),
        RegistryIncompatibleError or RegistryRefusedError (somebody must act).
        """
        answer = await self._post(f"/subjects/{quote(subject)}/versions", schema)
        if answer.status == HTTPStatus.CONFLICT:
            raise RegistryIncompatibleError(subject, answer.said)
        self._refuse_errors(subject, answer)
        number = answer.content.get("id")
        if not isinstance(number, int):
            raise RegistryRefusedError(f"{self._url} gave no id for {subject}")
        return number

    async def _post(self, path: str, schema: dict[str, Any]) -> _Answer:
        text, proxy = json.dumps(schema, separators=(",", ":"), ensure_ascii=False), None
        try:
            proxy = proxy_for(self._url)
            async with self._session.post(
                self._url + path,
                data=json.dumps({"schemaType": "JSON", "schema": text}).encode(),
                headers={"Content-Type": _TYPE, "Accept": f"{_TYPE}, application/json"},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                # A redirect would take credentials to whom it names.
                allow_redirects=False,
                proxy=through(proxy),
            ) as response:
                return _Answer(status=response.status, content=await _object(response))
        except TimeoutError:
            raise RegistryUnavailableError(f"{self._url} did not answer in {TIMEOUT} s") from None
        except (aiohttp.ClientError, OSError, ProxyError) as error:
            reason = describe(error, proxy)
            raise RegistryUnavailableError(f"{self._url} cannot be reached: {reason}") from None

    def _refuse_errors(self, subject: str, answer: _Answer) -> None:
        """Say what an answer means that is none of what was asked for."""
        status, said = answer.status, answer.said
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise RegistryDeniedError(
                f"{self._url} answered {status} for {subject}{said}: look at --user, its password"
                " and its rights"
            )
        if status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RegistryUnavailableError(f"{self._url} answered {status} for {subject}{said}")
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise RegistryRefusedError(
                f"{self._url} does not take the schema of {subject}{said}: it must know JSON Schema"
            )
        if status != HTTPStatus.OK or not answer.content:
            raise RegistryRefusedError(
                f"{self._url} answered {status} for {subject}{said}: is it a schema registry?"
            )


async def _object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        content = await response.json(content_type=None)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _reasons(messages: object) -> str:
    """Give what a registry has found, without the schema that it compared with."""
    told = [
        one[:_SHOWN]
        for one in (messages if isinstance(messages, list) else [])
        if isinstance(one, str) and not one.startswith("{oldSchema:")
    ]
    return f" ({'; '.join(told)})" if told else ""
