"""Logging in at Kafka with a token: whose it is, how long it holds, and who says no."""

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError, KafkaError

from relay.egress.kafka import tokens, topics
from relay.egress.kafka.client import client_options
from relay.egress.kafka.faults import translated
from relay.egress.kafka.packing import Packing
from relay.egress.kafka.producer import Producer
from relay.errors import KafkaRefusedError, KafkaUnavailableError
from relay.events import Outcome, Record
from relay.observe import clock
from relay.settings import Kafka
from relay.settings import login as settings_login
from tests.conftest import need_kafka
from tests.kafka_server import TEST_JVM, KafkaServer
from tests.ports import free_port
from tests.token_server import Issuer, TokenServer, serving


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def server(issuer: Issuer) -> AsyncIterator[TokenServer]:
    async with serving(TokenServer(issuer)) as server:
        yield server


def login(server: TokenServer, **changes: Any) -> Kafka:
    return Kafka.model_validate(
        {
            "bootstrap_servers": "unused:1",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "OAUTHBEARER",
            "oauth_token_url": server.url,
            "oauth_client_id": server.client[0],
            "oauth_client_secret": server.client[1],
            **changes,
        }
    )


async def test_token_is_asked_for_once_by_many(server: TokenServer) -> None:
    """And by those that come later, for four fifths of its life."""
    provider = tokens.provider(login(server, oauth_scope="kafka write"))
    given = await asyncio.gather(*(provider.token() for _ in range(5)))
    again = await tokens.provider(login(server, oauth_scope="kafka write")).token()
    assert {*given, again} == {given[0]}
    assert server.asked == [{"grant_type": "client_credentials", "scope": "kafka write"}]


async def test_token_is_renewed_before_its_end(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = tokens.provider(login(server))
    await provider.token()
    boot = clock.boot
    for later, times in ((40, 1), (50, 2), (80, 2), (100, 3)):
        monkeypatch.setattr(clock, "boot", lambda later=later: boot() + later)
        await provider.token()
        assert times == len(server.asked)


@pytest.mark.parametrize(("life", "asked"), [("3600", 1), (None, 1), ("soon", 1), (-5, 2)])
async def test_life_that_a_server_does_not_say_well_is_a_short_one(
    life: object, asked: int, server: TokenServer
) -> None:
    server.instead = web.json_response({"access_token": "a.b.c", "expires_in": life})
    provider = tokens.provider(login(server))
    assert await provider.token() == await provider.token() == "a.b.c"
    assert asked == len(server.asked)


async def test_id_and_secret_are_encoded_as_the_rfc_says(issuer: Issuer) -> None:
    client = "my+app%3A1", "p%C3%A4ss+%2B%26"
    async with serving(TokenServer(issuer, client=client)) as server:
        config = login(server, oauth_client_id="my app:1", oauth_client_secret="päss +&")
        assert await tokens.provider(config).token()


@pytest.mark.parametrize(
    ("status", "said", "named"),
    [
        (400, '{"error": "invalid_scope"}', "HTTP 400: invalid_scope"),
        (401, '{"error": "invalid_client", "error_description": "no"}', "invalid_client: no"),
        (403, "<html>", "HTTP 403"),
        (401, "[" * 100_000, "HTTP 401"),
    ],
)
async def test_token_server_that_says_no_is_heard(
    status: int, said: str, named: str, server: TokenServer
) -> None:
    server.instead = web.Response(text=said, status=status)
    with pytest.raises(AuthenticationFailedError, match=named):
        await tokens.provider(login(server)).token()
    with pytest.raises(KafkaRefusedError, match="the token server refuses"):
        async with translated():
            await tokens.provider(login(server)).token()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, "oops"),
        (503, '{"error": "temporarily_unavailable"}'),
        (429, ""),
        (302, ""),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"access_token": ""}'),
        (200, '{"access_token": 5}'),
        (200, '{"access_token": "a\\u0001b"}'),
        (200, '{"access_token": "ä"}'),
    ],
)
async def test_token_server_that_has_none_is_asked_again(
    status: int, said: str, server: TokenServer
) -> None:
    """At the next connection, which comes after a wait."""
    server.instead = web.Response(text=said, status=status)
    provider = tokens.provider(login(server))
    with pytest.raises(KafkaConnectionError):
        await provider.token()
    with pytest.raises(KafkaUnavailableError):
        async with translated():
            await provider.token()
    server.instead = None
    assert await provider.token()


async def test_token_server_that_is_away_or_silent_is_no_refusal(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = login(server, oauth_token_url=f"http://127.0.0.1:{free_port()}/token")
    with pytest.raises(KafkaConnectionError, match="does not answer"):
        await tokens.provider(away).token()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(tokens, "_TIMEOUT", 0.1)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        slow = login(server, oauth_token_url=f"http://127.0.0.1:{port}/token")
        with pytest.raises(KafkaConnectionError, match="does not answer"):
            await tokens.provider(slow).token()


async def test_file_is_read_at_each_connection(tmp_path: Path) -> None:
    """Somebody else renews it."""
    file = tmp_path / "token"
    config = {
        "bootstrap_servers": "unused:1",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_token_file": file,
        "oauth_extensions": {"a": "b"},
    }
    provider = tokens.provider(Kafka.model_validate(config))
    assert provider.extensions() == {"a": "b"}
    with pytest.raises(AuthenticationFailedError, match="No such file"):
        await provider.token()
    for content in (b"", b" \n", b"a b", b"a\x01b", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(AuthenticationFailedError, match=r"holds no token|not ASCII"):
            await provider.token()
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert token == await provider.token()


@dataclass(frozen=True, slots=True)
class Guarded:
    """A Kafka that takes the issuer's tokens, and nothing else."""

    server: KafkaServer

    def settings(self, token_server: TokenServer, prefix: str, **changes: Any) -> Kafka:
        where = {"bootstrap_servers": self.server.address("OAUTH"), "topic_prefix": prefix}
        return login(token_server, **where, **changes)


@pytest.fixture(scope="module")
def guarded(issuer: Issuer) -> Iterator[Guarded]:
    need_kafka()
    with KafkaServer(listeners=[issuer.listener], jvm=(*TEST_JVM, issuer.jvm)) as server:
        yield Guarded(server)


async def _started(settings: Kafka) -> Producer:
    await topics.ensure(settings, [f"{settings.topic_prefix}t"])
    async with asyncio.timeout(30):
        while True:
            producer = Producer.to(settings, f"relay-{uuid.uuid4()}", Packing())
            try:
                await producer.start()
            except KafkaError:
                await producer.discard()
                await asyncio.sleep(0.1)
            else:
                return producer


async def _published(producer: Producer, topic: str) -> None:
    async def one() -> AsyncIterator[Record]:
        yield Record(
            outcome=Outcome.PUBLISHED, topic=topic, key=b"k", value=b"v", headers=[], timestamp=1
        )

    await producer.begin()
    await producer.send(one())
    await producer.commit()


async def test_publishes_while_tokens_run_out(
    guarded: Guarded, server: TokenServer, topic_prefix: str
) -> None:
    """Each connection is renewed before its token's end, with a new token."""
    server.seconds = 2
    settings = guarded.settings(server, topic_prefix)
    producer = await _started(settings)
    before, end = len(server.asked), clock.boot() + 5
    async with asyncio.timeout(30):
        while clock.boot() < end:
            await _published(producer, f"{topic_prefix}t")
            await asyncio.sleep(0.05)
    assert len(server.asked) > before + 1
    await producer.discard()


async def test_token_of_a_file_is_taken(
    guarded: Guarded, issuer: Issuer, server: TokenServer, topic_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(issuer.token(60))
    settings = guarded.settings(
        server,
        topic_prefix,
        oauth_token_url="",
        oauth_client_id="",
        oauth_client_secret="",
        oauth_token_file=file,
    )
    producer = await _started(settings)
    await _published(producer, f"{topic_prefix}t")
    await producer.discard()
    assert server.asked == []


async def test_token_of_somebody_else_is_refused(
    guarded: Guarded, issuer: Issuer, server: TokenServer, topic_prefix: str, tmp_path: Path
) -> None:
    """By the broker: a forged one, which is not kept. By the token server: a wrong secret."""
    (tmp_path / "other").mkdir()
    server.issuer = Issuer(tmp_path / "other")
    settings = guarded.settings(server, topic_prefix)
    with pytest.raises(KafkaRefusedError, match=r"the broker does not take the token: .*invalid"):
        async with translated():
            await topics.ensure(settings, [])
    server.issuer = issuer
    await topics.ensure(settings, [])
    wrong = guarded.settings(server, topic_prefix, oauth_client_secret="wrong")
    with pytest.raises(KafkaRefusedError, match="the token server refuses: HTTP 401"):
        async with translated():
            await topics.ensure(wrong, [])
    server.instead = web.Response(status=503)
    other = guarded.settings(server, topic_prefix, oauth_scope="other")
    with pytest.raises(KafkaUnavailableError, match="the token server has no token: HTTP 503"):
        async with translated():
            await topics.ensure(other, [])


class SmallSigner:
    """AWS' signer, played."""

    def __init__(self) -> None:
        self.regions: list[str] = []
        self.error: Exception | None = None

    def generate_auth_token(self, region: str) -> tuple[str, int]:
        """Give a token and the Unix time in milliseconds at which it ends."""
        self.regions.append(region)
        if self.error:
            raise self.error
        return f"token-{len(self.regions)}", int((time.time() + 900) * 1000)


async def test_token_for_msk_is_signed_for_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """And signed anew before it ends; credentials that are missing are a refusal."""
    signer = SmallSigner()
    modules: dict[str, dict[str, Any]] = {
        "aws_msk_iam_sasl_signer": {"MSKAuthTokenProvider": signer},
        "botocore": {},
        "botocore.exceptions": {"BotoCoreError": OSError},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(settings_login, "find_spec", lambda _: True)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    config = Kafka.model_validate(
        {
            "bootstrap_servers": "unused:1",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "AWS_MSK_IAM",
        }
    )
    tokens._aws.cache_clear()
    provider, boot = tokens.provider(config), clock.boot
    assert client_options(config)["sasl_mechanism"] == "OAUTHBEARER"
    assert client_options(config)["sasl_oauth_token_provider"] is provider
    for later, expected in ((0, "token-1"), (600, "token-1"), (800, "token-2")):
        monkeypatch.setattr(clock, "boot", lambda later=later: boot() + later)
        assert expected == await provider.token()
    assert signer.regions == ["eu-central-1"] * 2
    monkeypatch.setattr(clock, "boot", lambda: boot() + 2000)
    for error, said in (
        (OSError("Unable to reach the role's server"), "AWS' signer: OSError: Unable to reach"),
        (AttributeError("'NoneType' object"), "AWS' signer finds no credentials"),
    ):
        signer.error = error
        with pytest.raises(AuthenticationFailedError, match=said):
            await provider.token()
