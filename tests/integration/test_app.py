"""The whole relay in this process, against the embedded broker: from a POST to the topic."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from aiokafka import AIOKafkaConsumer

from relay.app import Relay
from relay.errors import JournalLockedError
from relay.settings import Delivery, Settings
from tests.fakes import KEY, TOKEN, as_json, encrypt, journal_at, payload, sign, until

TOPIC = "helpdesk.ticket_message"


class Running:
    """A relay that serves, until `stop`."""

    def __init__(self, relay: Relay, session: ClientSession) -> None:
        self.relay = relay
        self.stop = asyncio.Event()
        self.session = session
        self.task = asyncio.create_task(relay.run(self.stop))

    async def post(self, event_id: str, **headers: str) -> int:
        """Send a signed, encrypted event; give the status."""
        body = encrypt(as_json(payload(event_id)))
        url = f"http://127.0.0.1:{self.relay.webhook_port}/webhook/event"
        async with self.session.post(url, data=body, headers=headers or sign(body)) as answer:
            return answer.status

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the admin listener."""
        url = f"http://127.0.0.1:{self.relay.admin_port}{path}"
        async with self.session.get(url) as answer:
            return answer.status, await answer.text()

    async def account(self) -> tuple[float, float]:
        """Scrape both sides of the promise: received, and settled plus pending."""
        _, text = await self.get("/metrics")
        received = settled = 0.0
        for line in text.splitlines():
            if line.startswith("relay_received_total{"):
                received += float(line.rsplit(" ", 1)[1])
            elif line.startswith(("relay_settled_total{", "relay_pending_events ")):
                settled += float(line.rsplit(" ", 1)[1])
        return received, settled


def settings(path: Path, bootstrap: str, prefix: str, **drain: float) -> Settings:
    return Settings.model_validate(
        {
            "apps": {"default": {"encrypt_key": KEY, "verification_token": TOKEN}},
            "webhook": {"host": "127.0.0.1", "port": 0},
            "admin": {"port": 0},
            "journal": {"path": path / "journal.db"},
            "kafka": {"bootstrap_servers": bootstrap, "topic_prefix": prefix, "timeout": 5},
            "drain": {"delay": 0, "timeout": 20, **drain},
        }
    )


@asynccontextmanager
async def running(config: Settings) -> AsyncIterator[Running]:
    async with ClientSession() as session:
        run = Running(Relay(config), session)
        ready = asyncio.create_task(run.relay.ready.wait())
        await asyncio.wait({ready, run.task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        try:
            yield run
        finally:
            run.stop.set()
            await run.task


async def consumed(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        check_crcs=False,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [json.loads((await consumer.getone()).value) for _ in range(count)]
    finally:
        await consumer.stop()


async def test_event_goes_through(tmp_path: Path, embedded_kafka: str, topic_prefix: str) -> None:
    """Posted, answered, published, once; the repeat counts as a duplicate."""
    async with running(settings(tmp_path, embedded_kafka, topic_prefix)) as run:
        assert [await run.post("e-1"), await run.post("e-1")] == [200, 200]
        await until(lambda: run.relay.metrics.account().published == 1)
        account = run.relay.metrics.account()
        assert (account.received, account.duplicate, account.pending) == (2, 1, 0)
    (value,) = await consumed(embedded_kafka, topic_prefix + TOPIC, 1)
    assert (value["event"]["id"], value["ticket_id"]) == ("e-1", "77")


async def test_account_balances_at_every_scrape(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """While events, repeats and forgeries come in and batches go out."""
    async with running(settings(tmp_path, embedded_kafka, topic_prefix)) as run:
        forged = {"X-Lark-Signature": "0" * 64}
        sending = asyncio.gather(
            *(run.post(f"e-{n // 2}") for n in range(300)),
            *(run.post("forged", **forged) for _ in range(20)),
        )
        while not sending.done() or run.relay.metrics.account().pending:
            received, settled = await run.account()
            assert received == settled
        assert sorted(await sending) == [200] * 300 + [401] * 20
        assert await run.account() == (300, 300)
        assert run.relay.metrics.account().published == 150


async def test_stop_drains_the_journal(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """What was answered is on the topic before the process ends."""
    async with running(settings(tmp_path, embedded_kafka, topic_prefix)) as run:
        assert {200} == set(await asyncio.gather(*(run.post(f"e-{n}") for n in range(200))))
        run.stop.set()
        await run.task
        assert (
            run.relay.metrics.account().published,
            run.relay.metrics.account().pending,
        ) == (200, 0)
    values = await consumed(embedded_kafka, topic_prefix + TOPIC, 200)
    assert {f"e-{n}" for n in range(200)} == {value["event"]["id"] for value in values}


async def test_ready_until_the_stop_begins(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """During the delay it still answers, so that nobody meets a closed door; then it closes."""
    config = settings(tmp_path, embedded_kafka, topic_prefix, delay=0.5)
    async with running(config) as run:
        assert (await run.get("/readyz"))[0] == 200
        run.stop.set()
        await until(lambda: run.relay._draining)
        assert (await run.get("/readyz"))[0] == 503
        assert (await run.get("/livez"))[0] == 200
        assert await run.post("e-1") == 200
        await run.task
        with pytest.raises(ClientError):
            await run.post("e-2")
        assert run.relay.metrics.account().published == 1


async def test_ready_without_kafka_and_what_is_left_stays(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Kafka down costs nothing at the door; after the drain's time the events wait on disk."""
    config = settings(tmp_path, "127.0.0.1:1", topic_prefix, timeout=0.1)
    async with running(config) as run:
        assert (await run.get("/readyz"))[0] == 200
        assert [await run.post("a"), await run.post("b")] == [200, 200]
        assert "relay_kafka_up 0.0" in (await run.get("/metrics"))[1]
        assert await run.account() == (2, 2)
    async with journal_at(tmp_path / "journal.db") as journal:
        assert [event.event_id for event in await journal.pending(9, 9**9)] == ["a", "b"]
    async with running(settings(tmp_path, embedded_kafka, topic_prefix)) as run:
        await until(lambda: run.relay.metrics.account().published == 2)
        assert await run.account() == (2, 2)


async def test_at_least_once_delivers_too(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    kafka = config.kafka.model_copy(update={"delivery": Delivery.AT_LEAST_ONCE})
    async with running(config.model_copy(update={"kafka": kafka})) as run:
        assert await run.post("e-1") == 200
        await until(lambda: run.relay.metrics.account().published == 1)
    (value,) = await consumed(embedded_kafka, topic_prefix + TOPIC, 1)
    assert value["event"]["id"] == "e-1"


async def test_second_process_on_the_journal_is_refused(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    async with running(config) as run:
        with pytest.raises(JournalLockedError):
            await Relay(config).run(asyncio.Event())
        assert await run.post("e-1") == 200


async def test_port_that_is_taken_ends_it_and_frees_the_journal(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """The other listener and the journal do not stay behind."""
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    async with running(settings(tmp_path / "other", embedded_kafka, topic_prefix)) as other:
        taken = config.webhook.model_copy(update={"port": other.relay.webhook_port})
        with pytest.raises(OSError, match="address already in use"):
            await Relay(config.model_copy(update={"webhook": taken})).run(asyncio.Event())
    async with journal_at(tmp_path / "journal.db"):
        pass
