"""How the last transaction under a name has ended."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors

from relay.egress.kafka.transactions import End, Last, told


def answer(state: str, code: int = 0) -> Any:
    row: tuple[Any, ...] = (code, "relay-j", state, 60_000, 1, 7, 3, [], {})
    return SimpleNamespace(transaction_states=[row])


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("Empty", End.UNKNOWN),
        ("Ongoing", End.OPEN),
        ("PrepareCommit", End.COMMITTED),
        ("CompleteCommit", End.COMMITTED),
        ("PrepareAbort", End.ABORTED),
        ("CompleteAbort", End.ABORTED),
        ("PrepareEpochFence", End.ABORTED),
        ("Dead", End.UNKNOWN),
        ("OfALaterKafka", End.UNKNOWN),
    ],
)
def test_state(state: str, end: End) -> None:
    assert told(answer(state)) == Last(end=end, producer=(7, 3))


def test_name_without_a_transaction() -> None:
    assert told(answer("", code=105)) == Last()


@pytest.mark.parametrize(
    ("code", "error"),
    [(14, errors.CoordinatorLoadInProgressError), (16, errors.NotCoordinatorError)],
)
def test_error_is_no_end(code: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        told(answer("CompleteAbort", code))


def test_answer_without_the_name_is_an_error() -> None:
    with pytest.raises(errors.CoordinatorNotAvailableError):
        told(SimpleNamespace(transaction_states=[]))


@pytest.mark.parametrize(
    ("following", "end"),
    [
        ((7, 4), End.COMMITTED),
        ((7, 5), End.ABORTED),
        ((7, 9), End.ABORTED),
        ((8, 0), End.ABORTED),
        ((8, 4), End.ABORTED),
    ],
)
def test_open_one_ends_with_the_next_producer(following: tuple[int, int], end: End) -> None:
    """An abort takes an epoch of its own."""
    assert Last(end=End.OPEN, producer=(7, 3)).fenced_by(following) is end


@pytest.mark.parametrize("end", [End.COMMITTED, End.ABORTED, End.UNKNOWN])
def test_one_that_is_over_stays_so(end: End) -> None:
    assert Last(end=end, producer=(7, 3)).fenced_by((7, 4)) is end
