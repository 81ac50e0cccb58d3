"""Asks other replicas' consoles: every address that a name stands for, and none is left out."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

import aiohttp
from pydantic import TypeAdapter, ValidationError

from relay.console.said import Answer
from relay.settings.values import Endpoint

T = TypeVar("T")

#: Seconds for a name, and for an answer.
LOOK_UP, PATIENCE = 3.0, 5.0
#: Bytes of an answer, at most.
LONGEST = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[T]):
    """What every peer is asked."""

    path: str
    reader: TypeAdapter[T]
    params: Mapping[str, str | int]
    #: What is to be done; None for a look.
    deed: Any = None


async def ask(
    places: Sequence[Endpoint], login: tuple[str, str], question: Question[T]
) -> list[Answer[T]]:
    """Ask all at once, as this user with this password; who says nothing has a problem.

    Whoever has not got what was asked for has neither.
    """
    if not places:
        return []
    found = await asyncio.gather(*(_addresses(place) for place in places))
    addresses = list(dict.fromkeys(address for some, _ in found for address in some))
    lost: list[Answer[T]] = [problem for _, problem in found if problem]
    headers = {"Authorization": aiohttp.encode_basic_auth(*login)}
    async with aiohttp.ClientSession(
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=PATIENCE),
    ) as session:
        return [*await asyncio.gather(*(_ask(session, at, question) for at in addresses)), *lost]


async def _addresses(place: Endpoint) -> tuple[list[Endpoint], Answer[Any] | None]:
    """Look a name up: a headless Service's stands for every replica that runs."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_UP):
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return [], Answer(name=str(place), problem="its name was not found in time")
    except OSError as error:
        return [], Answer(name=str(place), problem=f"its name was not found: {error.strerror}")
    return [Endpoint(str(one[4][0]), place.port) for one in found], None


async def _ask(session: aiohttp.ClientSession, at: Endpoint, question: Question[T]) -> Answer[T]:
    method = "GET" if question.deed is None else "POST"
    url = f"http://{at}{question.path}"
    try:
        async with session.request(
            method, url, params=question.params, json=question.deed, allow_redirects=False
        ) as answer:
            return await _read(at, answer, question)
    except TimeoutError:
        problem = f"no answer within {PATIENCE:.0f} s"
    except (aiohttp.ClientError, OSError) as error:
        problem = getattr(error, "strerror", None) or type(error).__name__
    except (ValidationError, ValueError):
        problem = "its answer is none of a console of this version"
    return Answer(name=str(at), problem=problem)


async def _read(at: Endpoint, answer: aiohttp.ClientResponse, question: Question[T]) -> Answer[T]:
    if answer.status == HTTPStatus.NOT_FOUND and answer.content_type == "application/json":
        return Answer(name=str(at))
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return Answer(name=str(at), problem="refuses the password")
    if answer.status != HTTPStatus.OK:
        return Answer(name=str(at), problem=f"answers {answer.status}")
    said: Any = question.reader.validate_json(await _body(answer))
    return Answer(name=said.name, journal=said.journal, said=said)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    read = bytearray()
    async for part in answer.content.iter_any():
        read += part
        if len(read) > LONGEST:
            raise ValueError("too long")
    return bytes(read)
