"""`relay check` in this process: everything it looks at, as it is and as it should not be."""

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.cluster import ClusterMetadata

from relay import settings
from relay.claims.claims import Claims
from relay.cli import check
from relay.cli import claims as claims_command
from relay.cli.check import Finding, findings
from relay.contract.normalize import Router
from relay.egress.kafka import durability, topics
from relay.errors import ClaimsError
from relay.journal import view as journalview
from relay.journal.disk import mounts, volume
from relay.journal.retention import Retention
from relay.journal.rows.claimed import Claimed
from relay.observe.metrics import Metrics
from tests.fakes import as_json, event, journal_at, payload
from tests.ports import free_port
from tests.redis_server import redis_server
from tests.unit.test_old_journals import KEPT


@pytest.fixture
def look(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., settings.Settings]:
    """Give settings that will do, but for what a test changes."""

    def load(**changes: str) -> settings.Settings:
        usual = {
            "APPS__DEFAULT__VERIFICATION_TOKEN": "t",
            "KAFKA__BOOTSTRAP_SERVERS": embedded_kafka,
            "KAFKA__TOPIC_PREFIX": topic_prefix,
            "KAFKA__TIMEOUT": "5s",
            "JOURNAL__PATH": str(tmp_path / "journal.db"),
        }
        for name, value in (usual | changes).items():
            monkeypatch.setenv(f"RELAY_{name}", value)
        return settings.load()

    return load


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def found(config: settings.Settings) -> dict[str, Finding]:
    return {finding.subject: finding async for finding in findings(config)}


async def test_all_is_well(look: Callable[..., settings.Settings], tmp_path: Path) -> None:
    """And nothing was made or changed by looking."""
    config = look()
    seen = await found(config)
    assert all(finding.passed for finding in seen.values())
    assert list(seen) == ["settings", "journal", "kafka", "topics", "copies", "transactions"]
    assert "will be made" in seen["journal"].sentence
    assert "will be created: " in seen["topics"].sentence
    assert names(tmp_path) == []


async def test_journal_is_looked_at(look: Callable[..., settings.Settings], tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal_at(path):
        assert "in use by a running relay" in (await found(look()))["journal"].sentence
    assert "sound" in (await found(look()))["journal"].sentence
    path.write_bytes(b"dear diary")
    seen = await found(look())
    assert not seen["journal"].passed
    assert "is not a relay journal" in seen["journal"].sentence


async def test_journal_that_cannot_be_written_is_named(
    look: Callable[..., settings.Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a running relay too; tests/unit/test_faults.py has the conditions."""
    config = look()
    async with journal_at(tmp_path / "journal.db"):
        monkeypatch.setattr(volume, "refusal", lambda _: errno.ENOSPC)
        seen = await found(config)
    assert not seen["journal"].passed
    assert "its volume is full" in seen["journal"].sentence


async def test_network_file_system_is_named(
    look: Callable[..., settings.Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_type", lambda _: "nfs4")
    seen = await found(look())
    assert not seen["journal"].passed
    assert "lies on a network file system (nfs4)" in seen["journal"].sentence
    async with journal_at(tmp_path / "journal.db"):
        pass
    seen = await found(look(JOURNAL__NETWORK_VOLUME="true"))
    assert seen["journal"].passed
    assert seen["journal"].sentence.endswith("sound; on a network file system (nfs4)")


async def test_topics_of_wildcards_are_looked_for(look: Callable[..., settings.Settings]) -> None:
    """And those of defaults that no type goes to any more are not."""
    config = look(KAFKA__TOPICS='{"im.*": "chats", "helpdesk.*": "desk"}')
    prefix = config.kafka.topic_prefix
    named = {f"{prefix}{name}" for name in ("chats", "desk", "other", "dead_letter")}
    seen = await found(config)
    said = seen["topics"].sentence.removeprefix("will be created: ")
    assert set(said.split(", ")) - {f"{prefix}relay_journal"} == named


@pytest.mark.parametrize(
    ("keys", "status", "sentence"),
    [
        (
            {"im.message.receive_v1": "message.chat_id", "im.*": "chat_id"},
            "ok",
            "im.chat.updated_v1: 0 of 1 have chat_id; im.message.receive_v1: 2 of 3 have message",
        ),
        ({"im.message.receive_v1": "mesage.chat_id"}, "warn", "0 of 3 have mesage.chat_id"),
        ({"drive.*": "file_token"}, "ok", "none of the events that kafka.keys names has come"),
    ],
)
async def test_path_that_leads_nowhere_is_a_warning(
    keys: dict[str, str],
    status: str,
    sentence: str,
    look: Callable[..., settings.Settings],
    tmp_path: Path,
) -> None:
    """By what has come; it stops no event, so nobody else would say so."""
    async with journal_at(tmp_path / "journal.db") as journal:
        for number, (name, content) in enumerate(
            (
                ("im.message.receive_v1", {"message": {"chat_id": "oc_1"}}),
                ("im.message.receive_v1", {"message": {"chat_id": "oc_2"}}),
                ("im.message.receive_v1", {"message": {}}),
                ("im.chat.updated_v1", {}),
                ("im.message.receive_v1", []),
            )
        ):
            body = payload(str(number), event_type=name) | {"event": content}
            one = event(str(number), as_json(body))
            await journal.add(replace(one, event_type=name))
        await journal.add(replace(event("5", b"{"), event_type="im.message.receive_v1"))
    seen = (await found(look(KAFKA__KEYS=json.dumps(keys))))["keys"]
    assert (seen.passed, seen.warning) == (True, status == "warn")
    assert sentence in seen.sentence


async def test_keys_are_looked_for_in_a_journal_that_is_there(
    look: Callable[..., settings.Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without one nothing is said against them; and of a large one the latest are looked at."""
    keys = '{"im.message.receive_v1": "a"}'
    assert "has come lately" in (await found(look(KAFKA__KEYS=keys)))["keys"].sentence
    assert "keys" not in await found(look(KAFKA__KEYS="{}"))
    monkeypatch.setattr(check, "_KEYS_LOOK", 150)
    async with journal_at(tmp_path / "journal.db") as journal:
        for number in range(300):
            name, content = "im.message.receive_v1", {"a": "x"} if number >= 160 else {}
            body = as_json(payload(str(number), event_type=name, event=content))
            await journal.add(replace(event(str(number), body), event_type=name))
    assert "140 of 150 have a" in (await found(look(KAFKA__KEYS=keys)))["keys"].sentence


async def test_place_that_cannot_be_written_is_named(
    look: Callable[..., settings.Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest directory that there is; root may write everywhere, so the answer is made up."""
    monkeypatch.setattr(os, "access", lambda place, mode: (place, mode) != (tmp_path, os.W_OK))
    path = tmp_path / "not" / "yet" / "journal.db"
    seen = await found(look(JOURNAL__PATH=str(path)))
    assert not seen["journal"].passed
    assert f"{path}: cannot be made: {tmp_path} is not writable" == seen["journal"].sentence


async def test_transactions_are_tried_with_an_offset_where_there_is_a_topic_for_it(
    look: Callable[..., settings.Settings],
) -> None:
    config = look()
    assert (await found(config))["transactions"].sentence == "can start"
    router = Router(config.kafka.topic_prefix, config.kafka.topics)
    await topics.ensure(config.kafka, router.topics)
    seen = await found(config)
    assert seen["topics"].sentence == "all there"
    assert seen["transactions"].passed
    said = "can start, write to the topics, carry an offset"
    assert seen["transactions"].sentence == said


async def test_kafka_that_is_away_is_named(look: Callable[..., settings.Settings]) -> None:
    """What depends on it is left out."""
    config = look(KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}", KAFKA__TIMEOUT="1s")
    seen = await found(config)
    assert list(seen) == ["settings", "journal", "kafka"]
    assert not seen["kafka"].passed


async def test_broker_that_is_too_old_is_named(
    look: Callable[..., settings.Settings], monkeypatch: pytest.MonkeyPatch, embedded_kafka: str
) -> None:
    """By its address; what depends on Kafka is left out."""
    monkeypatch.setattr(topics, "too_old", lambda versions: 3 in versions)
    seen = await found(look())
    assert list(seen) == ["settings", "journal", "kafka"]
    assert not seen["kafka"].passed
    assert seen["kafka"].sentence == f"the broker {embedded_kafka} is older than Kafka 2.5"


async def test_broker_that_cannot_be_reached_is_named(
    look: Callable[..., settings.Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bootstrap server answers, and sends clients to an address that is no one's."""
    port, metadata = free_port(), ClusterMetadata.update_metadata

    def elsewhere(self: ClusterMetadata, found: Any) -> None:
        found.brokers = [(one[0], "127.0.0.1", port, *one[3:]) for one in found.brokers]
        metadata(self, found)

    async def advertised(self: AIOKafkaAdminClient) -> dict[str, Any]:
        return {"brokers": [{"node_id": 1, "host": "127.0.0.1", "port": port}]}

    monkeypatch.setattr(ClusterMetadata, "update_metadata", elsewhere)
    monkeypatch.setattr(AIOKafkaAdminClient, "describe_cluster", advertised)
    seen = await found(look())
    assert not seen["kafka"].passed
    assert seen["kafka"].sentence == f"the broker 127.0.0.1:{port} does not answer"


async def test_topics_that_may_not_be_made_are_named(
    look: Callable[..., settings.Settings],
) -> None:
    seen = await found(look(KAFKA__CREATE_TOPICS="false"))
    assert not seen["topics"].passed
    assert "relay_journal" in seen["topics"].sentence


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": (3, 2)}, "whatever is acknowledged is on more than one disk"),
        ({}, "no topic is there yet"),
        (
            {"a": (3, 1), "b": (3, 2)},
            "lose what was published: min.insync.replicas is 1 of a",
        ),
        ({"a": (1, 1)}, "lose what was published: one copy only of a"),
        (None, "cannot be read: "),
    ],
)
async def test_topic_that_one_death_may_lose_is_warned_of(
    counts: dict[str, tuple[int, int]] | None,
    said: str,
    look: Callable[..., settings.Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which is no failure: somebody may want it so."""

    async def copies(*_: object) -> list[durability.Copies]:
        if counts is None:
            raise errors.UnsupportedVersionError
        return [
            durability.Copies(topic=topic, count=count, least=least)
            for topic, (count, least) in counts.items()
        ]

    monkeypatch.setattr(durability, "copies", copies)
    seen = (await found(look()))["copies"]
    assert (seen.passed, seen.warning) == (True, said.startswith("lose"))
    assert said in seen.sentence


async def test_at_least_once_needs_no_transactions(
    look: Callable[..., settings.Settings],
) -> None:
    assert "transactions" not in await found(look(KAFKA__DELIVERY="at-least-once"))


async def test_claims_store_is_asked(
    look: Callable[..., settings.Settings], tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        seen = await found(look(CLAIMS__URL=server.url))
        assert seen["claims"].passed
        assert "version 7" in seen["claims"].sentence or "version 8" in seen["claims"].sentence
        assert not seen["claims"].warning
        server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        seen = await found(look(CLAIMS__URL=server.url))
        assert (seen["claims"].passed, seen["claims"].warning) == (True, True)
        assert "maxmemory-policy allkeys-lru" in seen["claims"].sentence
    seen = await found(look(CLAIMS__URL=server.url))
    assert not seen["claims"].passed
    assert "not available" in seen["claims"].sentence


async def test_replica_that_is_waited_for_is_named(
    look: Callable[..., settings.Settings], tmp_path: Path
) -> None:
    """With the command that ends it; and no more once it has ended, by that or by time."""
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        changes = {"URL": server.url, "REPLICA": "relay-1", "AFTER": "relay-0"}
        config = look(**{f"CLAIMS__{name}": value for name, value in changes.items()})
        assert (await found(config))["claims"].sentence.endswith("relay claims gone relay-0")
        async with journal_at(tmp_path / "journal.db", window=86_400) as journal:
            for waited, passed in ((86_399, False), (86_400, True)):
                journal.retention.open_for = 10**10
                noted = Claimed(awaited="relay-0", awaited_since=10**10 - waited * 1000)
                await journal.note_claimed(noted)
                await journal._call(journal.retention.note)
                assert (await found(config))["claims"].passed is passed
            await journal.note_claimed(Claimed(awaited="relay-2", awaited_since=0))
            assert not (await found(config))["claims"].passed
            await asyncio.to_thread(claims_command.gone, "relay-0", None)
            assert (await found(config))["claims"].passed
    shutil.copy(KEPT[1], tmp_path / "journal.db")
    with journalview.opened(tmp_path / "journal.db") as view:
        assert view.waited_for("relay-0") == 0, "an earlier version has not noted it"


async def test_replica_without_its_past_in_the_store_is_named(
    look: Callable[..., settings.Settings], tmp_path: Path
) -> None:
    """Others may wait for it, as after a store was emptied: with the command that ends that."""
    with redis_server(tmp_path) as server:
        config = look(CLAIMS__URL=server.url, CLAIMS__REPLICA="relay-0")
        claims = Claims(config.claims, Retention(86_400), Metrics())
        await claims.enlist("relay-0 relay-1 relay-2")
        await claims.announce("relay-2", "a-journal")
        seen = (await found(config))["claims"]
        assert (seen.passed, seen.warning) == (True, True)
        assert "what relay-1 has published before is not in it" in seen.sentence
        assert seen.sentence.endswith("relay claims gone relay-1")
        await claims.dismiss("relay-1")
        assert not (await found(config))["claims"].warning


@pytest.mark.parametrize("servers", ["127.0.0.1:{0}", "127.0.0.1:{0},127.0.0.2:{0}"])
async def test_what_is_not_available_is_named_by_host_and_port(
    servers: str, look: Callable[..., settings.Settings]
) -> None:
    """And by nothing of a password."""
    port = free_port()
    asked = servers.format(port)
    url = f"redis://relay:p4ss@127.0.0.1:{port}"
    seen = await found(look(KAFKA__BOOTSTRAP_SERVERS=asked, CLAIMS__URL=url))
    assert seen["kafka"].sentence.startswith(f"Kafka is not available at {asked}: ")
    assert f"the claims store at 127.0.0.1:{port} is not available: " in seen["claims"].sentence
    assert "p4ss" not in str(seen)


def test_nobody_waits_where_there_is_one_replica(look: Callable[..., settings.Settings]) -> None:
    look()
    with pytest.raises(ClaimsError, match="there is one replica"):
        claims_command.gone("relay-0", None)
