"""What relay needs of a Kafka: brokers that can do it, and topics, which it makes."""

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import ApiVersionRequest

from relay.egress.kafka.client import LEAST_VERSION, admin_client, too_old
from relay.errors import KafkaRefusedError, KafkaUnavailableError, TopicMissingError
from relay.settings import Delivery, Kafka
from relay.settings.topics import JOURNAL

#: How many copies must have a record before it is acknowledged to `acks=all`, as Kafka names it.
LEAST_IN_SYNC = "min.insync.replicas"
_FACTOR = "default.replication.factor"
#: With so many copies one may be away, and two still have to have each record.
MANY_COPIES, _SAFE = 3, 2
#: InitProducerId; AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit.
_IDEMPOTENCE, _TRANSACTIONS = {22}, {22, 24, 25, 26, 28}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Some brokers, and what all of them can do."""

    brokers: int
    idempotence: bool
    transactions: bool

    def __str__(self) -> str:
        return f"{self.brokers} broker(s), which can do {self._delivery()}"

    def _delivery(self) -> str:
        if self.transactions:
            return "exactly-once"
        lacking = "no transactions" if self.idempotence else "no idempotent producer either"
        return f"at-least-once: they know {lacking}"


async def ask_brokers(settings: Kafka) -> Cluster:
    """Ask each of the cluster's brokers what it is, where the cluster says that it is.

    Raises KafkaRefusedError if one is too old for transactions that relay can read back, or knows
    none; KafkaUnavailableError if one cannot be reached.
    """
    exactly_once = settings.delivery is Delivery.EXACTLY_ONCE
    async with admin_client(settings) as admin:
        brokers = (await admin.describe_cluster())["brokers"]
        common = _TRANSACTIONS
        for broker in brokers:
            where = f"{broker['host']}:{broker['port']}"
            try:
                answer = await admin._send_request(ApiVersionRequest(), broker["node_id"])
            except errors.KafkaError as error:
                raise KafkaUnavailableError(f"the broker {where} does not answer") from error
            known = {key: (least, most) for key, least, most in answer.api_versions}
            if exactly_once and too_old(known):
                raise KafkaRefusedError(f"the broker {where} is older than Kafka {LEAST_VERSION}")
            common = common & known.keys()
    cluster = Cluster(
        brokers=len(brokers),
        idempotence=common >= _IDEMPOTENCE,
        transactions=common >= _TRANSACTIONS,
    )
    if exactly_once and not cluster.transactions:
        raise KafkaRefusedError(f'{cluster}; set kafka.delivery = "at-least-once"')
    return cluster


def journal_topic(settings: Kafka) -> str:
    """Name the topic under which Kafka keeps how far each journal is settled; it has no records."""
    return settings.topic_prefix + JOURNAL


def _own(settings: Kafka) -> dict[str, int]:
    """Name relay's own topic: without transactions nothing is kept there."""
    return {journal_topic(settings): 1} if settings.delivery is Delivery.EXACTLY_ONCE else {}


async def absent(settings: Kafka, topics: Iterable[str]) -> list[str]:
    """Name those of the topics, and of relay's own, that Kafka does not have."""
    async with admin_client(settings) as admin:
        return await _absent(admin, {*topics, *_own(settings)})


async def _absent(admin: AIOKafkaAdminClient, wanted: Iterable[str]) -> list[str]:
    return sorted(set(wanted) - set(await admin.list_topics()))


async def ensure(settings: Kafka, topics: Iterable[str]) -> None:
    """Create what is missing if that is allowed; raises KafkaRefusedError that names the rest."""
    wanted = dict.fromkeys(topics, settings.partitions) | _own(settings)
    async with admin_client(settings) as admin:
        names = await _absent(admin, wanted)
        if not names:
            return
        if not settings.create_topics:
            raise TopicMissingError(missing(names, "kafka.create_topics is off"))
        await _create(admin, settings, {name: wanted[name] for name in names})


async def _create(admin: AIOKafkaAdminClient, settings: Kafka, partitions: dict[str, int]) -> None:
    try:
        factor, config = await _safety(admin, settings)
        answer = await admin.create_topics(
            [
                NewTopic(name, count, factor, topic_configs=config)
                for name, count in partitions.items()
            ]
        )
    except (errors.IncompatibleBrokerVersion, AttributeError):
        # librdkafka's mock cluster has no controller, which aiokafka meets with AttributeError; it
        # makes each topic that is asked for.
        await admin.describe_topics(list(partitions))
        return
    for name, code, *words in answer.topic_errors:
        error = errors.for_code(code)
        if error not in {errors.NoError, errors.TopicAlreadyExistsError}:
            why = ": ".join([error.__name__, *filter(None, words)])
            raise TopicMissingError(missing([name], f"creating it failed: {why}"))


async def _safety(admin: AIOKafkaAdminClient, settings: Kafka) -> tuple[int, dict[str, str]]:
    """Say how many copies a new topic has, and what else is set for it.

    Where there are enough copies, an acknowledgement rests on two of them: the default is one.
    """
    factor, config = settings.replication_factor, dict(settings.topic_config)
    if factor >= MANY_COPIES or factor <= 0:
        defaults = await _broker_defaults(admin)
        if factor <= 0:
            factor = int(defaults.get(_FACTOR, 0))
        if factor <= 0:
            message = "the broker's default replication factor cannot be read; set it"
            raise KafkaRefusedError(message)
        if factor >= MANY_COPIES and int(defaults.get(LEAST_IN_SYNC, 1)) < _SAFE:
            config.setdefault(LEAST_IN_SYNC, str(_SAFE))
    return factor, config


async def _broker_defaults(admin: AIOKafkaAdminClient) -> dict[str, str]:
    """Read what a broker sets where nobody says otherwise; nothing without the right to."""
    cluster = await admin.describe_cluster()
    broker = ConfigResource(ConfigResourceType.BROKER, str(cluster["brokers"][0]["node_id"]))
    return {
        name: value
        for response in await admin.describe_configs([broker])
        for *_, entries in response.resources
        for name, value, *_ in entries
        if name in {_FACTOR, LEAST_IN_SYNC} and value
    }


def missing(topics: list[str], why: str) -> str:
    """Name topics that Kafka does not have."""
    return f"missing in Kafka: {', '.join(topics)} ({why})"
