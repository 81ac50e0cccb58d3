"""What a Kafka can do, by the requests that its brokers know."""

from dataclasses import dataclass

from aiokafka import errors
from aiokafka.protocol.admin import ApiVersionRequest

from relay.egress.kafka.client import LEAST_VERSION, admin_client, too_old
from relay.errors import KafkaRefusedError, KafkaUnavailableError
from relay.settings import Delivery, Kafka

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


async def ask(settings: Kafka) -> Cluster:
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
