"""Whoever is not who relay wants to talk to gets nothing: no password, no secret, no event."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from relay.claims.claims import Claims
from relay.egress.kafka import faults, topics
from relay.errors import ClaimsUnavailableError, FeishuUnavailableError, KafkaUnavailableError
from relay.feishu.api import Feishu
from relay.journal.retention import Retention
from relay.observe.metrics import Metrics
from relay.settings import Claims as ClaimsSettings
from relay.settings import Kafka
from tests.kafka_security import Security, secure_listeners

#: In the certificate's names, and not in them; both are this machine.
NAMED, OTHER = "127.0.0.1", "127.0.0.2"


@dataclass
class Listener:
    """A server with a certificate that hears and says nothing."""

    port: int
    #: What came through after the handshakes.
    heard: int = 0


@asynccontextmanager
async def listening(directory: Path) -> AsyncIterator[Listener]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")
    listener = Listener(0)

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            listener.heard += len(await reader.read(1))
            writer.close()

    server = await asyncio.start_server(hear, "0.0.0.0", 0, ssl=context)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


Talk = Callable[[str, int, Path | None], Awaitable[object]]


async def to_kafka(host: str, port: int, ca_file: Path | None) -> object:
    async with faults.translated():
        return await topics.ask_brokers(
            Kafka(
                bootstrap_servers=f"{host}:{port}",
                security_protocol="SASL_SSL",
                sasl_username="relay",
                sasl_password=SecretStr("secret"),
                ca_file=ca_file,
                timeout=1,
            )
        )


async def to_claims(host: str, port: int, ca_file: Path | None) -> object:
    url = SecretStr(f"rediss://:secret@{host}:{port}")
    settings = ClaimsSettings(url=url, ca_file=ca_file)
    return await Claims(settings, Retention(86400), Metrics()).about()


async def to_sentinels(host: str, port: int, ca_file: Path | None) -> object:
    """They name the server that gets the password."""
    url = SecretStr(f"rediss+sentinel://:secret@{host}:{port}/service")
    settings = ClaimsSettings(url=url, ca_file=ca_file)
    return await Claims(settings, Retention(86400), Metrics()).about()


async def to_feishu(host: str, port: int, ca_file: Path | None) -> object:
    del ca_file
    async with aiohttp.ClientSession() as session:
        return await Feishu(session, f"https://{host}:{port}").tenant_token("cli_a", "secret")


async def to_the_gateway(host: str, port: int, ca_file: Path | None) -> object:
    """As the long connection does."""
    del ca_file
    async with aiohttp.ClientSession() as session:
        return await session.ws_connect(f"wss://{host}:{port}/?secret=1")


UNAVAILABLE = (
    KafkaUnavailableError,
    ClaimsUnavailableError,
    FeishuUnavailableError,
    aiohttp.ClientConnectorError,
)


@pytest.fixture
def security(tmp_path: Path) -> Security:
    return secure_listeners(tmp_path)


@pytest.mark.parametrize("talk", [to_kafka, to_claims, to_sentinels, to_feishu, to_the_gateway])
async def test_authority_that_nobody_named_is_not_trusted(
    talk: Talk, security: Security, tmp_path: Path
) -> None:
    async with listening(tmp_path) as listener:
        with pytest.raises(UNAVAILABLE):
            await talk(NAMED, listener.port, None)
        assert listener.heard == 0


@pytest.mark.parametrize("talk", [to_kafka, to_claims, to_sentinels])
async def test_certificate_of_another_host_is_not_taken(
    talk: Talk, security: Security, tmp_path: Path
) -> None:
    """Though its authority is the right one; under its own name the same server is talked to."""
    async with listening(tmp_path) as listener:
        with pytest.raises(UNAVAILABLE):
            await talk(OTHER, listener.port, security.ca_file)
        assert listener.heard == 0
        with pytest.raises(UNAVAILABLE):
            await talk(NAMED, listener.port, security.ca_file)
        assert listener.heard > 0


@pytest.mark.parametrize("talk", [to_kafka, to_claims, to_sentinels])
async def test_authority_made_in_a_plain_way_will_do(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Python checks strictly, as 3.13 does unless it is told otherwise."""
    default = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = default(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    security = secure_listeners(tmp_path, plain=True)
    refused = ssl.create_default_context(cafile=security.ca_file)
    async with listening(tmp_path) as listener:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(NAMED, listener.port, ssl=refused)
        assert listener.heard == 0
        with pytest.raises(UNAVAILABLE):
            await talk(NAMED, listener.port, security.ca_file)
        assert listener.heard > 0


@pytest.mark.parametrize("talk", [to_feishu, to_the_gateway])
async def test_certificate_of_another_host_is_not_feishus(
    talk: Talk, security: Security, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authority among those that this machine trusts."""
    # aiohttp makes its context of them once, when it is loaded.
    context = aiohttp.connector._SSL_CONTEXT_VERIFIED
    assert context.verify_mode is ssl.CERT_REQUIRED
    trusting = ssl.create_default_context(cafile=security.ca_file)
    trusting.check_hostname = context.check_hostname
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    async with listening(tmp_path) as listener:
        with pytest.raises(UNAVAILABLE):
            await talk(OTHER, listener.port, None)
        assert listener.heard == 0
