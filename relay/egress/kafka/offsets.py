"""What Kafka keeps of a group: one offset, and the words that were committed with it.

aiokafka cannot ask for a stable offset, nor tell why there is none: the request is made here.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest_v3
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from relay.egress.kafka.client import LEAST_VERSION, OFFSET_FETCH, admin_client, too_old
from relay.errors import KafkaUnavailableError
from relay.settings import Kafka

#: Seconds between two questions while a transaction's end is not yet applied to the offset.
_UNSTABLE_WAIT = 0.02
_UNSTABLE_OFFSET_COMMIT = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The offset of a group in partition 0 of a topic; -1 if it has none."""

    offset: int
    metadata: str


class _Response7(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = OFFSET_FETCH
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _Request7(RequestStruct):  # type: ignore[misc]
    API_KEY = OFFSET_FETCH
    API_VERSION = 7
    RESPONSE_TYPE = _Response7
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _OffsetFetch(Request[OffsetFetchRequest_v3 | _Request7]):  # type: ignore[misc]
    """Version 7, or 3 for librdkafka's mock cluster, which shows no transaction's offset at all."""

    API_KEY = OFFSET_FETCH

    def __init__(self, group: str, topic: str, *, stable: bool) -> None:
        self._group, self._topic, self._stable = group, topic, stable

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """Refuse a broker that would give an offset that is none yet."""
        if too_old(versions):
            raise errors.IncompatibleBrokerVersion(f"Kafka is older than {LEAST_VERSION}")
        return super().prepare(versions)

    def build(self, request: type[Any]) -> Any:
        """Ask for partition 0."""
        if request.API_VERSION == OffsetFetchRequest_v3.API_VERSION:
            return request(self._group, [(self._topic, [0])])
        return request(self._group, [(self._topic, [0], {})], self._stable, {})


async def read(settings: Kafka, group: str, topic: str, *, stable: bool) -> Committed:
    """Ask the group's coordinator for its offset in the topic's partition 0.

    A stable one is what it will be once every transaction that holds it has come to its end; for
    that end this waits, as long as the caller lets it. Else it is the last one that was applied:
    before Kafka 4.0 an ended transaction's offset comes a moment late.
    """
    async with admin_client(settings) as admin:
        coordinator = await admin.find_coordinator(group)
        while True:
            request = _OffsetFetch(group, topic, stable=stable)
            found = told(await admin._send_request(request, coordinator))
            if found:
                return found
            await asyncio.sleep(_UNSTABLE_WAIT)


def told(answer: Any) -> Committed | None:
    """Read an answer; None says that a transaction holds the offset. Raises the broker's error.

    An answer without our partition is a failure, never "nothing is settled".
    """
    if answer.error_code:
        raise errors.for_code(answer.error_code)
    for _, partitions, *_ in answer.topics:
        for partition in partitions:
            offset, metadata, code = _fields(partition)
            if code == _UNSTABLE_OFFSET_COMMIT:
                return None
            if code:
                raise errors.for_code(code)
            return Committed(offset=int(offset), metadata=metadata or "")
    raise KafkaUnavailableError("Kafka is not available: the group's coordinator did not answer")


def _fields(partition: tuple[Any, ...]) -> tuple[int, str | None, int]:
    """Give offset, metadata and error of either version."""
    if len(partition) == len(("partition", "offset", "metadata", "error")):
        _, offset, metadata, code = partition
    else:
        _, offset, _, metadata, code, _ = partition
    return offset, metadata, code
