"""What Kafka's refusals teach: dated anew, smaller, apart; without a Kafka."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import errors

from relay.egress.kafka import packing as packing_module
from relay.egress.kafka.faults import InvalidRecordError, complete, fate_of
from relay.egress.kafka.packing import BATCH_BYTES, NO_TIME, Batch, Delivery, Packing
from relay.errors import (
    BatchRefusedError,
    KafkaUnavailableError,
    RecordRefusedError,
    RecordTooLargeError,
)
from relay.events import Fate, Outcome, Record
from relay.observe import clock

NOW = 1_767_323_045_678
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_module, "_now", lambda: NOW)


class Builder:
    """Takes everything, and remembers the times."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def append(self, **record: Any) -> bool:
        self.times.append(record["timestamp"])
        return True


def record(timestamp: int, topic: str = "t") -> Record:
    return Record(
        outcome=Outcome.PUBLISHED,
        topic=topic,
        key=b"k",
        value=b"v",
        headers=[],
        timestamp=timestamp,
    )


def test_each_record_lies_behind_the_one_before_in_its_produce_batch() -> None:
    """Whatever the order of the answers; a broker may have forgotten an offset."""

    def taken(partition: int, offset: int, *positions: int) -> Delivery:
        return Delivery(
            topic="t",
            positions=positions,
            age=0,
            fate=Fate.ACCEPTED,
            partition=partition,
            offset=offset,
        )

    answers = [taken(3, 40, 0, 2, 5), taken(1, 0, 1, 3), taken(3, -1, 4)]
    assert Packing().learn(answers) == [(3, 40), (1, 0), (3, 41), (1, 1), None, (3, 42)]
    assert Packing().learn([]) == []


def packed(packing: Packing, ages: Sequence[int], topic: str = "t") -> tuple[list[int], Batch]:
    """Pack records of these ages into one batch; give the ages that they bear."""
    builder = Builder()
    batch = packing.batch(topic, builder, 0)
    for position, age in enumerate(ages):
        assert batch.append(record(NOW - age, topic), position)
    return [NO_TIME if one == NO_TIME else NOW - one for one in builder.times], batch


def delivery(batch: Batch, fate: Fate, error: BaseException | None = None) -> Delivery:
    return Delivery(
        topic=batch.topic, positions=batch.positions, age=batch.age, fate=fate, error=error
    )


def apart(positions: Sequence[int], fate: Fate) -> Delivery:
    return Delivery(topic="t", positions=positions, age=0, fate=fate, error=OSError("x"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, Fate.ACCEPTED),
        (errors.MessageSizeTooLargeError(), Fate.TOO_LARGE),
        (errors.RecordListTooLargeError(), Fate.TOO_LARGE),
        (errors.InvalidTimestampError(), Fate.TIME_REFUSED),
        (InvalidRecordError(), Fate.REFUSED),
        (errors.CorruptRecordException(), Fate.REFUSED),
        (errors.NotLeaderForPartitionError(), Fate.UNKNOWN),
        (errors.TopicAuthorizationFailedError(), Fate.UNKNOWN),
        (errors.ProducerFenced(), Fate.UNKNOWN),
        (OSError(), Fate.UNKNOWN),
    ],
)
def test_fate_is_told(error: BaseException | None, expected: Fate) -> None:
    assert fate_of(error) is expected


def test_error_that_aiokafka_does_not_know_is_known() -> None:
    complete()
    complete()
    assert errors.for_code(87) is InvalidRecordError


def test_time_is_the_records_own_and_never_of_the_future() -> None:
    assert packed(Packing(), [0, 5, 400 * 24 * HOUR, -HOUR])[0] == [0, 5, 400 * 24 * HOUR, 0]


@pytest.mark.parametrize("bound", [2000, 90_000, HOUR, 7 * 24 * HOUR])
@pytest.mark.parametrize("oldest", [3 * HOUR, 400 * 24 * HOUR])
def test_what_is_too_old_is_dated_now_after_few_refusals(bound: int, oldest: int) -> None:
    """And what is fresh keeps its time; of another topic, everything does."""
    packing, refusals = Packing(), 0
    while True:
        ages, batch = packed(packing, [oldest, oldest // 2, 100])
        if max(ages) <= bound:
            break
        with pytest.raises(BatchRefusedError) as caught:
            packing.learn([delivery(batch, Fate.TIME_REFUSED)])
        assert caught.value.fate is Fate.TIME_REFUSED
        refusals += 1
    assert refusals <= 13
    if oldest > bound:
        assert ages[0] == 0
    assert ages[2] == 100
    assert packed(packing, [oldest], "other")[0] == [oldest]


def test_record_whose_time_is_refused_whatever_it_is_bears_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our clock is ahead of the broker's; in ten minutes it may be right."""
    packing = Packing()
    _, batch = packed(packing, [0, 20])
    with pytest.raises(BatchRefusedError):
        packing.learn([delivery(batch, Fate.TIME_REFUSED)])
    ages, batch = packed(packing, [0, 20, HOUR])
    assert ages == [NO_TIME] * 3
    with pytest.raises(BatchRefusedError) as caught:
        packing.learn([delivery(batch, Fate.TIME_REFUSED)])
    assert caught.value.fate is Fate.REFUSED, "it can be nothing but the records"
    packing.learn([apart([0], Fate.ACCEPTED)])
    later = clock.boot() + 601
    monkeypatch.setattr(clock, "boot", lambda: later)
    assert packed(packing, [0, 20, HOUR])[0] == [0, 20, HOUR]


def test_too_large_batch_is_made_smaller_until_a_record_is_alone() -> None:
    packing = Packing()
    for n in range(1, 4):
        with pytest.raises(BatchRefusedError) as caught:
            packing.learn([apart([0], Fate.ACCEPTED), apart([1, 2, 3], Fate.TOO_LARGE)])
        assert caught.value.fate is Fate.TOO_LARGE
        assert packing.batch_bytes == BATCH_BYTES // 4**n
    with pytest.raises(RecordTooLargeError) as large:
        packing.learn([apart([1, 2], Fate.TOO_LARGE), apart([3], Fate.TOO_LARGE)])
    assert large.value.positions == (3,)


def test_refused_record_is_found_among_others() -> None:
    """The others of its batch go with fewer, and those of other batches as ever."""
    packing = Packing()
    bad, count, refusals = {70, 71}, 200, 0
    while True:
        sizes: list[Delivery] = []
        batch = packing.batch("t", Builder(), 0)
        batches = [batch]
        for position in range(count):
            if not (packing.fits(batch, position) and batch.append(record(NOW), position)):
                batch = packing.batch("t", Builder(), position)
                assert batch.append(record(NOW), position)
                batches.append(batch)
        for one in batches:
            fate = Fate.REFUSED if bad & set(one.positions) else Fate.ACCEPTED
            sizes.append(delivery(one, fate, InvalidRecordError()))
        with pytest.raises((BatchRefusedError, RecordRefusedError)) as caught:
            packing.learn(sizes)
        if isinstance(caught.value, RecordRefusedError):
            assert set(caught.value.positions) == bad
            break
        assert isinstance(caught.value, BatchRefusedError)
        refusals += 1
    assert refusals <= 4
    packing.learn([apart([0], Fate.ACCEPTED)])
    assert packing.fits(packing.batch("t", Builder(), 0), 70), "what went well is suspect no more"


def test_known_refusal_counts_before_what_it_has_caused() -> None:
    """After a refused batch the broker misses its place in the order of the partition."""
    packing, gap = Packing(), errors.OutOfOrderSequenceNumber()
    unknown = Delivery(topic="t", positions=[2], age=0, fate=Fate.UNKNOWN, error=gap)
    with pytest.raises(RecordTooLargeError):
        packing.learn([unknown, apart([1], Fate.TOO_LARGE)])
    with pytest.raises(errors.OutOfOrderSequenceNumber):
        packing.learn([unknown, apart([1], Fate.ACCEPTED)])
    nothing = Delivery(topic="t", positions=[2], age=0, fate=Fate.UNKNOWN)
    with pytest.raises(KafkaUnavailableError):
        packing.learn([nothing])
