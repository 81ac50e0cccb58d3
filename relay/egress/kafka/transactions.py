"""How the last transaction under a name has ended, by its coordinator's word.

Kafka 4.3 and 4.4 forget to tell a topic that has no leader at that moment, as after a broker's
start: there the transaction stays open, and the next one of the same name decides over it. aiokafka
has no such request: it is made here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiokafka import errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from relay.egress.kafka.client import admin_client
from relay.settings import Kafka

_DESCRIBE_TRANSACTIONS = 65
_TRANSACTIONAL_ID_NOT_FOUND = 105
#: What FindCoordinator calls a transaction's coordinator.
_OF_TRANSACTIONS = 1


class End(StrEnum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    #: It is not over.
    OPEN = "open"
    #: There was none, or nobody knows any more.
    UNKNOWN = "unknown"


_ENDS = {
    "PrepareCommit": End.COMMITTED,
    "CompleteCommit": End.COMMITTED,
    "PrepareAbort": End.ABORTED,
    "CompleteAbort": End.ABORTED,
    "PrepareEpochFence": End.ABORTED,
    "Ongoing": End.OPEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last transaction under a name, and who has it: a producer's id and epoch."""

    end: End = End.UNKNOWN
    producer: tuple[int, int] = (-1, -1)

    def fenced_by(self, producer: tuple[int, int]) -> End:
        """Say how it has ended once the next producer of the name is there.

        An open one is aborted for it under an epoch between the two. If there is none between, it
        came to its own end before that, and relay ends what it keeps by a commit only.
        """
        if self.end is not End.OPEN:
            return self.end
        (before, epoch), (after, following) = self.producer, producer
        return End.COMMITTED if (after, following) == (before, epoch + 1) else End.ABORTED


class _Response(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = _DESCRIBE_TRANSACTIONS
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transaction_states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("transaction_state", CompactString("utf-8")),
                ("transaction_timeout_ms", Int32),
                ("transaction_start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Request(RequestStruct):  # type: ignore[misc]
    API_KEY = _DESCRIBE_TRANSACTIONS
    API_VERSION = 0
    RESPONSE_TYPE = _Response
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("transactional_ids", CompactArray(CompactString("utf-8"))),
        ("tags", TaggedFields),
    )


class _DescribeTransactions(Request[_Request]):  # type: ignore[misc]
    API_KEY = _DESCRIBE_TRANSACTIONS

    def __init__(self, transactional_id: str) -> None:
        self._transactional_id = transactional_id

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """Refuse a broker that does not know it: older than Kafka 3.0, or none of Apache's."""
        if _DESCRIBE_TRANSACTIONS not in versions:
            raise errors.IncompatibleBrokerVersion("no DescribeTransactions")
        return super().prepare(versions)

    def build(self, request: type[Any]) -> Any:
        """Ask for the one."""
        return request([self._transactional_id], {})


async def last(settings: Kafka, transactional_id: str) -> Last:
    """Ask the coordinator for the last transaction under the name. Raises the broker's error."""
    async with admin_client(settings) as admin:
        coordinator = await admin.find_coordinator(transactional_id, _OF_TRANSACTIONS)
        try:
            answer = await admin._send_request(_DescribeTransactions(transactional_id), coordinator)
        except errors.IncompatibleBrokerVersion:
            return Last()
    return told(answer)


def told(answer: Any) -> Last:
    """Read an answer; a name that is not known has no transaction."""
    for code, _, state, _, _, producer_id, epoch, *_ in answer.transaction_states:
        if code == _TRANSACTIONAL_ID_NOT_FOUND:
            return Last()
        if code:
            raise errors.for_code(code)
        return Last(end=_ENDS.get(state, End.UNKNOWN), producer=(producer_id, epoch))
    raise errors.CoordinatorNotAvailableError
