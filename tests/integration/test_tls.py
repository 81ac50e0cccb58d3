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
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest
from pydantic import SecretStr
from redis.exceptions import RedisClusterException, RedisError

from relay.claims import store
from relay.claims.claims import Claims
from relay.egress.kafka import faults, sessions, topics
from relay.egress.kafka.client import client_options
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
async def listening(
    directory: Path, port: int = 0, *, mutual: bool = False
) -> AsyncIterator[Listener]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")
    if mutual:
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    listener = Listener(0)

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            listener.heard += len(await reader.read(1))
            writer.close()

    server = await asyncio.start_server(hear, "0.0.0.0", port, ssl=context)
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


#: What clients say of a server that closes.
UNHEARD = (KafkaError, RedisError, RedisClusterException, OSError)
Once = Callable[[], Awaitable[object]]


async def kafka_client(security: Security, port: int, authority: Path) -> Once:
    """One client's options: aiokafka makes all its connections by them."""
    options = client_options(
        Kafka(
            bootstrap_servers=f"{NAMED}:{port}",
            security_protocol="SSL",
            ca_file=authority,
            cert_file=security.cert_file,
            key_file=security.key_file,
        )
    )
    tls = {name: options[name] for name in ("security_protocol", "ssl_context")}

    async def talk() -> object:
        connection = await sessions.create(NAMED, port, **tls, request_timeout_ms=1000)
        try:
            return await connection.send(ApiVersionRequest())
        finally:
            connection.close()

    return talk


def claims_client(scheme: str, path: str) -> Callable[[Security, int, Path], Awaitable[Once]]:
    """One client of the store: it makes its connections again."""

    async def made(security: Security, port: int, authority: Path) -> Once:
        settings = ClaimsSettings(
            url=SecretStr(f"{scheme}://{NAMED}:{port}{path}"),
            ca_file=authority,
            cert_file=security.cert_file,
            key_file=security.key_file,
        )
        return store._store(settings).version

    return made


@pytest.mark.parametrize("as_directory", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize(
    "client",
    [
        kafka_client,
        claims_client("rediss", ""),
        claims_client("rediss+sentinel", "/service"),
        claims_client("rediss+cluster", ""),
    ],
    ids=["kafka", "server", "sentinels", "cluster"],
)
async def test_certificates_are_read_anew_at_each_connection(
    client: Callable[[Security, int, Path], Awaitable[Once]],
    as_directory: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    """A new authority has signed both sides' anew: the client that is there goes on."""
    security = secure_listeners(tmp_path)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "ca.crt").symlink_to(security.ca_file)
    async with listening(tmp_path, mutual=True) as before:
        talk = await client(security, before.port, trusted if as_directory else security.ca_file)
        with pytest.raises(UNHEARD):
            await talk()
        assert before.heard > 0
    secure_listeners(tmp_path)
    async with listening(tmp_path, before.port, mutual=True) as after:
        with pytest.raises(UNHEARD):
            await talk()
        assert after.heard > 0


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
