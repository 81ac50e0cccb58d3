"""Whoever gives out tokens for Kafka: signs them, shows the key, and answers as RFC 6749 says."""

import base64
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.kafka_server import Listener

AUDIENCE, ISSUER = "kafka", "https://login.example.com"
_MODULE = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
_VALIDATOR = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"


class Issuer:
    """Signs tokens, and writes down the key that they can be checked with."""

    def __init__(self, directory: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._keys = directory / "jwks.json"
        numbers = self._key.public_key().public_numbers()
        key = {
            "kty": "RSA",
            "kid": "1",
            "alg": "RS256",
            "use": "sig",
            "n": _encoded(_bytes(numbers.n)),
            "e": _encoded(_bytes(numbers.e)),
        }
        self._keys.write_text(json.dumps({"keys": [key]}))

    @property
    def listener(self) -> Listener:
        """A listener that takes its tokens."""
        properties = {
            "sasl.enabled.mechanisms": "OAUTHBEARER",
            "oauthbearer.sasl.jaas.config": f"{_MODULE} required;",
            "oauthbearer.sasl.server.callback.handler.class": _VALIDATOR,
            "oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self._keys.as_uri(),
            "oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
            "oauthbearer.sasl.oauthbearer.expected.issuer": ISSUER,
        }
        return Listener(name="OAUTH", protocol="SASL_PLAINTEXT", properties=properties)

    @property
    def jvm(self) -> str:
        """Without this option Kafka 4 reads no such file."""
        return f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._keys.as_uri()}"

    def token(self, seconds: float, subject: str = "relay") -> str:
        """Give a token that holds for so long, and at most a second longer."""
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": AUDIENCE,
            "scope": "kafka",
            "iat": int(now),
            "exp": math.ceil(now + seconds),
        }
        head = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encoded(signature)}"


@dataclass
class TokenServer:
    """Gives tokens to one client."""

    issuer: Issuer
    #: Its id and its secret, as they stand in the header.
    client: tuple[str, str] = ("relay", "not-a-secret")
    seconds: float = 60
    #: What was asked of it: the forms.
    asked: list[dict[str, str]] = field(default_factory=list)
    #: Said instead of a token.
    instead: web.Response | None = None
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one question."""
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        if self.instead is not None:
            said = self.instead
            return web.Response(body=said.body, status=said.status, headers=said.headers)
        known = base64.b64encode(":".join(self.client).encode()).decode()
        if request.headers.get("Authorization") != f"Basic {known}":
            return web.json_response({"error": "invalid_client"}, status=401)
        token = self.issuer.token(self.seconds)
        return web.json_response({"access_token": token, "expires_in": self.seconds})


@asynccontextmanager
async def serving(server: TokenServer) -> AsyncIterator[TokenServer]:
    """Let it listen on loopback."""
    app = web.Application()
    app.router.add_post("/token", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    try:
        yield server
    finally:
        await runner.cleanup()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
