"""What Kafka keeps of a group: one offset, and the words that were committed with it."""

from dataclasses import dataclass

from aiokafka import TopicPartition

from relay.egress.kafka.client import admin_client
from relay.errors import KafkaUnavailableError
from relay.settings import Kafka


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The offset of a group in partition 0 of a topic; -1 if it has none."""

    offset: int
    metadata: str


async def read(settings: Kafka, group: str, topic: str) -> Committed:
    """Ask the group's coordinator for its offset in the topic's partition 0."""
    place = TopicPartition(topic, 0)
    async with admin_client(settings) as admin:
        offsets = await admin.list_consumer_group_offsets(group, partitions=[place])
    if place not in offsets:
        # aiokafka drops the group's error code: an answer without our partition is a failure.
        message = "Kafka is not available: the group's coordinator did not answer"
        raise KafkaUnavailableError(message)
    found = offsets[place]
    return Committed(offset=int(found.offset), metadata=str(found.metadata or ""))
