"""What is read out of Kafka's answers, without a Kafka."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors

from relay.egress.kafka import offsets
from relay.egress.kafka.client import too_old
from relay.egress.kafka.faults import translated
from relay.errors import KafkaRefusedError, KafkaUnavailableError, RelayError


def answer(*partitions: tuple[Any, ...], error_code: int = 0) -> SimpleNamespace:
    return SimpleNamespace(topics=[("t", list(partitions), {})], error_code=error_code)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (answer((0, 7, 3, "m", 0, {})), (7, "m")),
        (answer((0, 7, 3, None, 0, {})), (7, "")),
        (answer((0, -1, -1, "", 0, {})), (-1, "")),
        (answer((0, 7, "m", 0)), (7, "m")),
    ],
    ids=["there", "no words", "none", "mock cluster"],
)
def test_offset_is_read(told: SimpleNamespace, expected: tuple[int, str]) -> None:
    """Of version 7, and of version 3."""
    found = offsets.told(told)
    assert found
    assert (found.offset, found.metadata) == expected


def test_offset_that_a_transaction_holds_is_none_yet() -> None:
    assert offsets.told(answer((0, -1, -1, "", 88, {}))) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (answer(), KafkaUnavailableError),
        (answer((0, 7, 3, "m", 0, {}), error_code=15), KafkaUnavailableError),
        (answer(error_code=16), KafkaUnavailableError),
        (answer((0, 7, 3, "m", 14, {})), KafkaUnavailableError),
        (answer(error_code=30), KafkaRefusedError),
        (answer((0, -1, -1, "", 29, {})), KafkaRefusedError),
    ],
)
async def test_offset_that_is_not_told_is_a_failure(
    told: SimpleNamespace, expected: type[RelayError]
) -> None:
    """Never `nothing is settled`."""
    with pytest.raises(expected):
        async with translated():
            offsets.told(told)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({9: (0, 7), 19: (0, 5)}, False),
        ({9: (1, 10), 19: (2, 7)}, False),
        ({9: (0, 6), 19: (0, 5)}, True),
        ({9: (0, 3), 19: (0, 2)}, True),
        ({19: (0, 2)}, True),
        ({9: (0, 6)}, False),
    ],
    ids=["2.5", "4.x", "2.4", "1.0", "no groups", "mock cluster"],
)
async def test_broker_that_tells_no_stable_offset_is_too_old(
    versions: dict[int, tuple[int, int]], *, expected: bool
) -> None:
    """And is not asked: what it tells may be an offset of yesterday."""
    assert too_old(versions) == expected
    request = offsets._OffsetFetch("g", "t", stable=True)
    if expected:
        with pytest.raises(errors.IncompatibleBrokerVersion, match=r"older than 2\.5"):
            request.prepare(versions)
    else:
        request.prepare(versions)
