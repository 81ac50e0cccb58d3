r"""JSON that keeps integers of any size exact: orjson, and the standard library where it would not.

orjson reads an integer beyond 64 bits as a float and refuses lone surrogates (`"\ud800"`), both of
which JSON allows. Only this module decides which of the two reads or writes a document.
"""

import json
import math
from typing import Any

import orjson

#: Digits become 0, and what may stand before a number becomes a colon.
_SHAPE = bytes.maketrans(b"123456789 \t\r\n,[-", b"000000000:::::::")
#: A number with so many digits may be one that orjson reads as a float.
_LONG = b":" + b"0" * 19
#: 2**64 has 20 digits, -2**63 has 19.
_LONGER = _LONG + b"0"
_LONG_AND_NEGATIVE = b"-" + b"0" * 19
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


class TooDeepError(ValueError):
    """A document that was read is nested too deeply to be written."""


def loads(data: bytes) -> Any:
    """Parse a JSON document. Raises ValueError for anything that is not JSON in UTF-8."""
    return _loads_exact(data) if has_long_integer(data) else glance(data)


def has_long_integer(data: bytes) -> bool:
    """False only if `glance` reads every integer of the document as it is."""
    shape = (b":" + data).translate(_SHAPE)
    if _LONG not in shape:
        return False
    return _LONGER in shape or _LONG_AND_NEGATIVE in data.translate(_DIGITS)


def quick(data: bytes) -> Any:
    """Parse a stranger's bytes, by orjson alone. Raises ValueError for what it refuses."""
    return orjson.loads(data)


def glance(data: bytes) -> Any:
    """Parse as `loads` does, except that integers beyond 64 bits may come as floats."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _loads_exact(data)


def _loads_exact(data: bytes) -> Any:
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        message = "nested too deeply"
        raise ValueError(message) from error


def dumps(value: Any) -> bytes:
    """Write a document that `loads` has read: compact, UTF-8, integers exact.

    Raises TooDeepError for a few that could just be read.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return _dumps_exact(value)


def _dumps_exact(value: Any) -> bytes:
    """Write integers beyond 64 bits as they are, and lone surrogates as escapes."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError as error:
        message = "nested too deeply"
        raise TooDeepError(message) from error


def _finite(digits: str) -> float:
    """Refuse what only an infinity could stand for, as orjson does: it would be written as null."""
    if math.isinf(number := float(digits)):
        message = "a number is beyond a double"
        raise ValueError(message)
    return number


def _refuse_constant(name: str) -> Any:
    message = f"{name} is not JSON"
    raise ValueError(message)
