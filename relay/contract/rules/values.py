"""Reads one value: integers, instants, durations; what cannot be read is Unexpected."""

import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

_INTEGER = re.compile(r"-?[0-9]{1,4000}")
_NUMBER = re.compile(r"-?[0-9]{1,4000}(\.[0-9]{1,4000})?")
#: The least integer that Python does not write (its limit is 4300 digits).
_UNWRITABLE = 10**4300
#: Decimals of a duration that are kept; those after them are what doubles make of a product.
_DECIMALS = 6
#: An instant below the limit is in seconds, milli- or microseconds: numerator and denominator give
#: its milliseconds (contract: instant, by the count of digits).
_UNITS = ((10**11, 1000, 1), (10**14, 1, 1), (10**17, 1, 1000))
_MILLISECONDS = (10**11, 10**14)


class Unexpected(Exception):  # noqa: N818 - a finding about a value, never an error of ours
    """A value that its rule cannot take."""


def to_integer(value: Any) -> int | None:
    """Read a JSON integer, or one in a decimal string; raises Unexpected for all else."""
    if type(value) is int or value is None:
        return value
    if type(value) is str and _INTEGER.fullmatch(value):
        return int(value)
    raise Unexpected


def to_instant(value: Any) -> str | None:
    """Read an instant in seconds, milli- or microseconds as RFC 3339; zero and below is None."""
    if type(value) is int and _MILLISECONDS[0] <= value < _MILLISECONDS[1]:
        # What Feishu sends; the way below leads to the same.
        return rfc3339(value)
    number = to_integer(value)
    return None if number is None or number <= 0 else rfc3339(to_milliseconds(number))


def to_milliseconds(number: int) -> int:
    """Read a Unix time in seconds, milli- or microseconds; its count of digits tells which."""
    for limit, numerator, denominator in _UNITS:
        if number < limit:
            return number * numerator // denominator
    raise Unexpected


def rfc3339(milliseconds: int) -> str:
    """Write a Unix time in milliseconds as RFC 3339 UTC: `2020-12-23T12:19:49.000Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Write seconds since 1970; the instants of many events share one."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def to_seconds(value: Any, factor: int) -> float | None:
    """Read a duration in units of `factor` seconds, as seconds."""
    seconds: float
    if value is None:
        return None
    if type(value) is str and _NUMBER.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if type(value) is int and abs(seconds := value * factor) < _UNWRITABLE:
        return seconds
    if type(value) is float and math.isfinite(seconds := value * factor):
        return seconds if seconds.is_integer() else round(seconds, _DECIMALS)
    raise Unexpected
