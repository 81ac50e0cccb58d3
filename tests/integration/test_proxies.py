"""Feishu behind an HTTP proxy, as a company has it; and its password in no line."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiokafka.errors import KafkaConnectionError
from structlog.testing import capture_logs

from relay.cli.registry import Registry
from relay.egress.kafka.tokens import ClientCredentials
from relay.errors import FeishuUnavailableError, RegistryUnavailableError
from relay.feishu.api import Feishu
from relay.ingress import longconn
from tests.connect_proxy import HttpProxy, http_proxy
from tests.fakes import until
from tests.gateway import APP_ID, APP_SECRET, Gateway, event, gateway
from tests.integration.test_longconn import connecting
from tests.kafka_security import secure_listeners
from tests.token_server import Issuer, TokenServer, serving

HOST, SOCKETS = "open.feishu.test", "sockets.feishu.test"
CREDENTIALS = ["", "me:pass-word"]
VARIABLES = ["HTTPS_PROXY", "https_proxy"]


@pytest.fixture
async def feishu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Feishu with TLS, at a name that only the proxy knows."""
    security = secure_listeners(tmp_path)
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secure.load_cert_chain(tmp_path / "server.pem")
    trusting = ssl.create_default_context(cafile=security.ca_file)
    trusting.check_hostname = False
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    async with gateway(secure) as place:
        place.url, place.socket_url = f"https://{HOST}", f"wss://{SOCKETS}"
        yield place


@asynccontextmanager
async def behind(
    feishu: Gateway, credentials: str = "", refusal: str = ""
) -> AsyncIterator[HttpProxy]:
    places = dict.fromkeys((f"{HOST}:443", f"{SOCKETS}:443"), feishu.port)
    async with http_proxy(places, credentials, refusal) as proxy:
        yield proxy


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("variable", VARIABLES)
async def test_long_connection_goes_through_the_proxy(
    credentials: str,
    variable: str,
    feishu: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The call for its address, and the connection itself: a tunnel each."""
    async with behind(feishu, credentials) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        async with connecting(tmp_path, feishu) as place:
            await place.connected()
            await feishu.push(event("e-1"))
            assert await place.acknowledged(1) == {"e-1": 200}
        assert proxy.asked == [f"CONNECT {HOST}:443", f"CONNECT {SOCKETS}:443"]


@pytest.mark.parametrize("refusal", ["407 Proxy Authentication Required", "403 Forbidden"])
async def test_proxy_that_refuses_is_named_without_its_password(
    refusal: str, feishu: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longconn, "FIRST_WAIT", 0.01)
    async with behind(feishu, refusal=refusal) as proxy:
        there = f"127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass-word@{there}")
        with capture_logs() as logs:
            async with connecting(tmp_path, feishu):
                await until(lambda: logs)
        said = f"https://{HOST} cannot be reached: the proxy {there} refuses: {refusal}"
        assert [(one["event"], one["error"]) for one in logs] == [
            ("long_connection_unreachable", said)
        ]
        assert feishu.calls == []
        async with aiohttp.ClientSession() as session:
            with pytest.raises(FeishuUnavailableError) as caught:
                await longconn._shake_hands(session, f"wss://{HOST}/ws?ticket=secret")
        assert f"the proxy {there} refuses: {refusal}" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "pass-word" not in f"{logs}{caught.value!r}"


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("http://me:pass-word@127.0.0.1:1", "the proxy 127.0.0.1:1 does not answer: "),
        ("socks5://me:pass-word@127.0.0.1:1", "HTTPS_PROXY must be http://host:port"),
    ],
)
async def test_proxy_that_cannot_be_used_is_named_without_its_password(
    variable: str, said: str, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", variable)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(FeishuUnavailableError, match=said) as caught:
            await Feishu(session, feishu.url).endpoint(APP_ID, APP_SECRET)
        assert "pass" not in str(caught.value)
        with pytest.raises(RegistryUnavailableError, match=said) as away:
            await Registry(session, "https://registry.test").register("subject", {})
        assert "pass" not in str(away.value)
        with pytest.raises(FeishuUnavailableError):
            await longconn._shake_hands(session, f"wss://{HOST}/ws")
    tokens = ClientCredentials("https://login.test/token", ("relay", "not-a-secret"), "", {})
    with pytest.raises(KafkaConnectionError, match=said) as unknown:
        await tokens.token()
    assert "pass" not in str(unknown.value)


@pytest.mark.parametrize("exempt", ["feishu.test", f"{HOST}:443", "*"])
async def test_exempt_host_is_asked_directly(
    exempt: str, feishu: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that there is nowhere: what fails is not the proxy."""
    async with behind(feishu) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exempt)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(FeishuUnavailableError) as caught:
                await Feishu(session, feishu.url).endpoint(APP_ID, APP_SECRET)
        assert (proxy.asked, "proxy" in str(caught.value)) == ([], False)


@pytest.mark.parametrize("credentials", CREDENTIALS)
async def test_token_server_is_asked_through_the_proxy(
    credentials: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked over HTTP; Kafka itself never is."""
    async with serving(TokenServer(Issuer(tmp_path))) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        async with http_proxy({"login.test": port}, credentials) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            client = ClientCredentials("http://login.test/token", server.client, "", {})
            assert (await client.token()).count(".") == 2
            assert proxy.asked == ["POST http://login.test/token"]


async def test_answer_of_a_proxy_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS a proxy's refusal looks like Feishu's."""
    async with http_proxy({}, "me:right") as proxy, aiohttp.ClientSession() as session:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("right", "pass-word"))
        with pytest.raises(FeishuUnavailableError) as caught:
            await Feishu(session, f"http://{HOST}").endpoint(APP_ID, APP_SECRET)
        assert "answered 407 to" in str(caught.value)
        assert f"(through the proxy 127.0.0.1:{proxy.port})" in str(caught.value)
