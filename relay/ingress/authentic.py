"""Raw bytes in, authentic bytes out: signature, age, decryption, token, challenge. Pure.

The whole security surface: no JSON of a stranger is parsed before his signature is known, and where
an app has no key, only by orjson, to find the token. An authentic body is never refused for what it
holds: what cannot be read is a dead letter. Formulas: Feishu's "Receive events" page; SHA-256 of
timestamp + nonce + key + raw body in lower-case hex; AES-256-CBC under SHA-256(key), IV in front.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pybase64
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from relay.contract import exactjson
from relay.contract.credentials import without_ticket
from relay.contract.identity import identify
from relay.contract.rules.values import to_milliseconds
from relay.errors import RejectedError, RejectReason
from relay.events import Callback, Challenge, DeadLetterReason, RawCallback, Transport, withheld
from relay.journal.retention import Retention
from relay.observe import traces

#: Bytes of an unsigned body that is looked into: a URL verification has some 300.
LARGEST_CHALLENGE = 8192
_BLOCK = 16
#: Seconds, milli- or microseconds since 1970.
_TIME = re.compile(r"[0-9]{1,17}")
#: A token as it stands in JSON. A text that quotes JSON has a backslash before each quote.
_TOKEN = re.compile(rb'"token"[ \t\r\n]*:[ \t\r\n]*"([^"\\]{1,512})"')
#: Of one body, that are compared.
_MOST_TOKENS = 16
#: Stands for the content of an authentic body that is not JSON, or more than can be read.
_UNREADABLE = object()


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


def open(raw: RawCallback, credentials: Credentials) -> Callback | Challenge:
    """Check a delivery and identify its event; raises RejectedError if it must not come in."""
    if raw.transport is Transport.LONG_CONNECTION:
        return _identify(raw, raw.body, _read(raw.body))
    if not credentials.keys:
        return _open_plain(raw, credentials)
    key = next((key for key in credentials.keys if key.signed(raw)), None)
    if key is None:
        return _answer_unsigned(raw.body, credentials)
    _check_age(raw)
    return _open_signed(raw, key, credentials)


def _open_signed(
    raw: RawCallback, key: EncryptKey, credentials: Credentials
) -> Callback | Challenge:
    """Open a signed body: Feishu's envelope around what is authentic, readable or not."""
    outer = _quick(raw.body)
    if not isinstance(outer, dict) or not isinstance(outer.get("encrypt"), str):
        raise RejectedError(RejectReason.PLAIN_BODY, "the body is not encrypted, but a key is set")
    try:
        plain = key.decrypt(outer["encrypt"])
    except ValueError:
        raise RejectedError(RejectReason.NOT_DECRYPTABLE, "the body does not decrypt") from None
    body = _read(plain)
    if body == {}:
        raise RejectedError(RejectReason.EMPTY, "the decrypted body is an empty object")
    if _challenge(body):
        return _answer(body, credentials)
    token = _token(body)
    if token and credentials.tokens and not _known(token, credentials):
        raise RejectedError(RejectReason.TOKEN, "the verification token is wrong")
    return _identify(raw, plain, body)


def _open_plain(raw: RawCallback, credentials: Credentials) -> Callback | Challenge:
    """Open a body of an app without a key: its token is all that vouches for it."""
    body = _glimpse(raw.body, credentials)
    if body is _UNREADABLE:
        return _identify(raw, raw.body, body)
    if isinstance(body, dict) and "encrypt" in body:
        raise RejectedError(
            RejectReason.NOT_DECRYPTABLE, "the body is encrypted, but no key is set"
        )
    if body == {}:
        raise RejectedError(RejectReason.EMPTY, "the body is an empty object")
    if not _known(_token(body), credentials):
        raise RejectedError(RejectReason.TOKEN, "the verification token is missing or wrong")
    return _answer(body, credentials) if _challenge(body) else _identify(raw, raw.body, body)


def _answer_unsigned(body: bytes, credentials: Credentials) -> Challenge:
    """Answer a URL verification, which Feishu does not sign; refuse everything else unread."""
    refused = RejectedError(RejectReason.SIGNATURE, "the signature is missing or wrong")
    if len(body) > LARGEST_CHALLENGE:
        raise refused
    outer = _glimpse(body, credentials)
    if not isinstance(outer, dict) or not isinstance(outer.get("encrypt"), str):
        if _challenge(outer) and credentials.tokens:
            return _answer(outer, credentials)
        raise RejectedError(RejectReason.PLAIN_BODY, "the body is not encrypted, but a key is set")
    for key in credentials.keys:
        try:
            plain = exactjson.quick(key.decrypt(outer["encrypt"]))
        except ValueError:
            continue
        if _challenge(plain):
            return _answer(plain, credentials)
    raise refused


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


def _check_age(raw: RawCallback) -> None:
    """Refuse what Feishu cannot have sent now."""
    if not _TIME.fullmatch(raw.timestamp):
        raise RejectedError(RejectReason.STALE, "the request's timestamp is not a time")
    if Retention.stale(to_milliseconds(int(raw.timestamp)), raw.received_at):
        raise RejectedError(RejectReason.STALE, "the request's timestamp is too old or ahead")


def _token(body: Any) -> Any:
    """Find the token where its schema has it: `header.token`, or at the top for 1.0."""
    if not isinstance(body, dict):
        return None
    header = body.get("header")
    return header.get("token") if isinstance(header, dict) else body.get("token")


def _known(token: Any, credentials: Credentials) -> bool:
    given = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else b""
    return _matches(given, credentials)


def _matches(given: bytes, credentials: Credentials) -> bool:
    matches = [hmac.compare_digest(given, known) for known in credentials.tokens]
    return any(matches)


def _identify(raw: RawCallback, plain: bytes, body: Any) -> Callback:
    event_id, event_type, dead_letter = (
        (None, None, DeadLetterReason.NOT_JSON) if body is _UNREADABLE else identify(body)
    )
    kept, content = plain, None if body is _UNREADABLE else body
    if withheld(event_type):
        kept, content, dead_letter = without_ticket(plain), None, None
    return Callback(
        app=raw.app,
        transport=raw.transport,
        received_at=raw.received_at,
        event_id=event_id or hashlib.sha256(plain).hexdigest(),
        event_type=event_type or "",
        body=kept,
        dead_letter=dead_letter,
        traceparent=traces.parse(raw.traceparent) if raw.traceparent else None,
        content=content,
    )


def _header(text: str) -> bytes:
    """Give a header's bytes as they came (aiohttp decodes with surrogateescape)."""
    return text.encode("utf-8", "surrogateescape")


def _quick(data: bytes) -> Any:
    try:
        return exactjson.quick(data)
    except ValueError:
        raise RejectedError(RejectReason.NOT_JSON, "the body is not JSON") from None


def _glimpse(data: bytes, credentials: Credentials) -> Any:
    """Parse a stranger's bytes; those that orjson refuses only if a token stands in them."""
    try:
        return _quick(data)
    except RejectedError:
        if not _holds_token(data, credentials):
            raise
    return _read(data)


def _read(data: bytes) -> Any:
    """Parse authentic bytes."""
    try:
        return exactjson.glance(data)
    except ValueError:
        return _UNREADABLE


def _holds_token(body: bytes, credentials: Credentials) -> bool:
    """Whether a body that orjson refuses has one of the tokens where a token may stand."""
    found = islice(_TOKEN.finditer(body), _MOST_TOKENS)
    return any(_matches(one[1], credentials) for one in found)
