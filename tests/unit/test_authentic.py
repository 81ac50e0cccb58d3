"""Every way a callback can come in, and everything that must not."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contract import exactjson
from relay.contract.identity import LONGEST_ID, identify
from relay.errors import RejectedError, RejectReason
from relay.events import Callback, Challenge, DeadLetterReason, RawCallback, Transport
from relay.ingress import authentic
from relay.ingress.authentic import LARGEST_CHALLENGE, Credentials, EncryptKey
from tests.fakes import KEY, TOKEN, as_json, challenge, encrypt, payload, sign

VECTORS = json.loads((Path(__file__).parent / "feishu-vectors.json").read_text())
OLDEST = 8 * 3600 * 1000
NOW = 1_700_000_000_000

#: What relay decides where the vectors say `reject` or leave the choice (design section 2).
DECIDED = {
    "empty_object": RejectReason.EMPTY,
    "bad_signature": RejectReason.SIGNATURE,
    "uppercase_signature": RejectReason.SIGNATURE,
    "missing_signature_headers": RejectReason.SIGNATURE,
    "wrong_token_v2": RejectReason.TOKEN,
    "wrong_token_challenge": RejectReason.TOKEN,
    "truncated_ciphertext": RejectReason.NOT_DECRYPTABLE,
    "flipped_padding": RejectReason.NOT_DECRYPTABLE,
    "iv_only": RejectReason.NOT_DECRYPTABLE,
    "not_base64": RejectReason.NOT_DECRYPTABLE,
    "plain_body_while_key_set": RejectReason.PLAIN_BODY,
}


def credentials(
    *, keys: tuple[str, ...] = (KEY,), tokens: tuple[str, ...] = (TOKEN,)
) -> Credentials:
    return Credentials(
        keys=tuple(EncryptKey(key) for key in keys),
        tokens=tuple(token.encode() for token in tokens),
    )


def callback(body: bytes, headers: dict[str, str] | None = None, now: int = NOW) -> RawCallback:
    headers = headers or {}
    return RawCallback(
        app="default",
        transport=Transport.WEBHOOK,
        body=body,
        received_at=now,
        timestamp=headers.get("X-Lark-Request-Timestamp", ""),
        nonce=headers.get("X-Lark-Request-Nonce", ""),
        signature=headers.get("X-Lark-Signature", ""),
    )


def signed(
    content: object, *, key: str = KEY, timestamp: str = "1700000000", now: int = NOW
) -> RawCallback:
    plain = content if isinstance(content, bytes) else as_json(content)
    body = encrypt(plain, key)
    return callback(body, sign(body, key, timestamp), now)


def opened(raw: RawCallback, checks: Credentials | None = None) -> Callback:
    found = authentic.open(raw, checks or credentials())
    assert isinstance(found, Callback)
    return found


def refusal(raw: RawCallback, checks: Credentials | None = None) -> RejectReason:
    with pytest.raises(RejectedError) as caught:
        authentic.open(raw, checks or credentials())
    return caught.value.reason


def test_documented_decryption_sample_decrypts() -> None:
    """The one vector that Feishu's own documentation gives."""
    sample = VECTORS["doc_vector"]
    plain = EncryptKey(sample["encrypt_key"]).decrypt(sample["encrypt_b64"])
    assert sample["plaintext"].encode() == plain


@pytest.mark.parametrize("vector", VECTORS["webhook"], ids=lambda vector: str(vector["name"]))
def test_vector_is_opened_or_refused(vector: dict[str, Any]) -> None:
    """Each vector confirmed by the official SDKs comes out as the design decides."""
    raw = callback(vector["body"].encode(), vector["headers"])
    keys = (vector["encrypt_key"],) if vector["encrypt_key"] else ()
    checks = credentials(keys=keys, tokens=(vector["verification_token"],))
    if reason := DECIDED.get(vector["name"]):
        assert reason is refusal(raw, checks)
        return
    plain = vector["plaintext"]
    if vector["expect"] == "challenge":
        assert Challenge(value=json.loads(plain)["challenge"]) == authentic.open(raw, checks)
        return
    content = json.loads(plain)
    found = opened(raw, checks)
    assert plain.encode() == found.body
    assert (
        content["header"]["event_id"] if "schema" in content else content["uuid"]
    ) == found.event_id
    assert found.dead_letter is None


def test_there_are_thirty_vectors_and_each_refused_one_is_decided() -> None:
    """No vector is lost from the file, and `reject` never passes."""
    names = {vector["name"] for vector in VECTORS["webhook"]}
    rejected = {vector["name"] for vector in VECTORS["webhook"] if vector["expect"] == "reject"}
    assert len(names) == 30
    assert rejected <= set(DECIDED) <= names


def test_event_keeps_its_identity_and_bytes() -> None:
    """What goes on is what Feishu encrypted, byte for byte."""
    plain = json.dumps(payload("e-7"), indent=2).encode()
    expected = Callback(
        app="default",
        transport=Transport.WEBHOOK,
        received_at=NOW,
        event_id="e-7",
        event_type="helpdesk.ticket_message.created_v1",
        body=plain,
    )
    assert expected == opened(signed(plain))


@pytest.mark.parametrize("key", ["current", "previous"])
def test_current_and_previous_key_both_open(key: str) -> None:
    """A key rotates without a gap."""
    checks = credentials(keys=("current", "previous"))
    assert opened(signed(payload("e-1"), key=key), checks).event_id == "e-1"


@pytest.mark.parametrize("token", ["current", "previous"])
def test_current_and_previous_token_both_pass(token: str) -> None:
    """A token rotates without a gap, encrypted or plain."""
    tokens = ("current", "previous")
    body = payload("e-1", token=token)
    assert opened(signed(body), credentials(tokens=tokens)).event_id == "e-1"
    plain = callback(as_json(body))
    assert opened(plain, credentials(keys=(), tokens=tokens)).event_id == "e-1"


def test_unknown_key_is_refused() -> None:
    assert refusal(signed(payload(), key="another")) is RejectReason.SIGNATURE


@pytest.mark.parametrize("seconds", [0, -OLDEST // 1000, 300], ids=["now", "at the limit", "ahead"])
def test_timestamp_of_feishus_own_retries_passes(seconds: int) -> None:
    """Feishu's own retries come up to 7.1 hours later."""
    raw = signed(payload("e-1"), timestamp=str(NOW // 1000 + seconds))
    assert opened(raw).event_id == "e-1"


@pytest.mark.parametrize(
    "timestamp",
    [
        str(NOW // 1000),
        str(NOW),
        str(NOW * 1000),
        str(NOW - OLDEST),
        str(NOW + 300_000),
        str((NOW - OLDEST) * 1000),
        str((NOW + 300_000) * 1000),
    ],
)
def test_timestamp_is_in_seconds_milli_or_microseconds(timestamp: str) -> None:
    """10, 13 or 16 digits, as everywhere in Feishu's events; the signature is over the text."""
    assert len(timestamp) in {10, 13, 16}
    assert opened(signed(payload("e-1"), timestamp=timestamp)).event_id == "e-1"


@pytest.mark.parametrize(
    ("timestamp", "now"),
    [
        (str(NOW // 1000 - OLDEST // 1000), NOW + 1),
        (str(NOW // 1000 + 300), NOW - 1),
        ("0", NOW),
        ("", NOW),
        ("soon", NOW),
        ("-1700000000", NOW),
        ("+1700000000", NOW),
        ("1700000000.0", NOW),
        (" 1700000000", NOW),
        ("1700000000\n", NOW),
        # Milli- and microseconds are times, too, and may be too old or ahead.
        (str(NOW - OLDEST - 1), NOW),
        (str(NOW + 300_001), NOW),
        (str((NOW - OLDEST) * 1000), NOW + 1),
        (str((NOW + 300_000) * 1000), NOW - 1),
        ("170000000000", NOW),
        ("170000000000000", NOW),
        ("170000000000000000", NOW),
        ("9" * 12, NOW),
        ("9" * 17, NOW),
        ("9" * 18, NOW),
        ("9" * 5000, NOW),
        ("١٧٠٠٠٠٠٠٠٠", NOW),
    ],
)
def test_signed_request_that_feishu_cannot_have_sent_now_is_stale(timestamp: str, now: int) -> None:
    """A captured request cannot come in after its event is forgotten, however it is dated."""
    assert refusal(signed(payload(), timestamp=timestamp, now=now)) is RejectReason.STALE


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["no key", "key"])
@pytest.mark.parametrize("form", ["plain", "encrypted", "encrypted and signed"])
def test_challenge_is_answered_in_every_form(form: str, keys: tuple[str, ...]) -> None:
    """The console can save the URL whatever it sends, except what no key can decrypt."""
    plain = as_json(challenge(value="c-1"))
    raw = callback(plain) if form == "plain" else callback(encrypt(plain))
    if form == "encrypted and signed":
        raw = signed(plain)
    checks = credentials(keys=keys)
    if not keys and form != "plain":
        assert refusal(raw, checks) is RejectReason.NOT_DECRYPTABLE
    else:
        assert Challenge(value="c-1") == authentic.open(raw, checks)


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["no key", "key"])
@pytest.mark.parametrize("token", ["wrong", "", None, 5, ["x"]])
def test_challenge_with_a_wrong_token_is_refused(token: object, keys: tuple[str, ...]) -> None:
    """Nobody else can make relay echo."""
    body = json.dumps({**challenge(), "token": token}).encode()
    checks = credentials(keys=keys)
    assert refusal(callback(body), checks) is RejectReason.TOKEN
    if keys:
        assert refusal(callback(encrypt(body)), checks) is RejectReason.TOKEN
        assert refusal(signed(body), checks) is RejectReason.TOKEN


def test_challenge_without_any_token_is_refused() -> None:
    body = as_json({"challenge": "c", "type": "url_verification"})
    assert refusal(callback(body)) is RejectReason.TOKEN
    assert refusal(callback(encrypt(body))) is RejectReason.TOKEN


def test_challenge_of_an_app_without_token_needs_the_key() -> None:
    """Whoever can encrypt knows the key; a plain challenge proves nothing."""
    checks = credentials(tokens=())
    body = as_json(challenge("whatever", "c-2"))
    assert Challenge(value="c-2") == authentic.open(callback(encrypt(body)), checks)
    assert refusal(callback(body), checks) is RejectReason.PLAIN_BODY


def test_challenge_is_decrypted_with_the_previous_key_too() -> None:
    checks = credentials(keys=("new", KEY))
    raw = callback(encrypt(as_json(challenge(value="c-3"))))
    assert Challenge(value="c-3") == authentic.open(raw, checks)


def test_challenge_that_is_no_text_is_no_challenge() -> None:
    """It goes the way of every other unsigned body."""
    body = as_json({**challenge(), "challenge": 5})
    assert refusal(callback(encrypt(body))) is RejectReason.SIGNATURE


@pytest.mark.parametrize("token", ["wrong", "Ｔ", 5, ["x"], {"a": 1}, True])
def test_wrong_token_never_passes(token: object) -> None:
    """Neither with a signature nor without, in either schema."""
    second = payload()
    second["header"]["token"] = token
    first = {"uuid": "u-1", "token": token, "event": {"type": "message"}}
    for body in (second, first):
        assert refusal(signed(body)) is RejectReason.TOKEN
        assert refusal(callback(as_json(body)), credentials(keys=())) is RejectReason.TOKEN


def test_missing_token_passes_on_the_signature_alone() -> None:
    """As on the long connection, where Feishu sends an empty one."""
    second = payload("e-2", token="")
    bare = payload("e-3")
    del bare["header"]["token"]
    first = {"uuid": "u-1", "event": {"type": "message"}}
    assert [opened(signed(body)).event_id for body in (second, bare, first)] == [
        "e-2",
        "e-3",
        "u-1",
    ]
    for body in (second, bare, first):
        assert refusal(callback(as_json(body)), credentials(keys=())) is RejectReason.TOKEN


def test_any_token_passes_where_none_is_configured() -> None:
    """Then the key is what the app is told apart by."""
    assert opened(signed(payload("e-1", token="any")), credentials(tokens=())).event_id == "e-1"


def test_token_of_schema_1_stands_at_the_top() -> None:
    body = {"uuid": "u-1", "token": TOKEN, "event": {"type": "message"}}
    found = opened(callback(as_json(body)), credentials(keys=()))
    assert (found.event_id, found.event_type, found.dead_letter) == ("u-1", "message", None)


@pytest.mark.parametrize("change", ["{}=", "{}====", "{}\n", " {}", "{}\u00e9", "{}AA-_", "AAA={}"])
def test_base64_is_strict(change: str) -> None:
    """One text for one ciphertext: nothing in it is skipped."""
    text = json.loads(encrypt(b"x" * 15, KEY))["encrypt"]
    assert EncryptKey(KEY).decrypt(text) == b"x" * 15
    with pytest.raises(ValueError, match=r"."):
        EncryptKey(KEY).decrypt(change.format(text))


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"\xff\xfe", b'{"a":NaN}', b"\xef\xbb\xbf{}"])
def test_body_that_is_not_json_is_refused(body: bytes) -> None:
    """With a key, without one, and as the envelope of a good signature."""
    for checks in (credentials(), credentials(keys=())):
        assert refusal(callback(body), checks) is RejectReason.NOT_JSON
    assert refusal(callback(body, sign(body, KEY, "1700000000"))) is RejectReason.NOT_JSON


UNREADABLE = {
    "no JSON": b"nope",
    "nothing": b"",
    "not UTF-8": b'{"header":{"event_id":"e-1"},"event":{"text":"\xff"}}',
    "NaN": b'{"a":NaN}',
    "beyond a double": b'{"a":1e400}',
    "5,000 digits": b'{"a":' + b"7" * 5000 + b"}",
    "too deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("plain", UNREADABLE.values(), ids=UNREADABLE)
def test_authentic_body_that_cannot_be_read_is_a_dead_letter(plain: bytes) -> None:
    """A refusal would come back four times, and then be lost."""
    digest = hashlib.sha256(plain).hexdigest()
    over_connection = RawCallback(
        app="default", transport=Transport.LONG_CONNECTION, body=plain, received_at=NOW
    )
    for raw in (signed(plain), over_connection):
        found = opened(raw)
        assert (found.event_id, found.dead_letter) == (digest, DeadLetterReason.NOT_JSON)
        assert found.body == plain


@pytest.mark.parametrize("value", [b"1e400", b"7" * 5000, b"[" * 5000 + b"]" * 5000, b'"\xff"'])
def test_token_alone_makes_an_unreadable_body_authentic(value: bytes) -> None:
    """An app without a key: the token is looked for in the bytes."""
    head = (
        b'{"schema":"2.0","header":{"event_id":"e-1","token" : "%s"},"event":{"a":' % TOKEN.encode()
    )
    checks = credentials(keys=())
    found = opened(callback(head + value + b"}}"), checks)
    assert found.dead_letter is DeadLetterReason.NOT_JSON
    for wrong in (b"", b"wrong", TOKEN.encode()[:-1], TOKEN.encode() + b"x"):
        other = head.replace(TOKEN.encode(), wrong) + value + b"}}"
        assert refusal(callback(other), checks) is RejectReason.NOT_JSON


def test_body_that_only_python_reads_comes_in_by_its_token() -> None:
    """A text that was cut amid an emoji is JSON with half a surrogate pair."""
    body = json.dumps({**payload("e-4"), "cut": "\ud83d"}).encode()
    found = opened(callback(body), credentials(keys=()))
    assert (found.event_id, found.dead_letter) == ("e-4", None)
    assert opened(signed(body)).event_id == "e-4"


def test_quoted_json_in_a_text_is_no_token() -> None:
    body = json.dumps({"text": json.dumps({"token": TOKEN}), "cut": "\ud83d"}).encode()
    assert refusal(callback(body), credentials(keys=())) is RejectReason.NOT_JSON


def test_so_many_tokens_are_compared_at_most() -> None:
    """A body of nothing else would take as long as its length allows."""
    body = b'{"token":"wrong"}' * 1000 + b'{"token":"%s"}' % TOKEN.encode()
    assert refusal(callback(body), credentials(keys=())) is RejectReason.NOT_JSON


HOSTILE = {
    "numbers": b"[" + b"0e0," * 250_000 + b"NaN]",
    "deep": b"[" * 1_000_000,
    "digits": b"[" + b"9" * 1_000_000,
    "escapes": b'["' + b"\\ud800" * 160_000,
    "objects": b'[{"a":' * 160_000,
    "tokens": b'{"token":"a"}' * 70_000,
    "spaces": b'"token"' + b" " * 1_000_000,
    "an envelope": b'{"encrypt":"' + b"A" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["no key", "key"])
def test_no_stranger_reaches_the_slow_parser(
    body: bytes, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's `json` takes 100 ms of the event loop for 1 MiB, the signature less than one."""

    def slow(*_: object, **__: object) -> object:
        pytest.fail("a stranger's bytes are parsed by the standard library")

    monkeypatch.setattr("relay.contract.exactjson._loads_exact", slow)
    with pytest.raises(RejectedError):
        authentic.open(callback(body), credentials(keys=keys))


def test_unsigned_body_is_looked_into_only_if_it_may_be_a_challenge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    quick = exactjson.quick

    def watched(data: bytes) -> object:
        looked.append(len(data))
        return quick(data)

    monkeypatch.setattr(exactjson, "quick", watched)
    assert refusal(callback(b" " * LARGEST_CHALLENGE + b"{}")) is RejectReason.SIGNATURE
    assert not looked
    assert refusal(callback(b'{"a":1}')) is RejectReason.PLAIN_BODY
    assert looked == [7]


def test_empty_object_is_refused() -> None:
    assert refusal(callback(b" {} "), credentials(keys=())) is RejectReason.EMPTY
    assert refusal(signed(b"{}")) is RejectReason.EMPTY


@pytest.mark.parametrize("outer", [b"{}", b"[]", b"5", b'{"encrypt":5}', b'"encrypt"'])
def test_plain_body_is_refused_while_a_key_is_set(outer: bytes) -> None:
    """Signed or not: only an encrypted body can be told from a downgrade."""
    assert refusal(callback(outer)) is RejectReason.PLAIN_BODY
    assert refusal(callback(outer, sign(outer, KEY, "1700000000"))) is RejectReason.PLAIN_BODY


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"text"'])
def test_plain_body_that_is_no_object_has_no_token(body: bytes) -> None:
    assert refusal(callback(body), credentials(keys=())) is RejectReason.TOKEN


@pytest.mark.parametrize(
    ("content", "event_type", "reason"),
    [
        ([1], "", DeadLetterReason.NOT_AN_OBJECT),
        ({"schema": "2.0"}, "", DeadLetterReason.NO_EVENT_ID),
        ({"schema": "2.0", "header": 5, "event": {}}, "", DeadLetterReason.NO_EVENT_ID),
        ({"header": {"event_id": ""}, "event": {}}, "", DeadLetterReason.NO_EVENT_ID),
        ({"header": {"event_id": 5, "event_type": "t"}}, "t", DeadLetterReason.NO_EVENT_ID),
        ({"uuid": 5, "event": {"type": "t"}}, "t", DeadLetterReason.NO_EVENT_ID),
        (
            {"header": {"event_id": "i" * (LONGEST_ID + 1), "event_type": "t"}, "event": {}},
            "t",
            DeadLetterReason.NO_EVENT_ID,
        ),
        ({"hello": "world"}, "", DeadLetterReason.NO_EVENT_ID),
    ],
)
def test_authentic_body_without_identity_is_a_dead_letter(
    content: object, event_type: str, reason: DeadLetterReason
) -> None:
    """It is stored under its own digest: a retry of the same bytes is a duplicate."""
    found = opened(signed(content))
    digest = hashlib.sha256(as_json(content)).hexdigest()
    assert (digest, event_type, reason) == (found.event_id, found.event_type, found.dead_letter)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event": None}, DeadLetterReason.NOT_AN_OBJECT),
        ({"event": []}, DeadLetterReason.NOT_AN_OBJECT),
        ({"event": "text"}, DeadLetterReason.NOT_AN_OBJECT),
        ({"header": {"event_id": "e-9"}}, DeadLetterReason.NO_EVENT_TYPE),
        ({"header": {"event_id": "e-9", "event_type": ""}}, DeadLetterReason.NO_EVENT_TYPE),
    ],
)
def test_identified_body_without_event_is_a_dead_letter(
    change: dict[str, Any], reason: DeadLetterReason
) -> None:
    found = opened(signed({**payload("e-9"), **change}))
    assert ("e-9", reason) == (found.event_id, found.dead_letter)


def test_schema_1_without_event_has_no_type() -> None:
    assert identify({"uuid": "u"}) == ("u", None, DeadLetterReason.NOT_AN_OBJECT)
    assert identify({"uuid": "u", "event": {}}) == (
        "u",
        None,
        DeadLetterReason.NO_EVENT_TYPE,
    )


def test_event_id_that_utf8_cannot_carry_is_none() -> None:
    """A lone surrogate could be neither a key nor a header."""
    body = b'{"header":{"event_id":"\\ud800","event_type":"t"},"event":{}}'
    found = opened(signed(body))
    assert DeadLetterReason.NO_EVENT_ID is found.dead_letter
    assert hashlib.sha256(body).hexdigest() == found.event_id


def test_event_id_outside_ascii_stays() -> None:
    assert opened(signed(payload("编号-🔑"))).event_id == "编号-🔑"


def test_long_connection_needs_no_signature_and_no_token() -> None:
    """The connection itself is authentic; Feishu sends its events there in the clear."""
    raw = RawCallback(
        app="default",
        transport=Transport.LONG_CONNECTION,
        body=as_json(payload("e-5", token="")),
        received_at=NOW,
    )
    found = opened(raw)
    assert (found.event_id, found.transport) == ("e-5", Transport.LONG_CONNECTION)


def test_integer_of_any_size_does_not_stop_an_event() -> None:
    """Beyond what a double can hold, too: the contract keeps it exact."""
    plain = as_json(payload("e-6")).replace(b'"77"', b"9" * 400)
    assert opened(signed(plain)).event_id == "e-6"


def test_header_bytes_are_signed_as_they_came() -> None:
    """Aiohttp gives undecodable bytes as surrogates; they must neither fail nor change."""
    body = encrypt(as_json(payload("e-8")))
    nonce = b"n\xff\xe9"
    digest = hashlib.sha256(b"1700000000" + nonce + KEY.encode() + body).hexdigest()
    headers = {
        "X-Lark-Request-Timestamp": "1700000000",
        "X-Lark-Request-Nonce": nonce.decode("utf-8", "surrogateescape"),
        "X-Lark-Signature": digest,
    }
    assert opened(callback(body, headers)).event_id == "e-8"


def test_no_refusal_repeats_what_was_sent() -> None:
    """An answer never carries a secret, nor a payload."""
    raw = signed(payload(token="a-wrong-token"))
    with pytest.raises(RejectedError) as caught:
        authentic.open(raw, credentials())
    assert not re.search(f"a-wrong-token|{TOKEN}|{KEY}", repr(caught.value) + caught.value.detail)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
HEADER_TEXT = st.binary(max_size=80).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
ALL_CHECKS = st.sampled_from(
    [credentials(), credentials(keys=()), credentials(tokens=()), credentials(keys=(KEY, "old"))]
)


def survives(raw: RawCallback, checks: Credentials) -> Callback | Challenge | None:
    """Open it; anything but a foreseen refusal fails the test."""
    try:
        return authentic.open(raw, checks)
    except RejectedError:
        return None


@given(st.binary(), HEADER_TEXT, HEADER_TEXT, HEADER_TEXT, ALL_CHECKS)
def test_random_bytes_never_come_in(
    body: bytes, timestamp: str, nonce: str, signature: str, checks: Credentials
) -> None:
    """Nothing that guesses gets past, and nothing breaks."""
    raw = RawCallback(
        app="default",
        transport=Transport.WEBHOOK,
        body=body,
        received_at=NOW,
        timestamp=timestamp,
        nonce=nonce,
        signature=signature,
    )
    assert survives(raw, checks) is None


@given(JSON_VALUES, ALL_CHECKS)
def test_random_json_is_opened_or_refused(content: object, checks: Credentials) -> None:
    """Signed or not: it becomes a callback with an id, or a refusal."""
    plain = json.dumps(content).encode()
    assert survives(callback(plain), checks) is None
    found = survives(signed(plain), checks)
    assert found is None or (isinstance(found, Callback) and found.event_id)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_mutated_ciphertext_without_its_signature_never_comes_in(where: int, change: int) -> None:
    """One changed byte of the body is enough."""
    raw = signed(payload())
    body = bytearray(raw.body)
    body[where % len(body)] ^= change
    mutated = RawCallback(
        app=raw.app,
        transport=raw.transport,
        body=bytes(body),
        received_at=NOW,
        timestamp=raw.timestamp,
        nonce=raw.nonce,
        signature=raw.signature,
    )
    assert survives(mutated, credentials()) is None


@given(st.binary(max_size=100))
def test_signed_rubbish_is_refused_or_opened(data: bytes) -> None:
    """A body of the right signer that decrypts to anything at all breaks nothing."""
    body = json.dumps({"encrypt": data.decode("latin-1")}).encode()
    survives(callback(body, sign(body, KEY, "1700000000")), credentials())
    survives(signed(data), credentials())


@given(HEADER_TEXT)
def test_mutated_signature_never_passes(signature: str) -> None:
    raw = signed(payload())
    if signature == raw.signature:
        return
    headers = {
        "X-Lark-Request-Timestamp": raw.timestamp,
        "X-Lark-Request-Nonce": raw.nonce,
        "X-Lark-Signature": signature,
    }
    assert refusal(callback(raw.body, headers)) is RejectReason.SIGNATURE
