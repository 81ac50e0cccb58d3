"""The small Feishu: what relay's own client, its commands and its ladder make of it."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from relay.cli.main import app as command
from relay.errors import FeishuRefusedError, FeishuUnavailableError, RejectedError, RejectReason
from relay.events import Challenge, Outcome, RawCallback
from relay.feishu.api import Feishu, HelpDesk
from relay.ingress import frames
from relay.ingress.longconn import LongConnection
from relay.observe.metrics import Metrics
from relay.simulator import gateway
from relay.simulator.feishu import Fate, Report, SmallFeishu, climb
from relay.simulator.gateway import GatewayOptions
from relay.simulator.run import sentence
from relay.simulator.sender import Answer, Kind, Simulator, SimulatorOptions, Summary
from tests.fakes import event, journal_at, payload, until
from tests.gateway import data

OPTIONS = GatewayOptions(app_id="cli_a", app_secret="secret-a", seed=1)


@pytest.fixture
async def feishu() -> AsyncIterator[SmallFeishu]:
    place = SmallFeishu(OPTIONS, time_scale=0.0001)
    await place.start()
    yield place
    await place.stop()


class Client:
    """A relay's long connection whose `accept` does what a test wants."""

    def __init__(self, feishu: SmallFeishu) -> None:
        self.taken: list[str] = []
        self.faults: list[Exception] = []
        self.connection = LongConnection(
            "a", (OPTIONS.app_id, OPTIONS.app_secret), feishu.url, self.accept, Metrics()
        )
        self.running = asyncio.create_task(self.connection.run())

    async def accept(self, raw: RawCallback) -> Outcome | Challenge:
        self.taken.append(json.loads(raw.body)["header"]["event_id"])
        if self.faults:
            raise self.faults.pop(0)
        return Outcome.ACCEPTED

    async def stop(self) -> None:
        await self.connection.stop()
        await self.running


@pytest.fixture
async def client(feishu: SmallFeishu) -> AsyncIterator[Client]:
    client = Client(feishu)
    await until(lambda: feishu.gateway.clients == 1)
    yield client
    await client.stop()


async def test_event_is_delivered_and_acknowledged(feishu: SmallFeishu, client: Client) -> None:
    assert await feishu.push(payload("e-1"), "m-1") is Fate.DELIVERED
    assert client.taken == ["e-1"]
    assert feishu.report.attempts == {200: 1}
    await until(lambda: feishu.gateway.pings == 1)


@pytest.mark.parametrize("size", [7, 100, 5000])
async def test_parts_may_be_cut_anywhere(size: int) -> None:
    """Also within a character."""
    options = GatewayOptions(app_id="cli_a", app_secret="secret-a", max_part=size)
    place = SmallFeishu(options)
    await place.start()
    client = Client(place)
    await until(lambda: place.gateway.clients == 1)
    body = payload("e-1", event={"ticket": {"ticket_id": "1"}, "text": "你好" * 20})
    assert await place.push(json.dumps(body, ensure_ascii=False).encode(), "m-1") is Fate.DELIVERED
    assert client.taken == ["e-1"]
    await client.stop()
    await place.stop()


async def test_refused_event_comes_again_with_its_id(feishu: SmallFeishu, client: Client) -> None:
    client.faults += [RejectedError(RejectReason.JOURNAL_FULL, "full")] * 2
    assert await feishu.push(payload("e-1"), "m-1") is Fate.DELIVERED
    assert client.taken == ["e-1"] * 3
    assert feishu.report.attempts == {500: 2, 200: 1}
    assert feishu.report.retries == {0: 0, 1: 1, 2: 1}


async def test_event_is_lost_after_the_ladder(feishu: SmallFeishu) -> None:
    """Nobody is online: five attempts, and it is gone."""
    assert await feishu.push(payload("e-1"), "m-1") is Fate.LOST
    assert feishu.report.attempts == {0: 5}


async def test_ladder_has_feishus_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def fail() -> int:
        return 503

    monkeypatch.setattr(asyncio, "sleep", sleep)
    report = Report()
    assert await climb(fail, report) is Fate.LOST
    assert waits == [0, 15, 300, 3600, 21600]
    waits.clear()
    await climb(fail, report, 0.01)
    assert waits == [0, 0.15, 3, 36, 216]
    assert report.under_way == 0


async def test_connection_lost_before_the_ack_delivers_again(
    feishu: SmallFeishu, client: Client
) -> None:
    """To whoever is there then."""
    hold = asyncio.Event()

    async def accept(raw: RawCallback) -> Outcome | Challenge:
        client.taken.append("x")
        if len(client.taken) == 1:
            await hold.wait()
        return Outcome.ACCEPTED

    client.connection._accept = accept
    await feishu.gateway.drop()
    await until(lambda: feishu.gateway.clients == 0)
    await until(lambda: feishu.gateway.clients == 1)
    feishu._time_scale = 0.1
    pushing = asyncio.create_task(feishu.push(payload("e-1"), "m-1"))
    await until(lambda: len(client.taken) == 1)
    await feishu.gateway.drop()
    hold.set()
    assert await pushing is Fate.DELIVERED
    assert client.taken == ["x", "x"]


async def test_each_event_goes_to_one_client(feishu: SmallFeishu, client: Client) -> None:
    other = Client(feishu)
    await until(lambda: feishu.gateway.clients == 2)
    fates = await asyncio.gather(*(feishu.push(payload(f"e-{n}"), f"m-{n}") for n in range(100)))
    await other.stop()
    assert set(fates) == {Fate.DELIVERED}
    assert sorted(client.taken + other.taken) == sorted(f"e-{n}" for n in range(100))
    assert client.taken
    assert other.taken


async def test_address_can_be_used_once(feishu: SmallFeishu) -> None:
    async with aiohttp.ClientSession() as session:
        endpoint = await Feishu(session, feishu.url).endpoint(OPTIONS.app_id, OPTIONS.app_secret)
        async with session.ws_connect(endpoint.url):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(endpoint.url)
    assert refused.value.headers is not None
    assert refused.value.headers["Handshake-Status"] == "514"


async def test_app_may_have_so_many_clients_and_no_more(
    feishu: SmallFeishu, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MOST_CLIENTS", 1)
    async with aiohttp.ClientSession() as session:
        api = Feishu(session, feishu.url)
        with pytest.raises(FeishuUnavailableError, match="too many connections of this app"):
            await api.endpoint(OPTIONS.app_id, OPTIONS.app_secret)
    assert feishu.gateway.clients == 1


async def test_client_that_is_cut_off_comes_back(feishu: SmallFeishu, client: Client) -> None:
    """Without a word, as by a broken network; where nobody is online, nobody can be."""
    await feishu.gateway.drop(clean=False)
    await until(lambda: feishu.gateway.clients == 0)
    await feishu.gateway.drop()
    await until(lambda: feishu.gateway.clients == 1)
    assert await feishu.push(payload("e-1"), "m-1") is Fate.DELIVERED


@asynccontextmanager
async def connected(feishu: SmallFeishu) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Be a client that does what a test wants, by hand."""
    async with aiohttp.ClientSession() as session:
        api = Feishu(session, feishu.url)
        endpoint = await api.endpoint(OPTIONS.app_id, OPTIONS.app_secret)
        async with session.ws_connect(endpoint.url) as socket:
            await until(lambda: feishu.gateway.clients == 1)
            yield socket


async def acknowledge(socket: aiohttp.ClientWebSocketResponse, answer: bytes) -> None:
    """Take an event and answer with a payload."""
    frame = frames.read(await socket.receive_bytes())
    frame.payload = answer
    await socket.send_bytes(frame.SerializeToString())


async def test_nonsense_of_a_client_is_passed_over(feishu: SmallFeishu) -> None:
    """Text, garbage, a control frame of no known kind, an answer that nobody waits for."""
    async with connected(feishu) as socket:
        await socket.send_str("hello")
        await socket.send_bytes(b"\xff\xff\xff\xff")
        await socket.send_bytes(frames.control("goodbye", 1))
        await socket.send_bytes(data(b'{"code":200}', "m-0").SerializeToString())
        await socket.send_bytes(frames.control("ping", 1))
        pong = frames.read(await socket.receive_bytes())
        assert frames.headers(pong)["type"] == "pong"
        assert feishu.gateway.pings == 1
        delivering = asyncio.create_task(feishu.gateway.deliver(b"{}", "m-1"))
        await acknowledge(socket, b'{"code":200}')
        assert await delivering == 200


@pytest.mark.parametrize("answer", [b"", b"200", b"{", b'{"code":"200"}', b"[]"])
async def test_answer_that_cannot_be_read_is_none(feishu: SmallFeishu, answer: bytes) -> None:
    async with connected(feishu) as socket:
        delivering = asyncio.create_task(feishu.gateway.deliver(b"{}", "m-1"))
        await acknowledge(socket, answer)
        assert await delivering == 0


async def test_answer_counts_although_its_client_leaves(feishu: SmallFeishu) -> None:
    """It came first, if only by a moment."""
    async with connected(feishu) as socket:
        delivering = asyncio.create_task(feishu.gateway.deliver(b"{}", "m-1"))
        await acknowledge(socket, b'{"code":200}')
        await socket.close()
        assert await delivering == 200
    await until(lambda: feishu.gateway.clients == 0)


async def test_simulator_sends_over_the_long_connection(feishu: SmallFeishu) -> None:
    """Events and repeats are acknowledged, what is no event is not."""
    client = Client(feishu)
    await until(lambda: feishu.gateway.clients == 1)
    options = SimulatorOptions(url="", count=60, repeat=0.3, hostile=0.2, seed=3)
    answers: list[Answer] = []
    await Simulator(options, feishu).run(answers.append)
    await client.stop()
    assert {answer.kind for answer in answers} == {Kind.EVENT, Kind.REPEAT, Kind.NOT_JSON}
    assert not [answer for answer in answers if answer.unexpected]
    assert {a.event_id for a in answers if not a.kind.hostile} == set(client.taken)


async def test_simulator_tells_what_became_of_the_events(
    feishu: SmallFeishu, client: Client
) -> None:
    """Refused ones come again, up the ladder; with nobody there they are lost."""
    client.faults += [RejectedError(RejectReason.JOURNAL_FULL, "full")] * 3
    options = SimulatorOptions(url="", count=20, seed=5, time_scale=0.0001)
    summary = Summary()
    await Simulator(options, feishu).run(summary.add)
    assert "20 acknowledged, 0 not answered within 3 s, 3 sent again, 0 lost" in (
        sentence(summary, 1)
    )
    await client.stop()
    alone = Summary()
    await Simulator(options, feishu).run(alone.add)
    assert "0 acknowledged, 100 not answered within 3 s, 80 sent again, 20 lost" in (
        sentence(alone, 1)
    )
    assert alone.unexpected == 20


async def call(feishu: SmallFeishu, path: str, token: str = "", **query: object) -> Any:
    desk = f"{feishu.desk.helpdesk_id}:{feishu.desk.helpdesk_token}".encode()
    headers = {
        "Authorization": f"Bearer {token}",
        "X-Lark-Helpdesk-Authorization": b64encode(desk).decode(),
    }
    params = {name: str(value) for name, value in query.items()}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(feishu.url + path, params=params) as answer,
    ):
        return await answer.json()


async def test_api_tells_of_the_same_tickets(feishu: SmallFeishu) -> None:
    """What was sent as events can be read back."""
    client = Client(feishu)
    await until(lambda: feishu.gateway.clients == 1)
    await Simulator(SimulatorOptions(url="", count=80, tickets=3, seed=5), feishu).run(
        lambda _: None
    )
    await client.stop()
    async with aiohttp.ClientSession() as session:
        token = await Feishu(session, feishu.url).tenant_token(OPTIONS.app_id, OPTIONS.app_secret)
    base = "/open-apis/helpdesk/v1/tickets"
    answer = await call(feishu, base, token, page_size=2)
    total, (first, _) = answer["data"]["total"], answer["data"]["tickets"]
    assert total == len(feishu.archive.tickets) >= 3
    messages = await call(feishu, f"{base}/{first['ticket_id']}/messages", token)
    assert messages["data"]["total"] == len(feishu.archive.messages[first["ticket_id"]])
    one = await call(feishu, f"{base}/{first['ticket_id']}", token)
    assert one["data"]["ticket"] == first
    assert (await call(feishu, f"{base}/0", token))["code"] == 154001
    assert (await call(feishu, f"{base}/0/messages", token))["code"] == 154001
    assert (await call(feishu, base, "t-wrong"))["code"] == 99991663
    codes = [(await call(feishu, base, token))["code"] for _ in range(12)]
    assert 99991400 in codes


async def test_subscription_decides_what_is_sent(feishu: SmallFeishu, client: Client) -> None:
    """Before anybody has subscribed, everything is."""
    wanted = "helpdesk.ticket.created_v1"
    async with aiohttp.ClientSession() as session:
        api = Feishu(session, feishu.url)
        token = await api.tenant_token(OPTIONS.app_id, OPTIONS.app_secret)
        desk = HelpDesk(
            tenant_token=token,
            helpdesk_id=feishu.desk.helpdesk_id,
            helpdesk_token=feishu.desk.helpdesk_token,
        )
        await api.subscribe(desk, [wanted])
        assert await api.online_clients(token) == 1
        types: set[str] = set()
        options = SimulatorOptions(url="", count=20, seed=5)
        await Simulator(options, feishu).run(lambda answer: types.add(answer.event_type))
        assert types == {wanted}
        await api.subscribe(desk, [wanted], subscribe=False)
        assert feishu.api.subscribed == set()
        for subscribe in (True, False):
            with pytest.raises(FeishuRefusedError, match="155000"):
                await api.subscribe(desk, [], subscribe=subscribe)
        wrong = HelpDesk(tenant_token=token, helpdesk_id="1", helpdesk_token="tok-secret")
        with pytest.raises(FeishuRefusedError, match=r"helpdesk_token is wrong.*154003") as refused:
            await api.subscribe(wrong, [wanted])
        assert "tok-secret" not in str(refused.value)


@pytest.mark.parametrize("events", ["[]", "null", '["x"]', '[{"type": "x"}]', "7", "{"])
async def test_subscription_that_cannot_be_read_changes_nothing(
    feishu: SmallFeishu, events: str
) -> None:
    async with aiohttp.ClientSession() as session:
        token = await Feishu(session, feishu.url).tenant_token(OPTIONS.app_id, OPTIONS.app_secret)
        desk = HelpDesk(
            tenant_token=token,
            helpdesk_id=feishu.desk.helpdesk_id,
            helpdesk_token=feishu.desk.helpdesk_token,
        )
        url = f"{feishu.url}/open-apis/helpdesk/v1/events/subscribe"
        body = f'{{"events": {events}}}'
        async with session.post(url, data=body, headers=desk.headers()) as answer:
            assert (await answer.json())["code"] == 155000
    assert feishu.api.subscribed is None


async def test_wrong_credentials_are_named(feishu: SmallFeishu) -> None:
    async with aiohttp.ClientSession() as session:
        api = Feishu(session, feishu.url)
        for app_id, secret, code in (("cli_a", "x", "10014"), ("cli_b", "secret-a", "10003")):
            with pytest.raises(FeishuRefusedError, match=code) as refused:
                await api.tenant_token(app_id, secret)
            assert "secret-a" not in str(refused.value)
        with pytest.raises(FeishuRefusedError, match="514"):
            await api.endpoint("cli_a", "x")
        with pytest.raises(FeishuUnavailableError, match="cannot be reached"):
            await Feishu(session, "http://127.0.0.1:1").tenant_token("a", "b")


@pytest.fixture
def environment(
    feishu: SmallFeishu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    values = {
        "RELAY_FEISHU_URL": feishu.url,
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "RELAY_KAFKA__TIMEOUT": "1s",
        "RELAY_JOURNAL__PATH": str(tmp_path / "journal.db"),
        "RELAY_APPS__DEFAULT__APP_ID": OPTIONS.app_id,
        "RELAY_APPS__DEFAULT__APP_SECRET": OPTIONS.app_secret,
        "RELAY_APPS__DEFAULT__LONG_CONNECTION": "true",
        "RELAY_APPS__DEFAULT__HELPDESK_ID": feishu.desk.helpdesk_id,
        "RELAY_APPS__DEFAULT__HELPDESK_TOKEN": feishu.desk.helpdesk_token,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


async def run(*arguments: str) -> tuple[int, str]:
    """Run a command beside the small Feishu's loop."""
    result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    error = f"{result.exception}" if result.exception else ""
    return result.exit_code, result.output + error


async def test_subscribe_commands(
    environment: dict[str, str], feishu: SmallFeishu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four events, chosen ones, none; and what went wrong in plain words."""
    assert (await run("subscribe"))[0] == 0
    assert feishu.api.subscribed is not None
    assert len(feishu.api.subscribed) == 4
    code, said = await run("unsubscribe", "--event", "helpdesk.ticket.created_v1")
    assert (code, said) == (0, "No longer subscribed: helpdesk.ticket.created_v1\n")
    assert len(feishu.api.subscribed) == 3
    code, said = await run("subscriptions")
    assert code == 0
    assert "helpdesk.ticket.created_v1" in said
    assert "never" in said
    assert "nothing is known of earlier events" in said
    assert "no app 'nobody'" in (await run("subscribe", "--app", "nobody"))[1]
    monkeypatch.setenv("RELAY_APPS__DEFAULT__APP_SECRET", "wrong-secret")
    code, said = await run("subscribe")
    assert code == 1
    assert "app_secret is wrong" in said
    assert "wrong-secret" not in said
    monkeypatch.delenv("RELAY_APPS__DEFAULT__HELPDESK_TOKEN")
    assert "needs apps.default.helpdesk_token" in (await run("subscribe"))[1]


async def test_commands_go_to_the_apps_own_feishu(
    environment: dict[str, str],
    feishu: SmallFeishu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An app of Lark's beside one of Feishu's: subscription, check and backfill."""
    monkeypatch.setenv("RELAY_FEISHU_URL", "http://127.0.0.1:1")
    async with journal_at(tmp_path / "journal.db"):
        pass
    backfill = ("backfill", "--since", "2026-01-01", "--until", "2026-01-02")
    for words in (("subscribe",), ("unsubscribe",), backfill):
        code, said = await run(*words)
        assert (code, "127.0.0.1:1 cannot be reached" in said) == (1, True)
    monkeypatch.setenv("RELAY_APPS__DEFAULT__FEISHU_URL", feishu.url)
    for words in (("subscribe",), ("unsubscribe",), backfill):
        assert (await run(*words))[0] == 0, words
    assert "cli_a: the credentials work; no client is online" in (await run("check"))[1]


async def test_subscriptions_tell_when_an_event_last_came(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Of the app that was asked for, by type; also of types that nobody subscribed to."""
    async with journal_at(tmp_path / "journal.db") as journal:
        for n, at in enumerate((1_767_323_045_678, 1_767_323_099_000)):
            await journal.add(event(f"e-{n}", received_at=at))
        await journal.add(event("e-2", app="other", received_at=1_767_999_999_999))
    code, said = await run("subscriptions")
    assert code == 0
    times = dict(line.split(None, 1) for line in said.splitlines() if line.startswith("helpdesk."))
    assert times.pop("helpdesk.ticket_message.created_v1").strip() == "2026-01-02T03:04:59.000Z"
    assert {time.strip() for time in times.values()} == {"never, within the dedupe window"}
    lines = (await run("subscriptions", "--json"))[1].splitlines()
    told = {one["event_type"]: one["last_received"] for one in map(json.loads, lines)}
    assert told.pop("helpdesk.ticket_message.created_v1") == "2026-01-02T03:04:59.000Z"
    assert (len(told), set(told.values())) == (3, {None})
    assert "nothing is known" not in said


async def test_check_tries_the_credentials(
    environment: dict[str, str], feishu: SmallFeishu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says who else is online, where that matters."""
    _, said = await run("check")
    assert "cli_a: the credentials work; no client is online" in said
    client = Client(feishu)
    await until(lambda: feishu.gateway.clients == 1)
    _, said = await run("check")
    assert "cli_a: the credentials work; 1 client is online" in said
    other = Client(feishu)
    await until(lambda: feishu.gateway.clients == 2)
    _, said = await run("check")
    assert "2 clients are online: each takes a share" in said
    await other.stop()
    await client.stop()
    monkeypatch.setenv("RELAY_APPS__DEFAULT__LONG_CONNECTION", "false")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__VERIFICATION_TOKEN", "t")
    assert "cli_a: the credentials work\n" in (await run("check"))[1]
