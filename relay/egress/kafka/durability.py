"""On how many disks rests what Kafka has acknowledged? Reads, and changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from relay.egress.kafka.client import admin_client
from relay.egress.kafka.topics import LEAST_IN_SYNC, journal_topic
from relay.settings import Delivery, Kafka

#: Where Kafka keeps transactions, and the offsets in them: the journal's place.
_OF_TRANSACTIONS = ("__transaction_state", "__consumer_offsets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Of a topic."""

    topic: str
    #: The fewest that one of its partitions has.
    count: int
    #: How many must have a record before it is acknowledged; None: that cannot be read.
    least: int | None


def frail(found: Iterable[Copies]) -> list[str]:
    """Name the topics of which the death of one broker could lose what was acknowledged."""
    single = [topic.topic for topic in found if topic.count == 1]
    thin = [topic.topic for topic in found if topic.count > 1 and topic.least == 1]
    named = {"one copy only": single, f"{LEAST_IN_SYNC} is 1": thin}
    return [f"{why} of {', '.join(names)}" for why, names in named.items() if names]


async def copies(settings: Kafka, topics: Iterable[str]) -> list[Copies]:
    """Look at the topics, at relay's own, and with transactions at Kafka's; those that are there.

    Raises aiokafka's errors.
    """
    wanted = set(topics)
    if settings.delivery is Delivery.EXACTLY_ONCE:
        wanted.update(_OF_TRANSACTIONS, {journal_topic(settings)})
    async with admin_client(settings) as admin:
        # Of all topics: to ask for one by name could make it.
        found = {
            topic["topic"]: min(len(partition["replicas"]) for partition in topic["partitions"])
            for topic in await admin.describe_topics()
            if topic["topic"] in wanted and topic["partitions"]
        }
        least = await _least_in_sync(admin, found)
    return [
        Copies(topic=name, count=count, least=least.get(name))
        for name, count in sorted(found.items())
    ]


async def _least_in_sync(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, int]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    answers: list[Any] = await admin.describe_configs(resources) if resources else []
    return {
        topic: int(value)
        for answer in answers
        for _, _, _, topic, entries in answer.resources
        for name, value, *_ in entries
        if name == LEAST_IN_SYNC and value
    }
