"""The whole relay in this process, against the embedded broker: from a POST to the topic."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from aiokafka import AIOKafkaConsumer, errors
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from relay.app import Relay
from relay.cli.main import app as command
from relay.egress.kafka import durability
from relay.errors import JournalLockedError
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import view as journalview
from relay.settings import Claims, Delivery, Privacy, Settings
from relay.simulator.feishu import Fate, SmallFeishu
from relay.simulator.gateway import GatewayOptions
from tests.fakes import (
    KEY,
    TOKEN,
    as_json,
    encrypt,
    event,
    journal_at,
    payload,
    sign,
    until,
)
from tests.ports import free_port
from tests.redis_server import redis_server

TOPIC = "helpdesk.ticket_message"
OPTIONS = GatewayOptions(app_id="cli_a", app_secret="secret-a", seed=1)


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

    async def send(self, body: dict[str, Any], path: str = "/webhook/event") -> tuple[int, str]:
        """Send any signed, encrypted document; give status and answer."""
        sealed = encrypt(as_json(body))
        url = f"http://127.0.0.1:{self.relay.webhook_port}{path}"
        async with self.session.post(url, data=sealed, headers=sign(sealed)) as answer:
            return answer.status, await answer.text()

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
            # aiokafka leaves a connection behind when it is stopped while it connects.
            sample = run.relay.metrics.registry.get_sample_value
            with suppress(TimeoutError):
                await until(lambda: run.task.done() or sample("relay_kafka_up"), seconds=1)
        finally:
            run.stop.set()
            await run.task


async def consumed(bootstrap: str, topic: str, count: int) -> list[Any]:
    return [json.loads(record.value) for record in await records(bootstrap, topic, count)]


async def records(bootstrap: str, topic: str, count: int) -> list[Any]:
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
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_corners_of_feishu_go_through(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """A button's click and a chat's message, by key and wildcard; a store app's ticket nowhere."""
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    topics = {"card.*": "all", "im.*": "all", "other": "all"}
    keys = {"card.*": "context.open_message_id", "im.message.*": "message.chat_id"}
    kafka = config.kafka.model_copy(update={"topics": topics, "keys": keys})
    click = payload(
        "e-1",
        event_type="card.action.trigger",
        event={"token": "c-1", "context": {"open_message_id": "om_1"}},
    )
    message = {"message_id": "om_2", "chat_id": "oc_1"}
    ticket = {"type": "app_ticket", "app_id": "cli_a", "app_ticket": "nobody may see it"}
    async with running(config.model_copy(update={"kafka": kafka})) as run:
        assert await run.send(click, "//webhook/event/") == (200, "{}")
        old = {"uuid": "u-1", "token": TOKEN, "type": "event_callback", "event": ticket}
        assert await run.send(old) == (200, '{"msg":"success"}')
        new = payload("e-2", event_type="im.message.receive_v1", event={"message": message})
        assert await run.send(new) == (200, '{"msg":"success"}')
        await until(lambda: run.relay.metrics.account().published == 2)
        account = run.relay.metrics.account()
        assert (account.withheld, account.dead_letter, account.pending) == (1, 0, 0)
        received, settled = await run.account()
        assert received == settled == 3
    seen = {one.key: one for one in await records(embedded_kafka, f"{topic_prefix}all", 2)}
    assert json.loads(seen[b"om_1"].value)["data"]["token"] == "c-1"
    assert dict(seen[b"oc_1"].headers)["relay_message_id"] == b"om_2"
    with journalview.opened(tmp_path / "journal.db") as view:
        entry, body = view.find("u-1")
    assert (entry.outcome, b"nobody may see it" in body) == ("withheld", False)


async def test_event_goes_through(tmp_path: Path, embedded_kafka: str, topic_prefix: str) -> None:
    """Posted, answered, published, once; the repeat counts as a duplicate."""
    async with running(settings(tmp_path, embedded_kafka, topic_prefix)) as run:
        assert [await run.post("e-1"), await run.post("e-1")] == [200, 200]
        await until(lambda: run.relay.metrics.account().published == 1)
        account = run.relay.metrics.account()
        assert (account.received, account.duplicate, account.pending) == (2, 1, 0)
    (value,) = await consumed(embedded_kafka, topic_prefix + TOPIC, 1)
    assert (value["event"]["id"], value["ticket_id"]) == ("e-1", "77")


async def test_what_is_private_stays_here(
    tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Of an event a field is left out, of a dead letter the body; the journal has both."""
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    config = config.model_copy(
        update={
            "kafka": config.kafka.model_copy(update={"dead_letter_value": False}),
            "privacy": Privacy(drop=("text",)),
        }
    )
    async with running(config) as run:
        assert [await run.post("e-1"), await run.post("")] == [200, 200]
        await until(lambda: run.relay.metrics.account().dead_letter == 1)
    (value,) = await consumed(embedded_kafka, topic_prefix + TOPIC, 1)
    assert value["data"] == {"ticket": {"ticket_id": "77"}}
    (letter,) = await records(embedded_kafka, f"{topic_prefix}dead_letter", 1)
    assert (letter.value, dict(letter.headers)["relay_reason"]) == (None, b"no_event_id")
    with journalview.opened(tmp_path / "journal.db") as view:
        bodies = [view.find(name)[1].decode() for name in ("e-1", letter.key.decode())]
    assert all("你好" in body and TOKEN in body for body in bodies)


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


def with_long_connection(config: Settings, feishu_url: str, **more: Any) -> Settings:
    app = config.apps["default"].model_copy(
        update={
            "app_id": OPTIONS.app_id,
            "app_secret": SecretStr(OPTIONS.app_secret),
            "long_connection": True,
        }
    )
    changes = {"apps": {"default": app}, "feishu_url": feishu_url, **more}
    return config.model_copy(update=changes)


@pytest.mark.parametrize("named", ["for all", "for the app"])
async def test_both_transports_reach_the_topic(
    named: str, embedded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """An event that takes both ways is published once; a stop closes the connection in order."""
    feishu = SmallFeishu(OPTIONS)
    await feishu.start()
    urls = (feishu.url, "") if named == "for all" else ("http://127.0.0.1:1", feishu.url)
    config = with_long_connection(settings(tmp_path, embedded_kafka, topic_prefix), urls[0])
    app = config.apps["default"].model_copy(update={"feishu_url": urls[1]})
    config = config.model_copy(update={"apps": {"default": app}})
    async with running(config) as run:
        await until(lambda: feishu.gateway.clients == 1)
        assert await feishu.push(payload("e-1"), "m-1") is Fate.DELIVERED
        assert await run.post("e-1") == 200
        assert await run.post("e-2") == 200
        assert await feishu.push(payload("e-2"), "m-2") is Fate.DELIVERED
        await until(lambda: run.relay.metrics.account().published == 2)
        account = run.relay.metrics.account()
        assert (account.received, account.duplicate, account.pending) == (4, 2, 0)
        assert 'relay_long_connection_up{app="default"} 1.0' in (await run.get("/metrics"))[1]
    assert feishu.gateway.clients == 0
    await feishu.stop()


async def test_feishu_away_touches_neither_webhook_nor_readiness(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    config = with_long_connection(settings(tmp_path, embedded_kafka, topic_prefix), dead)
    async with running(config) as run:
        assert (await run.get("/readyz"))[0] == 200
        assert await run.post("e-1") == 200
        await until(lambda: run.relay.metrics.account().published == 1)
        assert 'relay_long_connection_up{app="default"} 0.0' in (await run.get("/metrics"))[1]


async def test_two_replicas_publish_an_event_once(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """With claims in a real Redis: whichever replica Feishu's retry reaches."""
    for name in ("redis", "one", "two"):
        (tmp_path / name).mkdir()
    with redis_server(tmp_path / "redis") as server:
        claims = {"claims": Claims(url=SecretStr(server.url))}
        first, second = (
            settings(tmp_path / name, embedded_kafka, topic_prefix).model_copy(update=claims)
            for name in ("one", "two")
        )
        async with running(first) as one, running(second) as two:
            names = [f"e-{n}" for n in range(40)]
            for name in names:
                assert {await one.post(name), await two.post(name)} == {200}
            accounts = [run.relay.metrics.account for run in (one, two)]
            await until(lambda: not any(account().pending for account in accounts))
            assert sum(account().published for account in accounts) == len(names)
            assert sum(account().duplicate for account in accounts) == len(names)
            assert "relay_claims_up 1.0" in (await one.get("/metrics"))[1]


async def test_claims_are_kept_as_long_as_events(tmp_path: Path) -> None:
    """The window, which is longer than a request can pass."""
    claims = Claims(url=SecretStr("redis://127.0.0.1"))
    config = settings(tmp_path, "127.0.0.1:1", "p.").model_copy(update={"claims": claims})
    relay = Relay(config)
    async with AsyncExitStack() as stack:
        made = relay._claims(relay._journal(stack))
        assert made
        assert made._seconds == 24 * 3600


async def leave(path: Path, *names: str) -> None:
    """Leave a journal behind as a replica does that is gone."""
    async with journal_at(path / "journal.db") as journal:
        for name in names:
            await journal.add(event(name, as_json(payload(name))))


async def test_drain_publishes_what_a_replica_has_left(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Once; a second drain finds nothing to do."""
    await leave(tmp_path, "a", "b", "c")
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    first = Relay(config)
    assert await first.drain(20) == 0
    assert first.metrics.account().published == 3
    again = Relay(config)
    assert await again.drain(20) == 0
    assert again.metrics.account().published == 0


async def test_drain_without_kafka_leaves_everything(tmp_path: Path, topic_prefix: str) -> None:
    await leave(tmp_path, "a", "b")
    config = settings(tmp_path, f"127.0.0.1:{free_port()}", topic_prefix)
    assert await Relay(config).drain(0.5) == 2


async def test_drain_refuses_a_journal_in_use(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    config = settings(tmp_path, embedded_kafka, topic_prefix)
    async with running(config):
        with pytest.raises(JournalLockedError):
            await Relay(config).drain(1)


async def keep_for_a_decision(
    path: Path, event_id: str, reason: DeadLetterReason = DeadLetterReason.TOO_LARGE
) -> None:
    """Have an event end as a dead letter; of one that is too large Kafka has no value."""
    with journalview.opened(path) as view:
        view.replay(event_id)
    async with journal_at(path) as journal:
        (row,) = await journal.pending(1, 1)
        await journal.settle(
            [Settlement(seq=row.seq, outcome=Outcome.DEAD_LETTER, reason=reason)], 1
        )


async def test_drain_command(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica's file by its name; what is left is an exit code of 1."""
    (tmp_path / "old").mkdir()
    await leave(tmp_path / "old", "a")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", KEY)
    monkeypatch.setenv("RELAY_KAFKA__TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    arguments = ["drain", "--journal", str(tmp_path / "old" / "journal.db")]

    async def run(*more: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, command, [*arguments, *more])
        return done.exit_code, done.output

    code, said = await run("--timeout", "0.5")
    assert (code, "1 events left" in said) == (1, True)
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", embedded_kafka)
    code, said = await run()
    assert (code, "Nothing is left" in said) == (0, True)
    await keep_for_a_decision(tmp_path / "old" / "journal.db", "a")
    code, said = await run()
    assert (code, "1 dead letters that only this journal has" in said) == (1, True)
    await keep_for_a_decision(tmp_path / "old" / "journal.db", "a", DeadLetterReason.NO_EVENT_TYPE)
    assert (await run())[0] == 0
    monkeypatch.setenv("RELAY_KAFKA__DEAD_LETTER_VALUE", "false")
    code, said = await run()
    assert (code, "1 dead letters that only this journal has" in said) == (1, True)
    arguments[2] = str(tmp_path / "none.db")
    assert (await run())[0] == 1
    assert not (tmp_path / "none.db").exists()


async def test_refusals_are_exposed_at_zero(tmp_path: Path) -> None:
    """The first one must show in a rate."""
    async with running(settings(tmp_path, "127.0.0.1:1", "")) as run:
        _, text = await run.get("/metrics")
    assert 'relay_rejected_total{app="default",reason="journal_full"} 0.0' in text


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (1, ["min.insync.replicas is 1 of t"]),
        (2, []),
        (None, []),
    ],
)
async def test_topics_on_one_disk_are_named_once_at_start(
    least: int | None,
    said: list[str],
    embedded_kafka: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As soon as Kafka has been there; if it does not tell, nothing is said."""

    async def copies(*_: object) -> list[durability.Copies]:
        if least is None:
            raise errors.UnsupportedVersionError
        return [durability.Copies(topic="t", count=3, least=least)]

    monkeypatch.setattr(durability, "copies", copies)
    relay = Relay(settings(tmp_path, embedded_kafka, "t."))
    connected = asyncio.Event()
    with capture_logs() as logs:
        looking = asyncio.create_task(relay._look_at_copies(connected))
        await asyncio.sleep(0)
        connected.set()
        await looking
    assert said == [line["found"] for line in logs if line["event"] == "topics_on_one_disk"]
