"""The consumers in `examples/`, fed by relay: killed in the middle, they count no message twice."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
from asyncio import to_thread
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests.e2e.process import ForkedRelay, Relay, until
from tests.kafka_server import Broker
from tests.oracle import TOKEN, Event, Seen, consume, signed_request
from tests.sdk.toolchains import EXAMPLES, Toolchain

#: Building for the first time takes minutes.
pytestmark = pytest.mark.timeout(900)

TYPE = "helpdesk.ticket_message.created_v1"
TICKETS, MESSAGES = 8, 240
#: Each has handled at least so many when it is killed.
BEGUN = 10
#: What a container engine says of a program that SIGTERM has ended, as Java says itself.
STOPPED = {0, 128 + signal.SIGTERM}
#: Seconds, with room for a busy machine; a killed member is missed after ten.
PATIENCE = 120

#: An error ends a consumer; on a busy machine, its group may have missed it for a while.
STARTS = 4

#: No line on stderr when the broker ends before its clients do.
_QUIET = {"log_level": 2}

#: By ticket: how many messages, who wrote the last one, and what.
State = dict[str, tuple[int, str, str]]


@dataclass
class Talk:
    """Messages of several tickets; one in six is older than the one that comes before it."""

    events: list[Event] = field(default_factory=list)
    state: State = field(default_factory=dict)

    @classmethod
    def invented(cls) -> "Talk":
        talk, newest = cls(), dict.fromkeys(range(TICKETS), 0)
        for number in range(MESSAGES):
            ticket = number % TICKETS
            late = number % 6 == 5 and newest[ticket] > 0
            made_at = newest[ticket] - 1 if late else 1_700_000_000_000 + number * 1000
            newest[ticket] = max(newest[ticket], made_at)
            talk._say(f"7{ticket:018}", number, made_at, late=late)
        return talk

    def _say(self, ticket_id: str, number: int, made_at: int, *, late: bool) -> None:
        sender, text = 2 + number % 2, f"请问 {number}"
        count, *last = self.state.get(ticket_id, (0, "", ""))
        if not late:
            last = ["guest" if sender == 2 else "agent", text]
        self.state[ticket_id] = (count + 1, last[0], last[1])
        event = {"ticket": {"ticket_id": ticket_id}, "sender_type": sender, "text": text}
        header = {
            "event_id": f"{ticket_id}-{number}",
            "event_type": TYPE,
            "create_time": str(made_at),
            "token": TOKEN,
            "tenant_key": "tenant",
            "app_id": "cli_examples",
        }
        body = orjson.dumps({"schema": "2.0", "header": header, "event": event})
        self.events.append(Event(event_id=header["event_id"], ticket_id=ticket_id, body=body))


class Consumer:
    """One example as a process, with a group and a database of its own."""

    def __init__(self, toolchain: Toolchain, place: Path, settings: Mapping[str, str]) -> None:
        self.language = toolchain.language
        self.group = f"{settings['TOPIC']}-{self.language}"
        self._command = toolchain.command()
        self._database, self._log = place / f"{self.language}.db", place / f"{self.language}.log"
        self._settings = {**settings, "GROUP": self.group, "DATABASE": str(self._database)}
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = False
        self._starts = 0

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | self._settings,
                cwd=self._database.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self, how: signal.Signals) -> int:
        """Send a signal, and give the exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(PATIENCE)

    def handled(self) -> set[str]:
        """Give the ids of the events that its database knows."""
        return {str(event_id) for (event_id,) in self._rows("SELECT id FROM handled")}

    def state(self) -> State:
        rows = self._rows("SELECT ticket_id, messages, last_sender, last_text FROM ticket")
        return {ticket: (count, sender, text) for ticket, count, sender, text in rows}

    def tend(self) -> None:
        """Start it again if it has ended, as systemd would; fail if that does not help."""
        assert self._process is not None
        if self._process.poll() is not None:
            self._starts += 1
            assert self._starts < STARTS, f"{self.language}: {self._log.read_text()[-2000:]}"
            self.start()

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        # A reader is in nobody's way from the moment on that there is a log of writes.
        if not self._begun and not self._database.with_name(f"{self._database.name}-wal").exists():
            return []
        self._begun = True
        with (
            contextlib.suppress(sqlite3.OperationalError),  # there is no table yet
            contextlib.closing(sqlite3.connect(self._database)) as database,
        ):
            return database.execute(query).fetchall()
        return []


class Groups:
    """What Kafka knows of the consumers' groups on one topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
        self._topic = topic
        self._places: list[TopicPartition] = []

    def ready(self) -> bool:
        """Say whether relay has made the topic."""
        metadata = self._admin.list_topics(timeout=30).topics.get(self._topic)
        found = metadata.partitions if metadata else ()
        self._places = [TopicPartition(self._topic, number) for number in found]
        return bool(self._places)

    def committed(self, group: str) -> dict[int, int]:
        """Give the committed offset of each partition; below zero if there is none."""
        asked = ConsumerGroupTopicPartitions(group, self._places)
        answer = self._admin.list_consumer_group_offsets([asked])[group].result(30)
        return {place.partition: place.offset for place in answer.topic_partitions}

    def empty(self, group: str) -> bool:
        """Say whether Kafka has noticed that the group's last member is gone."""
        found = self._admin.describe_consumer_groups([group])[group].result(30)
        return bool(found.state == ConsumerGroupState.EMPTY)

    def rewind(self, group: str) -> None:
        """Set it back to the first record: it has committed nothing."""
        first = [TopicPartition(place.topic, place.partition, 0) for place in self._places]
        asked = ConsumerGroupTopicPartitions(group, first)
        self._admin.alter_consumer_group_offsets([asked])[group].result(30)


def abort(bootstrap: str, topic: str, ids: Sequence[str]) -> None:
    """Leave records in the topic that only those see who read uncommitted."""
    settings = {"bootstrap.servers": bootstrap, "transactional.id": f"{topic}-aborted"}
    producer = Producer({**settings, **_QUIET})
    producer.init_transactions(30)
    producer.begin_transaction()
    for name in ids:
        headers = {"ce_id": name, "ce_source": "/feishu/aborted", "ce_type": f"com.feishu.{TYPE}"}
        for partition in range(3):
            producer.produce(
                topic,
                orjson.dumps({"data": {}, "event": {}}),
                b"7",
                partition,
                headers=list(headers.items()),
            )
    producer.flush(30)
    producer.abort_transaction(30)


async def feed(relay: Relay, events: Sequence[Event], pause: float = 0) -> None:
    """Play Feishu: one after the other, so that their order is known; seconds in between."""
    rng = random.Random(14)
    async with aiohttp.ClientSession() as session:
        for event in events:
            body, headers = signed_request(event, rng)
            async with session.post(relay.url, data=body, headers=headers) as answer:
                assert answer.status == 200
            await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def running(
    toolchains: Sequence[Toolchain], place: Path, settings: Mapping[str, str]
) -> AsyncIterator[list[Consumer]]:
    consumers = [await to_thread(Consumer, one, place, settings) for one in toolchains]
    for one in consumers:
        one.start()
    try:
        yield consumers
    finally:
        for one in consumers:
            one.end(signal.SIGKILL)


@pytest.fixture
def toolchains() -> Sequence[Toolchain]:
    """Leave out at home what cannot be built; CI has everything."""
    there = [one for one in EXAMPLES if not one.missing()]
    assert len(there) == len(EXAMPLES) or not os.environ.get("CI"), "CI has not all the tools"
    return there


async def test_each_event_is_handled_once_over_a_kill(
    kafka: Broker, toolchains: Sequence[Toolchain], tmp_path: Path, topic_prefix: str
) -> None:
    """With late events and an aborted transaction on the topic.

    No kill hits the moment between the database's commit and Kafka's in all languages. So after it
    the groups are set back, as if it had: all that was handled comes once more.
    """
    talk, topic = Talk.invented(), f"{topic_prefix}helpdesk.ticket_message"
    half = len(talk.events) // 2
    settings = {"BOOTSTRAP_SERVERS": kafka.bootstrap, "TOPIC": topic}
    async with ForkedRelay(tmp_path / "relay", kafka.bootstrap, topic_prefix) as relay:
        await relay.serving()
        groups = Groups(kafka.bootstrap, topic)
        await until(partial(to_thread, groups.ready), PATIENCE, "there is the topic")
        async with running(toolchains, tmp_path, settings) as consumers:
            feeding = asyncio.create_task(feed(relay, talk.events[:half], pause=0.05))

            async def begun() -> bool:
                for one in consumers:
                    one.tend()
                return all(len(one.handled()) >= BEGUN for one in consumers)

            await until(begun, PATIENCE, "each has begun")
            for one in consumers:
                one.end(signal.SIGKILL)
            await feeding
            await to_thread(abort, kafka.bootstrap, topic, ["aborted-1", "aborted-2"])
            await relay.drained()
            records = await consume(kafka.bootstrap, topic)
            for one in consumers:
                nothing_lost(records, await to_thread(groups.committed, one.group), one.handled())
                await until(partial(to_thread, groups.empty, one.group), PATIENCE, "it is missed")
                await to_thread(groups.rewind, one.group)
                one.start()
            await feed(relay, talk.events[half:])
            await relay.drained()
            records = await consume(kafka.bootstrap, topic)
            expected = {record.event_id for record in records}
            assert expected == {event.event_id for event in talk.events}

            async def committed() -> bool:
                for one in consumers:
                    one.tend()
                found = [await to_thread(groups.committed, one.group) for one in consumers]
                return all(below(records, offsets) == expected for offsets in found)

            await until(committed, PATIENCE, "each has committed everything")
            assert {one.end(signal.SIGTERM) for one in consumers} <= STOPPED
            for one in consumers:
                assert expected == one.handled(), one.language
                assert talk.state == one.state(), one.language


def below(records: Sequence[Seen], offsets: Mapping[int, int]) -> set[str]:
    """Give the ids of the records that a group has committed."""
    return {one.event_id for one in records if one.offset < offsets.get(one.partition, -1)}


def nothing_lost(records: Sequence[Seen], committed: Mapping[int, int], handled: set[str]) -> None:
    """A record is committed after its work, so what is committed was handled."""
    assert not below(records, committed) - handled
