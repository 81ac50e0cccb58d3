"""The right to write to a topic, asked for in a transaction that nothing becomes a part of."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition, errors

from relay.egress.kafka.producer import Producer, _Question

LOADING, GONE, MOVED = 14, 15, 16
NONE, UNKNOWN, DENIED, SKIPPED, ID_DENIED, FENCED = 0, 3, 29, 55, 53, 47


class Sender:
    """aiokafka's, as far as the question needs it: it answers as it is told to."""

    _retry_backoff = 0.0

    def __init__(self, *answers: Sequence[tuple[str, list[tuple[int, int]]]]) -> None:
        self.answers = list(answers)
        self.lost = 0
        self.asked: list[Any] = []
        self.added: list[TopicPartition] = []
        self.client = self
        self._txn_manager = SimpleNamespace(
            transactional_id="relay-check-1",
            producer_id=1,
            producer_epoch=0,
            maybe_add_partition_to_txn=lambda _: None,
            partition_added=self.added.append,
        )

    async def _find_coordinator(self, *_: object) -> int:
        return 1

    def _coordinator_dead(self, _: object) -> None:
        self.lost += 1

    async def send(self, _: int, request: Any, **__: object) -> Any:
        self.asked.append(request)
        return SimpleNamespace(errors=self.answers.pop(0))


def producer(sender: Sender) -> Producer:
    made = Producer.__new__(Producer)
    made._producer = SimpleNamespace(_sender=sender)
    return made


async def test_topic_that_is_refused_is_named_and_nothing_is_taken_in() -> None:
    """Each is asked for with a partition that no topic has."""
    sender = Sender([("a", [(0, SKIPPED), (2**31 - 1, UNKNOWN)]), ("b", [(0, DENIED)])])
    assert await producer(sender).forbidden(["a", "b"]) == ["b"]
    assert sender.added == []
    (request,) = sender.asked
    last = 2**31 - 1
    assert request._topics == [("a", [0, last]), ("b", [0, last])]


async def test_what_a_broker_takes_in_all_the_same_is_known_so_that_it_is_aborted() -> None:
    sender = Sender([("a", [(0, NONE), (2**31 - 1, UNKNOWN)])])
    assert await producer(sender).forbidden(["a"]) == []
    assert sender.added == [TopicPartition("a", 0)]


@pytest.mark.parametrize("code", [LOADING, GONE, MOVED])
async def test_coordinator_that_is_not_there_yet_is_asked_again(code: int) -> None:
    sender = Sender([("a", [(0, code)])], [("a", [(0, DENIED)])])
    assert await producer(sender).forbidden(["a"]) == ["a"]
    assert sender.lost == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [(ID_DENIED, errors.TransactionalIdAuthorizationFailed), (FENCED, errors.InvalidProducerEpoch)],
)
async def test_any_other_answer_is_an_error(code: int, error: type[Exception]) -> None:
    """Silence would be taken for a right."""
    with pytest.raises(error):
        await producer(Sender([("a", [(0, code)])])).forbidden(["a"])


def test_question_is_the_request_that_aiokafka_makes_itself() -> None:
    """Only its answer is read otherwise."""
    sender = Sender()
    assert _Question(sender, [TopicPartition("a", 0)]).create_request()._topics == [("a", [0])]
