"""Relay's calls of Feishu's API, against a Feishu that answers what it never should."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from relay.errors import FeishuRefusedError, FeishuUnavailableError
from relay.feishu import api as feishu
from relay.feishu.api import Feishu, HelpDesk

DESK = HelpDesk(tenant_token="t-secret", helpdesk_id="1", helpdesk_token="desk-secret")


@asynccontextmanager
async def answering(answer: Callable[[], Awaitable[web.Response]]) -> AsyncIterator[Feishu]:
    """Answer every call the same."""

    async def handle(_: web.BaseRequest) -> web.Response:
        return await answer()

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Feishu(session, f"http://127.0.0.1:{runner.addresses[0][1]}/")
    finally:
        await runner.cleanup()


@asynccontextmanager
async def saying(text: str, status: int = 200) -> AsyncIterator[Feishu]:
    async def answer() -> web.Response:
        return web.Response(text=text, status=status, content_type="application/json")

    async with answering(answer) as api:
        yield api


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("<html>", 200, "answered 200 to .*, and no code"),
        ('["code"]', 200, "answered 200 to .*, and no code"),
        ("", 504, "answered 504 to .*, and no code"),
        ('{"code": 0, "tenant_access_token": "t-1"}', 502, "answered 502 to"),
        ('{"code": 99991400, "msg": "slow down"}', 429, "too many calls.*99991400, 'slow down'"),
        ('{"code": 0}', 200, "gave no tenant access token"),
        ('{"code": 0, "tenant_access_token": ""}', 200, "gave no tenant access token"),
        ('{"code": 0, "tenant_access_token": 7}', 200, "gave no tenant access token"),
    ],
)
async def test_answer_that_may_be_another_one_later_is_transient(
    text: str, status: int, said: str
) -> None:
    async with saying(text, status) as api:
        with pytest.raises(FeishuUnavailableError, match=said) as failed:
            await api.tenant_token("cli_a", "app-secret")
    assert "secret" not in str(failed.value)


async def test_secret_follows_no_redirect() -> None:
    """Whoever it names is not the one that the settings name."""
    called: list[bool] = []

    async def elsewhere() -> web.Response:
        called.append(True)
        return web.json_response({"code": 0})

    async with answering(elsewhere) as other:

        async def redirect() -> web.Response:
            return web.Response(status=307, headers={"Location": other._url})

        async with answering(redirect) as api:
            with pytest.raises(FeishuUnavailableError, match="answered 307"):
                await api.tenant_token("cli_a", "app-secret")
    assert called == []


@pytest.mark.parametrize("code", ["42", '"99991400"', "null", "[]", "{}"])
async def test_code_that_nobody_knows_is_refused(code: str) -> None:
    async with saying(f'{{"code": {code}, "msg": "no"}}') as api:
        with pytest.raises(FeishuRefusedError, match=r"Feishu refuses \(code .*, 'no'\)"):
            await api.tenant_token("cli_a", "app-secret")


@pytest.mark.parametrize("data", ["null", "[]", "{}", '{"online_instance_cnt": "2"}'])
async def test_number_of_clients_is_not_guessed(data: str) -> None:
    async with saying(f'{{"code": 0, "data": {data}}}') as api:
        with pytest.raises(FeishuUnavailableError, match="how many clients are online"):
            await api.online_clients("t-secret")


@pytest.mark.parametrize("data", ["null", "[]", '"x"'])
async def test_answer_without_data_is_an_empty_one(data: str) -> None:
    async with saying(f'{{"code": 0, "data": {data}}}') as api:
        assert await api.helpdesk(DESK, "/tickets", {"page": 1}) == {}


async def test_call_that_is_never_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feishu, "TIMEOUT", 0.1)
    given_up = asyncio.Event()

    async def late() -> web.Response:
        await given_up.wait()
        return web.Response()

    async with answering(late) as api:
        with pytest.raises(FeishuUnavailableError, match=r"did not answer in 0\.1 s"):
            await api.tenant_token("cli_a", "app-secret")
        given_up.set()
