"""A real Redis Cluster for tests, whose slots are moved by hand, one step at a time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from tests.ports import free_port
from tests.redis_server import redis_server

SLOTS = 16_384


@dataclass(frozen=True)
class Node:
    """One server of a cluster."""

    port: int
    client: Redis

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        return self.call("CLUSTER", "MYID").decode()

    def call(self, *words: object) -> bytes:
        """Send one command; give its answer as it came."""
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call, no-any-return]  # the library lacks it


@dataclass(frozen=True)
class Cluster:
    """Some nodes that share the slots, and one that has none."""

    nodes: Sequence[Node]
    empty: Node

    @property
    def url(self) -> str:
        """Where a client begins: with one node."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def slot(self, key: str) -> int:
        """Give the slot of a key."""
        return int(self.nodes[0].call("CLUSTER", "KEYSLOT", key))

    def owner(self, slot: int) -> Node:
        """Give the node that has a slot, as the nodes were made."""
        return self.nodes[slot * len(self.nodes) // SLOTS]

    def move(self, slot: int) -> Iterator[str]:
        """Move a slot to the empty node; give a name for each state on the way."""
        source, target = self.owner(slot), self.empty
        yield "at rest"
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        yield "migrating"
        self._move_keys(slot, at_most=1)
        yield "one key moved"
        self._move_keys(slot, at_most=1000)
        yield "keys moved"
        target.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        self._move_keys(slot, at_most=1000)
        yield "target told"
        source.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        yield "source told"

    def _move_keys(self, slot: int, at_most: int) -> None:
        source = self.owner(slot)
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, at_most)
        if keys:
            place = ("127.0.0.1", self.empty.port, "", 0, 5000)
            source.call("MIGRATE", *place, "KEYS", *keys)


@contextmanager
def redis_cluster(directory: Path, sharing: int = 2) -> Iterator[Cluster]:
    """Run a cluster of so many nodes that share the slots, and an empty one."""
    with ExitStack() as stack:
        nodes, buses = [], []
        for n in range(sharing + 1):
            place, bus = directory / f"node-{n}", free_port()
            place.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            server = stack.enter_context(redis_server(place, *options))
            client = stack.enter_context(Redis(port=server.port))
            node = Node(server.port, client)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            nodes.append(node)
            buses.append(bus)
        for n, node in enumerate(nodes[:sharing]):
            first, last = SLOTS * n // sharing, SLOTS * (n + 1) // sharing - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + 30
        while not all(_whole(node, len(nodes)) for node in nodes):
            assert time.monotonic() < deadline, "the cluster's nodes do not find each other"
            time.sleep(0.05)
        yield Cluster(nodes[:sharing], nodes[sharing])


def _whole(node: Node, count: int) -> bool:
    info = node.call("CLUSTER", "INFO")
    known = f"cluster_known_nodes:{count}".encode()
    told = b"cluster_slots_ok:16384" in info
    return known in info and told and b"cluster_state:ok" in info
