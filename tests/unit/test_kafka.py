"""What is read out of Kafka's answers, without a Kafka."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition, errors
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.transaction_manager import TransactionManager

from relay.egress.kafka import durability, offsets
from relay.egress.kafka.client import too_old
from relay.egress.kafka.faults import complete, translated
from relay.egress.kafka.sessions import Session
from relay.egress.publisher import ExactlyOncePublisher
from relay.egress.tenure import Place
from relay.errors import KafkaRefusedError, KafkaUnavailableError, RelayError
from relay.observe import clock
from relay.settings import Kafka


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


@pytest.mark.parametrize(
    ("offset", "metadata", "expected"),
    [(-1, "", None), (7, "owner", Place(offset=7, owner="owner"))],
    ids=["nobody", "an owner"],
)
async def test_look_does_not_wait_for_an_end_that_never_comes(
    monkeypatch: pytest.MonkeyPatch, offset: int, metadata: str, expected: Place | None
) -> None:
    """The first offset of a group is held by a transaction whose end Kafka has forgotten."""

    async def read(*_: object, stable: bool) -> offsets.Committed:
        if stable:
            await asyncio.sleep(60)
        return offsets.Committed(offset=offset, metadata=metadata)

    monkeypatch.setattr(offsets, "read", read)
    settings = Kafka.model_validate({"bootstrap_servers": "x", "timeout": 0.2})
    assert await ExactlyOncePublisher(settings, []).find("j") == expected


class Line:
    """A transport that notes its end."""

    closed = False

    def close(self) -> None:
        self.closed = True


def session(*, timeout: int = 10_000) -> tuple[Session, Line]:
    """Give a connection that is open, with a login that is over."""
    made, line = Session("localhost", 1, request_timeout_ms=timeout), Line()
    made._reader, made._writer = asyncio.StreamReader(), line
    made._read_task = asyncio.create_task(asyncio.sleep(60))
    assert made.connected()
    made._ends = clock.boot() - 1
    return made, line


def awaited(made: Session) -> asyncio.Future[bytes]:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    made._requests.append((None, None, answer))
    return answer


async def test_connection_whose_login_is_over_is_closed_when_idle() -> None:
    made, line = session()
    assert not made.connected()
    assert line.closed
    assert not made.connected()


async def test_closed_connection_whose_login_is_over_asks_nothing_of_its_loop() -> None:
    """Whoever throws it away looks at it once more, perhaps after the loop's end."""
    made, _ = session()
    made.close()
    made._loop = asyncio.new_event_loop()
    made._loop.close()
    assert not made.connected()
    assert made._closing is None


async def test_connection_whose_login_is_over_waits_for_its_answers() -> None:
    """It takes no request more, and loses none."""
    made, line = session()
    answers = [awaited(made), awaited(made)]
    for answer in answers:
        assert not made.connected()
        assert not line.closed
        made._handle_frame(b"answer")
        assert await answer == b"answer"
    assert line.closed


async def test_connection_whose_login_is_over_waits_no_longer_than_any_request() -> None:
    made, line = session(timeout=20)
    answer = awaited(made)
    assert not made.connected()
    with pytest.raises(errors.KafkaConnectionError):
        await answer
    assert line.closed


@pytest.mark.parametrize(
    ("told", "seconds"),
    [({}, None), ({"session_lifetime_ms": 0}, None), ({"session_lifetime_ms": 5000}, 4)],
    ids=["old broker", "for ever", "five seconds"],
)
async def test_login_tells_how_long_it_holds(told: dict[str, int], seconds: int | None) -> None:
    """A fifth of that is kept for what is under way."""
    made, _ = session()
    made._ends = None
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(SimpleNamespace(**told))
    await made._noted(answer)
    ends: float | None = vars(made)["_ends"]
    made.close()
    left = None if ends is None else ends - clock.boot()
    assert left == (None if seconds is None else pytest.approx(seconds, abs=0.5))


async def _failed_inside(group: str) -> None:
    """Let aiokafka fail everything that a producer can leave behind."""
    manager = TransactionManager("t", 1000)
    manager.set_pid_and_epoch(1, 0)
    manager.begin_transaction()
    manager.add_offsets_to_txn({}, group)
    manager.error_transaction(errors.ProducerFenced())
    manager.fatal_error(errors.ProducerFenced())
    builder = BatchBuilder(1000, 0)
    MessageBatch(TopicPartition("t", 0), builder, 1, 0).failure(errors.ProducerFenced())
    await asyncio.sleep(0)


async def test_futures_inside_aiokafka_complain_to_nobody() -> None:
    """A complaint that has passed through relay's code would end the process."""
    complete()
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    await _failed_inside("g")
    gc.collect()
    assert heard == []


def copies(topic: str, count: int, least: int | None) -> durability.Copies:
    return durability.Copies(topic=topic, count=count, least=least)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([copies("a", 3, 2), copies("b", 2, 2), copies("c", 5, 3)], []),
        # What cannot be read is not said to be wrong.
        ([copies("a", 3, None)], []),
        ([copies("a", 1, None), copies("b", 1, 1)], ["one copy only of a, b"]),
        ([copies("a", 3, 1)], ["min.insync.replicas is 1 of a"]),
        (
            [copies("a", 1, 1), copies("b", 3, 1), copies("c", 2, 1), copies("d", 3, 2)],
            ["one copy only of a", "min.insync.replicas is 1 of b, c"],
        ),
    ],
)
def test_topic_on_one_disk_is_named(found: list[durability.Copies], expected: list[str]) -> None:
    """One copy, or one that is enough for an acknowledgement."""
    assert expected == durability.frail(found)
