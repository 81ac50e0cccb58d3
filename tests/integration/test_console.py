"""The operator's pages over HTTP, as a browser or a script meets them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, encode_basic_auth
from pydantic import SecretStr

from relay.console.replica import Parts
from relay.console.server import ConsoleServer
from relay.journal.journal import Journal
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.settings import Console
from tests.fakes import event, journal_at

PASSWORD = "correct horse"


@dataclass(slots=True, kw_only=True)
class Place:
    """A console that listens, of a journal that nobody publishes."""

    url: str
    journal: Journal
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


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    metrics = Metrics()
    async with journal_at(tmp_path / "journal.db", metrics, max_bytes=2**30) as journal:
        parts = Parts(name="relay-0", metrics=metrics, draining=lambda: False)
        kafka = Changes(structlog.get_logger(), "kafka_connected")
        parts.serve(journal, kafka, None)
        server = ConsoleServer(Console(port=0, password=SecretStr(PASSWORD)), parts)
        url = f"http://127.0.0.1:{await server.start()}"
        headers = {"Authorization": encode_basic_auth("ann", PASSWORD)}
        async with ClientSession(headers=headers) as session:
            yield Place(url=url, journal=journal, parts=parts, session=session)
        await server.stop()


@pytest.mark.parametrize("path", ["/", "/style.css", "/api/overview", "/nothing", "/api/nothing"])
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
