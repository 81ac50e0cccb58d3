"""Opens a callback: signature, age, decryption, token, identity. Pure: no clock, no socket.

The order is the protocol's: nothing of a body is believed before its signature or token is checked.
Formulas: Feishu's "Receive events" page; SHA-256(timestamp + nonce + key + raw body) in lower-case
hex, and AES-256-CBC under SHA-256(key) with the IV in front.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any

import pybase64
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from relay.contract import exactjson
from relay.errors import RejectedError, RejectReason
from relay.events import Callback, Challenge, DeadLetterReason, RawCallback, Transport
from relay.observe import traces

#: Milliseconds that a request's timestamp may lie ahead of our clock.
CLOCK_SKEW = 5 * 60 * 1000
#: Characters of an event id at most; it is the key of a dead letter, which must fit into a record.
LONGEST_ID = 512
_BLOCK = 16
_SECONDS = re.compile(r"[0-9]{1,12}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class EncryptKey:
    """One encrypt key of an app: verifies signatures and decrypts, in one thread."""

    __slots__ = ("_decryptor", "_text")

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        algorithm = algorithms.AES256(hashlib.sha256(self._text).digest())
        self._decryptor = Cipher(algorithm, modes.CBC(bytes(_BLOCK))).decryptor()

    def signed(self, raw: RawCallback) -> bool:
        """Whether the request carries this key's signature, compared in constant time."""
        digest = hashlib.sha256(_header(raw.timestamp + raw.nonce) + self._text)
        digest.update(raw.body)
        return hmac.compare_digest(digest.hexdigest().encode(), _header(raw.signature))

    def decrypt(self, text: str) -> bytes:
        """Decrypt base64(IV + ciphertext). Raises ValueError if it is not of this key.

        CBC needs of a block's past only the block before it, so one decryptor serves all messages:
        what it makes of the IV, which it takes for a block, is cut off.
        """
        data = pybase64.b64decode(text, validate=True)
        if len(data) % _BLOCK or len(data) < 2 * _BLOCK:
            raise ValueError("not a whole number of blocks")
        padded = self._decryptor.update(data)
        pad = padded[-1]
        if not 1 <= pad <= _BLOCK or padded[-pad:] != bytes([pad]) * pad:
            raise ValueError("wrong padding")
        return padded[_BLOCK:-pad]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What an app's callbacks are checked against; the current key and token come first."""

    keys: tuple[EncryptKey, ...]
    tokens: tuple[bytes, ...]
    #: Milliseconds: an older signed request could be a replay of one that is forgotten.
    window: int


def open(raw: RawCallback, credentials: Credentials) -> Callback | Challenge:
    """Check a delivery and identify its event; raises RejectedError if it must not come in."""
    if raw.transport is Transport.LONG_CONNECTION:
        return _identify(raw, raw.body, _parse(raw.body))
    outer = _parse(raw.body)
    if not credentials.keys:
        return _open_plain(raw, outer, credentials)
    if isinstance(outer, dict) and isinstance(outer.get("encrypt"), str):
        return _open_encrypted(raw, outer["encrypt"], credentials)
    if _challenge(outer) and credentials.tokens:
        return _answer(outer, credentials)
    raise RejectedError(RejectReason.PLAIN_BODY, "the body is not encrypted, but a key is set")


def _open_plain(raw: RawCallback, body: Any, credentials: Credentials) -> Callback | Challenge:
    """Open a body of an app without a key: its token is all that vouches for it."""
    if isinstance(body, dict) and "encrypt" in body:
        raise RejectedError(
            RejectReason.NOT_DECRYPTABLE, "the body is encrypted, but no key is set"
        )
    if body == {}:
        raise RejectedError(RejectReason.EMPTY, "the body is an empty object")
    if not _known(_token(body), credentials):
        raise RejectedError(RejectReason.TOKEN, "the verification token is missing or wrong")
    return _answer(body, credentials) if _challenge(body) else _identify(raw, raw.body, body)


def _open_encrypted(raw: RawCallback, text: str, credentials: Credentials) -> Callback | Challenge:
    """Open an encrypted body: signed by one of the keys, or the unsigned URL verification."""
    key = next((key for key in credentials.keys if key.signed(raw)), None)
    if key is None:
        return _answer_unsigned(text, credentials)
    _check_age(raw, credentials.window)
    try:
        plain = key.decrypt(text)
    except ValueError:
        raise RejectedError(RejectReason.NOT_DECRYPTABLE, "the body does not decrypt") from None
    body = _parse(plain)
    if body == {}:
        raise RejectedError(RejectReason.EMPTY, "the decrypted body is an empty object")
    if _challenge(body):
        return _answer(body, credentials)
    token = _token(body)
    if token and credentials.tokens and not _known(token, credentials):
        raise RejectedError(RejectReason.TOKEN, "the verification token is wrong")
    return _identify(raw, plain, body)


def _answer_unsigned(text: str, credentials: Credentials) -> Challenge:
    """Answer a URL verification, which Feishu does not sign; refuse everything else."""
    for key in credentials.keys:
        try:
            body = exactjson.glance(key.decrypt(text))
        except ValueError:
            continue
        if _challenge(body):
            return _answer(body, credentials)
    raise RejectedError(RejectReason.SIGNATURE, "the signature is missing or wrong")


def _answer(body: dict[str, Any], credentials: Credentials) -> Challenge:
    if credentials.tokens and not _known(_token(body), credentials):
        raise RejectedError(RejectReason.TOKEN, "the verification token is missing or wrong")
    return Challenge(value=body["challenge"])


def _challenge(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and body.get("type") == "url_verification"
        and isinstance(body.get("challenge"), str)
    )


def _check_age(raw: RawCallback, window: int) -> None:
    """Refuse what is older than our memory of duplicates, or from the future."""
    if not _SECONDS.fullmatch(raw.timestamp):
        raise RejectedError(
            RejectReason.STALE, "the request's timestamp is not a number of seconds"
        )
    age = raw.received_at - int(raw.timestamp) * 1000
    if not -CLOCK_SKEW <= age <= window:
        raise RejectedError(RejectReason.STALE, "the request's timestamp is too old or ahead")


def _token(body: Any) -> Any:
    """Find the token where its schema has it: `header.token`, or at the top for 1.0."""
    if not isinstance(body, dict):
        return None
    header = body.get("header")
    return header.get("token") if isinstance(header, dict) else body.get("token")


def _known(token: Any, credentials: Credentials) -> bool:
    given = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else b""
    matches = [hmac.compare_digest(given, known) for known in credentials.tokens]
    return any(matches)


def _identify(raw: RawCallback, plain: bytes, body: Any) -> Callback:
    event_id, event_type, dead_letter = identify(body)
    return Callback(
        app=raw.app,
        transport=raw.transport,
        received_at=raw.received_at,
        event_id=event_id or hashlib.sha256(plain).hexdigest(),
        event_type=event_type or "",
        body=plain,
        dead_letter=dead_letter,
        traceparent=traces.parse(raw.traceparent) if raw.traceparent else None,
        content=body,
    )


def identify(body: Any) -> tuple[str | None, str | None, DeadLetterReason | None]:
    """Read event id and type of either schema, and the reason if no event can be made of it."""
    if not isinstance(body, dict):
        return None, None, DeadLetterReason.NOT_AN_OBJECT
    event = body.get("event")
    if "schema" in body or "uuid" not in body:
        header = body.get("header")
        source = header if isinstance(header, dict) else {}
        event_id, event_type = text(source.get("event_id")), text(source.get("event_type"))
    else:
        event_id = text(body["uuid"])
        event_type = text(event.get("type")) if isinstance(event, dict) else None
    if event_id is None or len(event_id) > LONGEST_ID:
        return None, event_type, DeadLetterReason.NO_EVENT_ID
    if not isinstance(event, dict):
        return event_id, event_type, DeadLetterReason.NOT_AN_OBJECT
    return event_id, event_type, None if event_type else DeadLetterReason.NO_EVENT_TYPE


def text(value: Any) -> str | None:
    """Take a non-empty string that UTF-8 can carry."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() or not _SURROGATE.search(value) else None


def _header(text: str) -> bytes:
    """Give a header's bytes as they came (aiohttp decodes with surrogateescape)."""
    return text.encode("utf-8", "surrogateescape")


def _parse(data: bytes) -> Any:
    try:
        return exactjson.glance(data)
    except ValueError:
        raise RejectedError(RejectReason.NOT_JSON, "the body is not JSON") from None
