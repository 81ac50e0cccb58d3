"""The operator's pages over HTTP, as a browser or a script meets them."""

import asyncio
import json
import re
import socket
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, encode_basic_auth
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from relay.cli.main import app
from relay.console import peers, replica, words
from relay.console.fleet import OVERVIEW
from relay.console.guard import Gate
from relay.console.replica import Parts
from relay.console.server import ConsoleServer
from relay.contract.normalize import Router
from relay.errors import JournalBusyError
from relay.events import DeadLetterReason, Outcome, Settlement
from relay.journal import view
from relay.journal.journal import Journal
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.settings import Console
from relay.settings.values import Endpoint
from tests.fakes import TOKEN, as_json, event, journal_at, payload

PASSWORD = "correct horse"


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u2066\x1b[31m\x00'\"&|"


@dataclass(slots=True, kw_only=True)
class Place:
    """A console that listens, of a journal that nobody publishes."""

    url: str
    journal: Journal
    path: Path
    parts: Parts
    session: ClientSession

    async def get(self, path: str, status: int = 200) -> str:
        async with self.session.get(self.url + path, allow_redirects=False) as answer:
            assert answer.status == status
            return await answer.text()

    async def document(self, path: str) -> Any:
        async with self.session.get(self.url + path) as answer:
            assert answer.content_type == "application/json"
            return await answer.json()

    async def send(
        self, path: str, form: Mapping[str, Any], status: int = 200, **headers: str
    ) -> str:
        """Send a form as a browser does from a page of this console."""
        headers = {"Origin": self.url, **headers}
        async with self.session.post(self.url + path, data=form, headers=headers) as answer:
            assert answer.status == status
            return await answer.text()

    def token(self) -> str:
        """Give what a form of ann's carries."""
        return Gate(PASSWORD).token("ann")

    async def letter(self, event_id: str, reason: str = DeadLetterReason.TOO_LARGE) -> str:
        """Have a dead letter; give what its box has as value."""
        await self.add(event_id)
        seq = self.journal.last_seq()
        ending = Settlement(seq=seq, outcome=Outcome.DEAD_LETTER, reason=reason)
        await self.journal.settle([ending], 1_767_323_046_000)
        return f"{self.journal.id}|default|{event_id}"

    async def add(self, event_id: str, **changes: Any) -> None:
        changes = {"body": as_json(payload(event_id)), **changes}
        await self.journal.add(replace(event(event_id), **changes))

    def outcome(self, event_id: str) -> tuple[str, str | None]:
        """Give how an event ended, as the journal has it."""
        with view.opened(self.path) as journal:
            entry, _ = journal.find(event_id)
        return entry.outcome, entry.reason


@asynccontextmanager
async def console_at(path: Path, name: str = "relay-0", peers: str = "") -> AsyncIterator[Place]:
    metrics = Metrics()
    async with journal_at(path / "journal.db", metrics, max_bytes=2**30) as journal:
        parts = Parts(
            name=name,
            path=path / "journal.db",
            router=Router("feishu.", {}),
            metrics=metrics,
            draining=lambda: False,
        )
        kafka = Changes(structlog.get_logger(), "kafka_connected")
        parts.serve(journal, kafka, None)
        settings = Console(port=0, password=SecretStr(PASSWORD), peers=peers)
        server = ConsoleServer(settings, parts)
        url = f"http://127.0.0.1:{await server.start()}"
        headers = {"Authorization": encode_basic_auth("ann", PASSWORD)}
        async with ClientSession(headers=headers) as session:
            yield Place(
                url=url,
                journal=journal,
                path=path / "journal.db",
                parts=parts,
                session=session,
            )
        await server.stop()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with console_at(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "path",
    ["/", "/style.css", "/events", "/dead-letters", "/api/overview", "/api/events", "/nothing"],
)
@pytest.mark.parametrize("password", [None, "wrong", PASSWORD])
async def test_every_answer_is_kept_by_nobody_and_runs_nothing(
    path: str, password: str | None, place: Place
) -> None:
    headers = {"Authorization": encode_basic_auth("ann", password)} if password else None
    async with (
        ClientSession(headers=headers) as session,
        session.get(place.url + path) as answer,
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        text = await answer.text()
    if path != "/style.css":
        let_in = 404 if "nothing" in path else 200
        assert answer.status == (let_in if password == PASSWORD else 401)
    assert "<script" not in text
    assert PASSWORD not in text


async def test_overview_shows_the_account(place: Place) -> None:
    for number in range(3):
        await place.journal.add(event(f"e-{number}"))
    page = await place.get("/")
    assert "relay-0" in page
    assert place.journal.id in page
    assert "everything received is accounted for" in page
    said = await place.document("/api/overview")
    assert said["account"]["received"] == said["account"]["pending"] == 3
    assert said["journal"] == place.journal.id
    assert said["disk"]["used"] > 0


async def test_overview_shows_the_last_words_of_an_error(place: Place) -> None:
    """Also of one that is over, by its time."""
    assert place.parts.kafka
    place.parts.kafka.failing("kafka_unavailable", "no broker of <b>three</b> answers")
    lost = Changes(structlog.get_logger(), "long_connection_recovered")
    lost.noted("long_connection_lost", "deaf")
    lost.working()
    place.parts.connections = {"helpdesk": lost}
    place.parts.metrics.connected("helpdesk", up=True)
    place.parts.claims = Changes(structlog.get_logger(), "claims_available")
    page = await place.get("/")
    assert "no broker of &lt;b&gt;three&lt;/b&gt; answers" in page
    assert "Needs a person" in page
    assert "deaf" in page
    said = await place.document("/api/overview")
    assert said["kafka"]["up"] is False
    assert said["connections"][0]["trouble"]["until"] is not None


async def test_overview_refreshes_until_it_is_to_stand_still(place: Place) -> None:
    async with place.session.get(place.url) as answer:
        assert answer.headers["Refresh"] == "5; url=/"
    async with place.session.get(place.url + "/?pause") as answer:
        assert "Refresh" not in answer.headers
        assert "refresh by itself" in await answer.text()


async def test_console_shows_that_the_journal_cannot_be_opened(place: Place) -> None:
    place.parts.journal = None
    page = await place.get("/")
    assert "its journal cannot be opened: the volume is full" in page
    assert (await place.document("/api/overview"))["disk"] is None


async def test_a_refusal_is_json_where_json_was_asked_for(place: Place) -> None:
    async with place.session.post(place.url + "/api/overview") as answer:
        assert answer.status == 405
        assert (await answer.json())["error"] == "method_not_allowed"
    assert "There is no such page" in await place.get("/nothing", 404)


@pytest.mark.parametrize("text", ["e-1", "77", " 77 "])
async def test_one_box_finds_by_any_id(text: str, place: Place) -> None:
    await place.add("e-1")
    await place.add("e-2", body=as_json(payload("e-2", event={"ticket": {"ticket_id": "78"}})))
    async with place.session.get(f"{place.url}/events", params={"text": text}) as answer:
        page = await answer.text()
    assert "/event?id=e-1" in page
    assert "/event?id=e-2" not in page
    assert "2026-01-02 03:04:05</time>" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"e-1", "e-2"}),
        ("outcome=pending", {"e-1"}),
        ("outcome=dead_letter&reason=too_large", {"e-2"}),
        ("transport=long_connection", set()),
        ("since=2026-01-02", {"e-1", "e-2"}),
        ("until=2026-01-02 03:00", set()),
        ("since=1m", set()),
        ("type=helpdesk.ticket.created_v1", set()),
        ("app=default", {"e-1", "e-2"}),
    ],
)
async def test_filters_narrow(query: str, found: set[str], place: Place) -> None:
    await place.add("e-1")
    await place.letter("e-2")
    page = await place.get(f"/events?{query}")
    assert set(re.findall(r"/event\?id=([^&]+)&amp;", page)) == found
    assert bool(found) != ("No event of this kind" in page)


@pytest.mark.parametrize("query", ["outcome=x", "transport=x", "before=j:x", "limit=x", "since=-1"])
async def test_a_wrong_word_is_told(query: str, place: Place) -> None:
    async with place.session.get(f"{place.url}/api/events?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"] == "bad_request"
    assert "is no time" in await place.get("/events?since=yesterday")


async def test_pages_follow_each_other(place: Place) -> None:
    for number in range(120):
        await place.add(f"e-{number}")
    path, seen = "/events", []
    while path:
        page = await place.get(path)
        seen += re.findall(r"/event\?id=(e-[0-9]+)&amp;", page)
        older = re.search(r'class="next" href="([^"]+)"', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == [f"e-{number}" for number in reversed(range(120))]


async def test_an_events_life_is_told(place: Place) -> None:
    await place.letter("e-1")
    page = await place.get("/event?id=e-1")
    for word in ("received", "on disk", "dead letter", "feishu.helpdesk.ticket_message", "ce_id"):
        assert word in page
    assert words.REMEDIES[DeadLetterReason.TOO_LARGE].replace("'", "&#39;") in page
    assert "你好" not in page
    assert TOKEN not in page
    assert "There is no such page" in await place.get("/event?id=nope", 404)
    assert (await place.session.get(f"{place.url}/api/event?id=nope")).status == 404


async def test_each_look_at_a_body_is_logged(place: Place) -> None:
    await place.add("e-1")
    with capture_logs() as logs:
        page = await place.get("/event?id=e-1&body=1")
        said = await place.document("/api/event?id=e-1&body=1")
    assert "你好" in page
    assert "你好" in said["body"]
    assert TOKEN not in page + json.dumps(said)
    looked = {"user": "ann", "app": "default", "event_id": "e-1", "log_level": "info"}
    assert logs == [{"event": "console_body_shown", **looked}] * 2


@pytest.mark.parametrize(
    "body",
    [
        as_json(payload("e-1", event={"ticket": {"ticket_id": HOSTILE}, "text": HOSTILE})),
        as_json(payload("e-1", event={"text": "🐎" + "x" * 2**20})),
        HOSTILE.encode() * 1000,
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"",
    ],
    ids=["markup", "1 MB", "no JSON", "deep", "no UTF-8", "empty"],
)
async def test_hostile_bodies_are_inert_on_every_page(body: bytes, place: Place) -> None:
    await place.add("e-1", body=body)
    await place.add(HOSTILE, body=body, event_type=HOSTILE)
    ending = [Settlement(seq=seq, outcome=Outcome.DEAD_LETTER, reason="not_json") for seq in (1, 2)]
    await place.journal.settle(ending, 1_767_323_046_000)
    paths = ["/", "/events", "/dead-letters", "/event?id=e-1", "/event?id=e-1&body=1"]
    for path in paths:
        page = await place.get(path)
        assert "<script" not in page
        assert "<img" not in page
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", page)
        assert len(page) < 400_000
    params = {"id": HOSTILE, "body": "1"}
    async with place.session.get(f"{place.url}/event", params=params) as answer:
        assert answer.status == 200
        assert "<script" not in await answer.text()


@pytest.mark.parametrize(
    ("deed", "form", "ends"),
    [
        ("replay", "pick", ("pending", None)),
        ("discard", "pick", ("dead_letter", "discarded")),
        ("replay", "shown", ("pending", None)),
    ],
)
async def test_dead_letters_are_decided_upon_with_a_count_to_confirm(
    deed: str, form: str, ends: tuple[str, str | None], place: Place
) -> None:
    box = await place.letter("e-1")
    page = await place.get("/dead-letters")
    assert f'value="{box}"' in page
    assert f'name="token" value="{place.token()}"' in page
    assert "too large" in page
    token = place.token()
    every = "-all" if form == "shown" else ""
    asked = await place.send("/confirm", {"token": token, form: box, "deed": deed + every})
    assert f"{deed.capitalize()} 1 event?" in asked
    assert place.outcome("e-1") == ("dead_letter", "too_large")
    with capture_logs() as logs:
        done = await place.send("/do", {"token": token, "pick": box, "deed": deed})
    assert "1 event " in done
    assert place.outcome("e-1") == ends
    change = {"user": "ann", "deed": deed, "events": ("default/e-1",), "left": ()}
    assert logs == [{"event": "console_changed", "log_level": "info", **change}]


async def test_what_cannot_be_replayed_is_told(place: Place) -> None:
    await place.add("e-1")
    form = {
        "token": place.token(),
        "pick": f"{place.journal.id}|default|e-1",
        "deed": "replay",
    }
    page = await place.send("/do", form)
    assert "still pending" in page
    assert "Nothing is chosen" in await place.send(
        "/confirm", {"token": form["token"], "deed": "replay"}
    )


@pytest.mark.parametrize("path", ["/confirm", "/do"])
@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("", {}),
        ("0" * 64, {}),
        (None, {"Origin": "http://evil.example"}),
        (None, {"Origin": "null"}),
        (None, {"Sec-Fetch-Site": "cross-site"}),
        (None, {"Sec-Fetch-Site": "same-site"}),
    ],
)
async def test_another_sites_form_changes_nothing(
    path: str, token: str | None, headers: dict[str, str], place: Place
) -> None:
    box = await place.letter("e-1")
    given = place.token() if token is None else token
    await place.send(path, {"token": given, "pick": box, "deed": "discard"}, 403, **headers)
    assert place.outcome("e-1") == ("dead_letter", "too_large")


@pytest.mark.parametrize("form", [{"deed": "erase"}, {}, {"deed": "replay", "pick": "x|y"}])
async def test_a_form_that_is_none_of_ours_is_refused(form: dict[str, str], place: Place) -> None:
    await place.send("/do", {"token": place.token(), **form}, 400)


@pytest.mark.parametrize(
    ("headers", "text", "status"),
    [
        ({"Content-Type": "text/plain"}, '{"events": {}}', 415),
        ({"Content-Type": "application/json", "Origin": "http://evil"}, '{"events": {}}', 403),
        ({"Content-Type": "application/json"}, "{", 400),
        ({"Content-Type": "application/json"}, "{}", 400),
        ({"Content-Type": "application/json"}, '{"events": {"j": [["a"]]}}', 400),
        (
            {"Content-Type": "application/json"},
            json.dumps({"events": {"j": [["a", "b"]] * 1001}}),
            413,
        ),
    ],
)
async def test_api_changes_nothing_that_a_foreign_page_could_send(
    headers: dict[str, str], text: str, status: int, place: Place
) -> None:
    url = f"{place.url}/api/replay"
    async with place.session.post(url, data=text, headers=headers) as answer:
        assert answer.status == status


async def test_reads_are_in_a_thread_and_few_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop, which answers Feishu, goes on while a look takes long."""
    held, threads = threading.Event(), set()

    def look(*_: object, **__: object) -> Any:
        threads.add(threading.current_thread().name)
        assert held.wait(20)
        raise JournalBusyError("held")

    monkeypatch.setattr(replica.Replica, "_page", look)
    asking = [asyncio.create_task(place.get("/api/events", 503)) for _ in range(34)]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    held.set()
    await asyncio.gather(*asking)
    assert threads
    assert all(name.startswith("console") for name in threads)


async def test_a_journal_that_cannot_be_read_is_told(place: Place) -> None:
    place.parts.journal = None
    assert "cannot be opened" in await place.get("/events")
    assert "cannot be read" in (await place.document("/api/events"))["detail"]


async def test_all_replicas_are_on_each_page(tmp_path: Path) -> None:
    """And the one that does not answer is named."""
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(console_at(tmp_path / "1", "relay-1"))
        there = other.url.removeprefix("http://")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            away = f"127.0.0.1:{nobody.getsockname()[1]}"
            peers = f"localhost:{there.rpartition(':')[2]},{there},{away},no.such.invalid"
            own = await stack.enter_async_context(console_at(tmp_path / "0", peers=peers))
            await own.add("e-0")
            await other.add("e-1")
            box = await other.letter("e-2")
            for path in ("/events", "/dead-letters", "/"):
                page = await own.get(path)
                assert "relay-1" in page
                assert away in page
                assert "no.such.invalid:9091" in page
                assert page.count("e-2</a>") == (path != "/")
            assert "relay-1" in await own.get("/event?id=e-1")
            with capture_logs() as logs:
                form = {"token": own.token(), "pick": box, "deed": "replay"}
                page = await own.send("/do", form)
            assert "1 event pending again" in page
            assert other.outcome("e-2") == ("pending", None)
            changes = [one for one in logs if one["event"] == "console_changed"]
            assert [(one["user"], one["events"]) for one in changes] == [("ann", ("default/e-2",))]
            await other.session.close()


async def test_what_a_silent_replica_has_is_untouched(tmp_path: Path) -> None:
    async with console_at(tmp_path) as place:
        form = {"token": place.token(), "pick": "gone|default|e-1", "deed": "replay"}
        page = await place.send("/do", form)
        assert "1 untouched" in page


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n", "refuses the password"),
        (b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n", "answers 500"),
        (b"HTTP/1.1 302 no\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 200 ok\r\nContent-Length: 2\r\n\r\n{}", "none of a console of this version"),
        (b"HTTP/1.1 200 ok\r\nContent-Length: 9\r\n\r\n{}", "ClientPayloadError"),
        (b"nothing\r\n\r\n", "BadHttpMessage"),
        (b"", "ServerDisconnectedError"),
    ],
)
async def test_a_peer_that_answers_badly_is_named(answer: bytes, problem: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        at = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        question = peers.Question(path="/api/overview", reader=OVERVIEW, params={})
        (said,) = await peers.ask([at], ("ann", PASSWORD), question)
    assert said.name == str(at)
    assert said.said is None
    assert problem in said.problem or said.problem.endswith("Error")


async def test_a_peer_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(peers, "PATIENCE", 0.2)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        at = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        question = peers.Question(path="/api/overview", reader=OVERVIEW, params={})
        (said,) = await peers.ask([at], ("ann", PASSWORD), question)
    assert said.problem.startswith("no answer within")


async def test_events_of_all_replicas_are_changed_where_they_lie(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, in the name of who calls it."""
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("RELAY_CONSOLE__PASSWORD", PASSWORD)
    there = place.url.removeprefix("http://")
    for name in ("e-1", "e-2", "e-3"):
        await place.letter(name)

    async def run(*options: str) -> tuple[int, str]:
        command = ["events", *options, "--peers", there]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        return done.exit_code, done.output

    code, said = await run("replay", "e-1")
    assert (code, "1 events: pending again" in said) == (0, True)
    assert place.outcome("e-1") == ("pending", None)
    assert (await run("discard", "--reason", "too_large"))[0] == 2
    code, said = await run("discard", "--reason", "too_large", "--yes", "--json")
    # Before it stands what the console has logged.
    assert (code, json.loads(said.splitlines()[-1])) == (0, {"done": 2, "left": {}})
    assert place.outcome("e-3") == ("dead_letter", "discarded")
    assert (await run("replay", "e-1"))[0] == 1
    assert (await run("discard", "nope"))[0] == 1
    await place.add("e-4")
    ending = Settlement(seq=place.journal.last_seq(), outcome=Outcome.PUBLISHED)
    await place.journal.settle([ending], 1_767_323_046_000)
    code, said = await run("discard", "e-4")
    assert (code, "no dead letter" in said) == (1, True)


async def test_change_of_all_replicas_knows_no_most(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on page after page, in parts; an id that nobody has is named."""
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("RELAY_CONSOLE__PASSWORD", PASSWORD)
    monkeypatch.setattr("relay.cli.events.fleet.LIMIT", 2)
    monkeypatch.setattr("relay.console.api.MOST", 2)
    there = place.url.removeprefix("http://")
    for number in range(5):
        await place.letter(f"e-{number}")

    async def run(*options: str) -> tuple[int, str]:
        command = ["events", *options, "--peers", there, "--yes"]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        return done.exit_code, done.output

    code, said = await run("replay", "--reason", "too_large")
    assert (code, "5 events: pending again" in said) == (0, True), said
    assert {place.outcome(f"e-{number}")[0] for number in range(5)} == {"pending"}
    await place.letter("e-5")
    code, said = await run("replay", "e-5", "nope", "e-4", "--json")
    told = json.loads(said.splitlines()[-1])
    assert (code, told["done"], sorted(told["left"])) == (1, 1, ["e-4", "nope"])


async def test_events_of_all_replicas_are_listed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command; one that does not answer is named, and fails it."""
    await place.add("e-1")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    there = place.url.removeprefix("http://")

    async def run(*options: str) -> tuple[int, str]:
        command = ["events", "list", "--ticket", "77", *options]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        return done.exit_code, done.output

    assert (await run("--peers", there))[0] == 2
    monkeypatch.setenv("RELAY_CONSOLE__PASSWORD", PASSWORD)
    assert (await run("--peers", "a b"))[0] == 2
    code, said = await run("--peers", there)
    assert (code, "e-1" in said) == (0, True)
    code, said = await run("--peers", there, "--json")
    assert (code, json.loads(said)["replica"]) == (0, "relay-0")
    code, said = await run("--peers", f"{there},no.such.invalid")
    assert (code, "e-1" in said, "no.such.invalid:9091 does not answer" in said) == (1, True, True)
    code, said = await run("--peers", there, "--type", "none")
    assert (code, "No journal" in said) == (0, True)


async def test_event_of_any_replica_is_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its body, by the command; one that has it not has answered all the same."""
    await place.add("e-1")
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("RELAY_CONSOLE__PASSWORD", PASSWORD)
    there = place.url.removeprefix("http://")

    async def run(*options: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["events", "show", *options])
        return done.exit_code, done.output

    code, said = await run("e-1", "--peers", there, "--record")
    assert (code, "replica relay-0" in said, "record:" in said) == (0, True, True)
    code, said = await run("e-1", "--peers", there, "--app", "default", "--json")
    told = json.loads(said[said.index("{\n") :])
    assert (code, told["replica"], told["ticket"], "77" in told["body"]) == (
        0,
        "relay-0",
        "77",
        True,
    )
    code, said = await run("nope", "--peers", there)
    assert (code, "does not answer" in said, "No journal" in said) == (1, False, True)
    code, said = await run("e-1", "--peers", f"{there},no.such.invalid")
    assert (code, "replica relay-0" in said, "no.such.invalid:9091" in said) == (1, True, True)


@pytest.mark.parametrize("value", ["%ED%A0%80", "%FF", "%00", "%F0%9F%98", "%25FF", "\udcff"])
async def test_address_of_any_bytes_finds_nothing(place: Place, value: str) -> None:
    """What is no UTF-8, is cut, or has a zero in it; written as it stands, by whatever client."""
    await place.add("e-1")
    names = ("id", "text", "ticket", "type", "app", "reason", "message")
    query = b"&".join(
        name.encode() + b"=" + value.encode(errors="surrogateescape") for name in names
    )
    secret = b64encode(f"ann:{PASSWORD}".encode())
    port = int(place.url.rpartition(":")[2])
    for path in (b"/events", b"/api/events", b"/dead-letters", b"/api/event"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"GET %b?%b HTTP/1.1\r\nHost: a\r\nAuthorization: Basic %b\r\n"
        writer.write(head % (path, query, secret) + b"Connection: close\r\n\r\n")
        status = (await reader.read()).split(b" ", 2)[1]
        writer.close()
        assert status in {b"200", b"400", b"404"}, (path, status)
