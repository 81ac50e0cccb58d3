"""Every integer exact, whichever of the two parsers reads it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contract import exactjson

EDGES = [
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**19,
    -(10**18),
    -(10**19),
    10**400,
    0,
    -1,
]


@pytest.mark.parametrize("number", EDGES)
def test_integer_is_read_and_written_exactly(number: int) -> None:
    """Around every limit that a parser could have."""
    document = b'{"n":[%d]}' % number
    assert {"n": [number]} == exactjson.loads(document)
    assert document == exactjson.dumps(exactjson.loads(document))


@pytest.mark.parametrize("beside", [b"0", b"%d" % 2**70], ids=["orjson", "json"])
@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"1.10", b"1.1"),
        (b"1e2", b"100.0"),
        (b"0.1000000000000000055511151231257827", b"0.1"),
        (b"12345678901234567.125", b"1.2345678901234568e16"),
        (b"-0.0", b"-0.0"),
    ],
)
def test_number_with_a_fraction_is_a_double(text: bytes, written: bytes, beside: bytes) -> None:
    """As docs/contract.md says, whichever parser reads it."""
    read = exactjson.loads(b"[%s,%s]" % (text, beside))
    assert repr(float(text)) == repr(read[0])
    assert exactjson.dumps(read).replace(b"e+", b"e") == b"[%s,%s]" % (written, beside)


@pytest.mark.parametrize("number", EDGES)
@pytest.mark.parametrize(
    "place", [b"%d", b" %d", b"[%d]", b"[1,%d]", b"[1, %d ]", b'{"a":\t%d}', b'{"a" :\r\n%d}']
)
def test_integer_is_exact_wherever_it_stands(place: bytes, number: int) -> None:
    """After everything that JSON allows before a number."""
    document = place % number
    assert repr(json.loads(document)) == repr(exactjson.loads(document))


@pytest.mark.parametrize(
    ("document", "long"),
    [
        (b'{"id":"123456789012345678901234567890"}', False),
        (b'{"id":1234567890123456789}', False),
        (b'{"id":-1234567890123456789}', True),
        (b'{"id":1234567890123456789,"ticket":"12345678901234567890"}', False),
        (b'{"id":1234567890123456789,"minus":"-1"}', False),
        (b'{"id":12345678901234567890}', True),
        (b'{"text":"dial 12345678901234567890"}', True),
        (b'{"pi":3.14159265358979323846264338}', False),
    ],
)
def test_only_long_numbers_need_the_slow_parser(document: bytes, *, long: bool) -> None:
    """Digits of a text do not, as a rule: most ids are texts."""
    assert long is exactjson.has_long_integer(document)


@pytest.mark.parametrize("number", [7, 2**63 - 1, 2**64 - 1, -(2**63)])
def test_glance_reads_64_bits_exactly(number: int) -> None:
    assert exactjson.glance(b"%d" % number) == number


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\udc00b"', '{"\\ud800":1}'])
def test_lone_surrogates_pass(text: str) -> None:
    """JSON allows them, UTF-8 does not: they stay escapes."""
    document = text.encode()
    for read in (exactjson.loads, exactjson.glance):
        assert json.loads(text) == read(document)
    assert json.loads(text) == json.loads(exactjson.dumps(exactjson.loads(document)))


def test_huge_integer_beside_a_lone_surrogate_passes() -> None:
    value = {"n": 10**30, "s": "\ud800", "t": "中"}
    assert value == json.loads(exactjson.dumps(value))


def test_text_outside_ascii_is_written_as_utf8() -> None:
    """Also where the slow writer is needed."""
    assert '{"n":1000000000000000000000000000000,"t":"中🔑"}'.encode() == exactjson.dumps(
        {"n": 10**30, "t": "中🔑"}
    )


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"{'a':1}",
        b'{"a":1,}',
        b"[1] 2",
        b"NaN",
        b"Infinity",
        b'["\\ud800",NaN]',
        b'["\\ud800",-Infinity]',
        b"\xff",
        b'"\\u4e2\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        b'"a\nb"',
        b"1e999",
        b'["\\u4e2d",1e999]',
        b"[%d,1e999]" % 10**30,
        b"[" * 100_000,
        b'["\\u4e2d",' + b"[" * 100_000 + b"]" * 100_001,
    ],
)
def test_what_is_not_json_is_a_value_error(document: bytes) -> None:
    """Never another exception, and never a guess."""
    for read in (exactjson.loads, exactjson.glance):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever of the two said so
            read(document)


DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**66)
    | st.integers(max_value=-(2**62), min_value=-(2**66))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    max_leaves=10,
)


@given(DOCUMENTS)
def test_any_document_survives_reading_and_writing(document: Any) -> None:
    for ensure_ascii in (True, False):
        text = json.dumps(document, ensure_ascii=ensure_ascii)
        try:
            data = text.encode()
        except UnicodeEncodeError:
            continue
        read = exactjson.loads(data)
        assert json.dumps(document) == json.dumps(read)
        assert json.dumps(document) == json.dumps(json.loads(exactjson.dumps(read)))


@given(st.binary())
def test_random_bytes_are_a_document_or_a_value_error(data: bytes) -> None:
    for read in (exactjson.loads, exactjson.glance):
        try:
            read(data)
        except ValueError:
            continue
