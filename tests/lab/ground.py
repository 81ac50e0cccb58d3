"""What one lab stands on for all its seeds: brokers, and a proxy before each for each replica."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.kafka_server import USUAL, KafkaServer, Listener
from tests.lab.proxy import Proxy
from tests.ports import free_port

#: Three brokers: every topic on all of them, and two must have a record.
_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}

#: A broker that cuts each connection that has not logged in again for so long, and who may.
_ASKED_AGAIN = {
    "sasl.enabled.mechanisms": "PLAIN",
    "plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'user_relay="not-a-secret";'
    ),
    "plain.connections.max.reauth.ms": "5000",
}
_LOGIN = {
    "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA__SASL_MECHANISM": "PLAIN",
    "KAFKA__SASL_USERNAME": "relay",
    "KAFKA__SASL_PASSWORD": "not-a-secret",
}


@dataclass(frozen=True, slots=True)
class Door:
    """Where a replica finds a broker: the proxy's port and the broker's own."""

    port: int
    listener: str


class Ground:
    """One broker or three."""

    def __init__(
        self, brokers: int, replicas: int, version: str = USUAL, *, reauthentication: bool = False
    ) -> None:
        """`reauthentication`: replicas log in, and the brokers want that again every 5 s."""
        #: What a replica needs to be let in, as variables without RELAY_.
        self.login = _LOGIN if reauthentication else {}
        protocol = "SASL_PLAINTEXT" if reauthentication else "PLAINTEXT"
        properties = _ASKED_AGAIN if reauthentication else {}
        self._doors = [
            [Door(free_port(), f"LAB{replica}") for replica in range(replicas)]
            for _ in range(brokers)
        ]
        self.brokers = [
            KafkaServer(
                version=version,
                listeners=[
                    Listener(
                        name=door.listener,
                        protocol=protocol,
                        properties=properties,
                        advertised_port=door.port,
                    )
                    for door in doors
                ],
            )
            for doors in self._doors
        ]
        if brokers > 1:
            self._make_cluster()

    def _make_cluster(self) -> None:
        voters = ",".join(
            f"{node}@{broker.address('CONTROLLER')}" for node, broker in enumerate(self.brokers, 1)
        )
        for node, broker in enumerate(self.brokers, 1):
            broker.properties |= {
                **_REPLICATED,
                "node.id": str(node),
                "controller.quorum.voters": voters,
            }

    def __enter__(self) -> Self:
        """Start them at once: they wait for one another."""
        failures: list[Exception] = []

        def start(broker: KafkaServer) -> None:
            try:
                broker.start(120)
            except Exception as error:  # noqa: BLE001 - raised again where it is seen
                failures.append(error)

        threads = [threading.Thread(target=start, args=(broker,)) for broker in self.brokers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            self.__exit__(None, None, None)
            raise failures[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for broker in self.brokers:
            broker.stop()

    @property
    def bootstrap(self) -> str:
        """The brokers themselves, for who compares at the end."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def seen_by(self, replica: int) -> str:
        """The brokers as a replica sees them."""
        return ",".join(f"127.0.0.1:{doors[replica].port}" for doors in self._doors)

    def proxies(self, replica: int) -> Sequence[Proxy]:
        """Make the proxies of a replica, not yet started."""
        return [
            Proxy(doors[replica].port, int(broker.address(doors[replica].listener).split(":")[1]))
            for doors, broker in zip(self._doors, self.brokers, strict=True)
        ]
