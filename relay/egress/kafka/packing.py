"""How records are packed and dated, and what Kafka's refusals teach of that.

Kafka refuses a produce batch as a whole and seldom says why, so what it refuses is sent otherwise:
smaller, dated anew, at last each record alone. It never decides that a record is given up.
"""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from relay.egress.kafka.faults import describe
from relay.errors import (
    BatchRefusedError,
    KafkaUnavailableError,
    RecordRefusedError,
    RecordTooLargeError,
)
from relay.events import Fate, Landing, Record
from relay.observe import clock

#: Bytes of one produce batch; a larger record travels alone, so that it can be refused alone.
BATCH_BYTES = 256 * 1024
#: A refused batch is cut into so many: 200 records are single ones at the fourth refusal.
_PARTS = 4
#: What a record bears whose time Kafka refuses whatever it is: Kafka's own word for none.
NO_TIME = -1
#: Milliseconds of age below which a refused time can only be one of the future.
_YOUNG = 1000
#: Seconds for which a refusal of a time is remembered: a clock or a topic may be repaired.
_MEMORY = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the brokers said of one produce batch."""

    topic: str
    #: Which of the records that were sent are in it.
    positions: Sequence[int]
    #: Milliseconds of age that its oldest record had, as it was dated.
    age: int
    fate: Fate
    #: What the client raised, unless it was accepted.
    error: BaseException | None = None
    partition: int = 0
    #: The offset of its first record; below zero if the broker has forgotten it.
    offset: int = -1


class Batch:
    """A batch for one partition, and which of the records to publish are in it."""

    __slots__ = ("_dates", "_now", "age", "builder", "most", "positions", "topic")

    def __init__(self, topic: str, builder: Any, dates: "_Dates", most: float) -> None:
        self.topic = topic
        self.builder = builder
        self.positions: list[int] = []
        self.age = 0
        #: How many records it may have.
        self.most = most
        self._dates = dates
        self._now = _now()

    def append(self, record: Record, position: int) -> bool:
        """Add a record, unless the batch is full."""
        date = self._dates.date(self.topic, record.timestamp, self._now)
        if len(self.positions) >= self.most or not self.builder.append(
            timestamp=date, key=record.key, value=record.value, headers=record.headers
        ):
            return False
        self.positions.append(position)
        if date != NO_TIME:
            self.age = max(self.age, self._now - date)
        return True


class _Dates:
    """Which time a record bears: its own, unless the topic has refused that; then now, then none.

    A topic may bound how old a record is (`message.timestamp.before.max.ms`), and bounds how far it
    is ahead (an hour, since Kafka 4.0), by a clock that need not be ours.
    """

    def __init__(self) -> None:
        #: By topic: milliseconds of age from which on a record is dated now, 0 if it gets no time,
        #: and the time of the boot clock at which that is forgotten.
        self._limits: dict[str, tuple[float, float]] = {}

    def date(self, topic: str, own: int, now: int) -> int:
        """Give the time for a record, in milliseconds of Unix time. Never one of the future."""
        if topic not in self._limits:
            return min(own, now)
        limit, end = self._limits[topic]
        if clock.boot() > end:
            del self._limits[topic]
            return min(own, now)
        if limit == 0:
            return NO_TIME
        return own if 0 <= now - own < limit else now

    def refused(self, topic: str, age: int) -> bool:
        """Learn that a batch whose oldest record has this age was refused; False: nothing helps."""
        limit, _ = self._limits.get(topic, (math.inf, math.inf))
        if limit == 0:
            return False
        # The bound is somewhere below that age.
        limit = min(limit, age / _PARTS) if age > _YOUNG else 0
        self._limits[topic] = limit, clock.boot() + _MEMORY
        return True


class Packing:
    """What one publisher knows of what its Kafka takes. It outlives its producers."""

    def __init__(self) -> None:
        self.batch_bytes = BATCH_BYTES
        self._dates = _Dates()
        #: Positions of records among which one was refused for good, and how many of them may go
        #: together.
        self._suspects: Collection[int] = ()
        self._most = 1

    def batch(self, topic: str, builder: Any, position: int) -> Batch:
        """Begin a batch with the record of this position."""
        most = self._most if position in self._suspects else math.inf
        return Batch(topic, builder, self._dates, most)

    def fits(self, batch: Batch, position: int) -> bool:
        """Whether the record may be in one batch with those: a suspect only with suspects."""
        return (position in self._suspects) == (batch.most != math.inf)

    def learn(self, deliveries: Sequence[Delivery]) -> list[Landing]:
        """Give where each record lies; raise unless all were accepted.

        What was refused is sent otherwise the next time.
        BatchRefusedError: try again at once. RecordTooLargeError, RecordRefusedError: these records
        were alone. Else what the broker said of the first one, and nothing is known.
        """
        failed = [one for one in deliveries if one.fate is not Fate.ACCEPTED]
        if not failed:
            self._suspects = ()
            return _landings(deliveries)
        # A refused batch lets later ones of its partition fail for their place in the order: what
        # is known to be refused counts first.
        self._date_anew([one for one in failed if one.fate is Fate.TIME_REFUSED])
        self._make_smaller([one for one in failed if one.fate is Fate.TOO_LARGE])
        self._set_apart([one for one in failed if one.fate is not Fate.UNKNOWN])
        raise failed[0].error or KafkaUnavailableError("a batch failed")

    def _date_anew(self, refused: Sequence[Delivery]) -> None:
        helped = {one.topic for one in refused if self._dates.refused(one.topic, one.age)}
        if helped:
            message = f"{', '.join(sorted(helped))}: the broker does not take the records' time"
            raise BatchRefusedError(message, Fate.TIME_REFUSED)

    def _make_smaller(self, refused: Sequence[Delivery]) -> None:
        if alone := _alone(refused):
            raise RecordTooLargeError(*alone, why="larger than the broker takes")
        if refused:
            self.batch_bytes = max(1, self.batch_bytes // _PARTS)
            message = f"{refused[0].topic}: the broker takes no batch of this size"
            raise BatchRefusedError(message, Fate.TOO_LARGE)

    def _set_apart(self, refused: Sequence[Delivery]) -> None:
        if alone := _alone(refused):
            raise RecordRefusedError(*alone, why=f"refused with {_why(refused)}")
        if refused:
            self._suspects = frozenset(place for one in refused for place in one.positions)
            self._most = max(len(one.positions) for one in refused) // _PARTS or 1
            message = f"{refused[0].topic}: refused with {_why(refused)}"
            raise BatchRefusedError(message, Fate.REFUSED)


def _landings(deliveries: Sequence[Delivery]) -> list[Landing]:
    """Put the offsets in the order of the records: in a produce batch they follow each other."""
    landings: list[Landing] = [None] * sum(len(one.positions) for one in deliveries)
    for one in deliveries:
        if one.offset >= 0:
            for offset, position in enumerate(one.positions, one.offset):
                landings[position] = (one.partition, offset)
    return landings


def _alone(refused: Sequence[Delivery]) -> list[int]:
    """Give the positions of records that were refused without company."""
    return [one.positions[0] for one in refused if len(one.positions) == 1]


def _why(refused: Sequence[Delivery]) -> str:
    return next((describe(one.error) for one in refused if one.error), "nothing")


def _now() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)
