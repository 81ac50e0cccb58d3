"""A Kafka broker inside this process, for development and tests: librdkafka's mock cluster.

It speaks the real protocol on loopback, keeps everything in memory and forgets it at the end. It
must never carry an event that matters.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from relay.errors import BrokerError

#: Seconds.
_START_LIMIT = 10


class EmbeddedBroker:
    """A context manager; inside of it, `bootstrap` is the broker's address.

    What librdkafka's mock cluster does and does not, seen with confluent-kafka 2.16:

    - Topics come to be when a client asks for the metadata of a name, always with 4 partitions.
      CreateTopics is not served (aiokafka's admin client fails with AttributeError, for lack of a
      controller); `create_topics` is the way.
    - Transactions commit, but nothing hides an aborted one: its records stay readable, also for
      consumers that read committed.
    - The markers that end a transaction carry no valid checksum: an aiokafka consumer stops at
      the first, unless it is made with `check_crcs=False`.
    - An offset committed in a transaction never shows.
    """

    def __init__(self) -> None:
        #: `127.0.0.1:port`; empty outside of the context.
        self.bootstrap = ""
        self._cluster: Any = None

    def __enter__(self) -> Self:
        """Start it; takes milliseconds. Raises BrokerError where it cannot run."""
        try:
            from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - optional
        except ImportError:
            raise BrokerError(
                "The embedded broker needs a package more: pip install confluent-kafka; "
                "or name a real broker in RELAY_KAFKA__BOOTSTRAP_SERVERS."
            ) from None
        options = {"test.mock.num.brokers": 1, "bootstrap.servers": "replaced", "log_level": 0}
        try:
            self._cluster = Producer(options)
            brokers = self._cluster.list_topics(timeout=_START_LIMIT).brokers
        except KafkaException as error:
            raise BrokerError(f"The embedded broker does not start: {error}") from error
        broker = next(iter(brokers.values()))
        self.bootstrap = f"{broker.host}:{broker.port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it; the cluster lives as long as the client that owns it."""
        self._cluster = None
        self.bootstrap = ""

    def create_topics(self, names: Iterable[str]) -> None:
        """Make topics of 4 partitions each; those that exist stay as they are."""
        for name in names:
            self._cluster.list_topics(topic=name, timeout=_START_LIMIT)
