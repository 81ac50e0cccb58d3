"""The other commands as a user runs them, beside a relay that must not be disturbed."""

import json
from pathlib import Path

from tests.e2e.process import Relay, compared, until
from tests.kafka_server import Broker
from tests.oracle import ENCRYPT_KEY, TOKEN, Oracle, consume, make_event

NOWHERE = "127.0.0.1:1"


async def test_check_passes_beside_a_running_relay(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It looks at journal, topics and transactions without fencing the one that works."""
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        async with compared(relay, oracle):
            await oracle.send(50)
            await relay.drained()
            code, printed = await relay.command("check")
            assert code == 0, printed
            await oracle.send(50)
    assert ENCRYPT_KEY not in printed
    assert TOKEN not in printed


async def test_check_fails_without_kafka(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """One sentence says what is wrong."""
    async with Relay(tmp_path, NOWHERE, topic_prefix) as relay:
        code, printed = await relay.command("check")
    assert code == 1
    assert "kafka" in printed
    assert "Traceback" not in printed


async def test_settings_mistake_is_exit_2(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """Each mistake has a line that names it; no secret is shown."""
    async with Relay(tmp_path, NOWHERE, topic_prefix) as relay:
        code, printed = await relay.command("serve", KAFKA__PARTITIONS="0", WEBHOOK__PORT="x")
    assert code == 2
    assert "RELAY_KAFKA__PARTITIONS" in printed
    assert "RELAY_WEBHOOK__PORT" in printed
    assert ENCRYPT_KEY not in printed


async def test_events_are_listed_and_replayed_beside_a_running_relay(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """A replayed event comes once more, says so, and the account still balances."""
    event = make_event("1", 1)
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving()
        assert await Oracle(relay.url).post(event) == 200
        await relay.drained()
        code, printed = await relay.command("events", "list", "--json")
        assert code == 0, printed
        assert [json.loads(line)["event_id"] for line in printed.splitlines()] == [event.event_id]
        code, printed = await relay.command("events", "replay", event.event_id)
        assert code == 0, printed

        async def twice() -> bool:
            name = 'relay_settled_total{outcome="published"}'
            return (await relay.metrics())[name] == 2

        await until(twice, 15, "the event is replayed")
        seen = await consume(kafka.bootstrap, topic_prefix)
    assert [one.event_id for one in seen] == [event.event_id] * 2
    assert [one.headers.get("relay_replayed") for one in seen] == [None, "1"]


async def test_simulator_is_answered_as_it_demands(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """Events, repeats and hostile requests: each gets the answer of the design's table."""
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving()
        options = ("--rate", "0", "--count", "300", "--hostile", "0.3", "--seed", "1")
        code, printed = await relay.command("simulate", "--url", relay.url, *options)
        assert code == 0, printed
        await relay.drained()
