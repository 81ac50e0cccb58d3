"""The console in a real browser: what an operator does, and what a stranger's page cannot."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from relay.egress import dispatcher
from relay.events import Outcome, Record
from relay.journal import view
from relay.settings import Console, Settings
from tests import webdriver
from tests.fakes import payload, until
from tests.integration.test_app import Running, running, settings
from tests.sdk.toolchains import AXE
from tests.webdriver import Browser

PASSWORD = "correct horse"
#: Rules of WCAG 2, levels A and AA, and what their makers hold for good besides.
_AXE = """
return axe.run().then(found => found.violations.map(one => one.id + " " + one.nodes[0].html))
"""

pytestmark = pytest.mark.skipif(
    shutil.which("chromedriver") is None and not os.environ.get("CI"),
    reason="needs Chromium and ChromeDriver",
)


@pytest.fixture(scope="module")
def driver() -> Iterator[str]:
    with webdriver.driver() as url:
        yield url


@pytest.fixture(scope="module")
def axe() -> str:
    """Give the script that looks whether a page is accessible."""
    return Path(AXE.command()[-1]).read_text()


class Replica:
    """A relay whose console a browser opens."""

    def __init__(self, run: Running, path: Path) -> None:
        self.run = run
        self.path = path

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.run.relay.console_port}"

    def address(self, password: str = PASSWORD, user: str = "ann") -> str:
        """What is typed: with name and password."""
        return f"http://{user}:{password.replace(' ', '%20')}@{self.place}/"

    def outcome(self, event_id: str) -> str:
        with view.opened(self.path) as journal:
            entry, _ = journal.find(event_id)
        return entry.outcome

    async def letter(self, event_id: str) -> None:
        """Have a dead letter: relay fails on an event, until it is mended."""
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(dispatcher, "normalize", _fail)
            assert (await self.run.send(payload(event_id)))[0] == 200
            await until(lambda: self.outcome(event_id) == Outcome.DEAD_LETTER)


def _fail(*_: object) -> Record:
    raise ValueError("a fault of ours")


def configured(path: Path, kafka: str, prefix: str, name: str, peers: str = "") -> Settings:
    config = settings(path, kafka, prefix)
    console = Console(port=0, password=SecretStr(PASSWORD), peers=peers)
    claims = config.claims.model_copy(update={"replica": name})
    return config.model_copy(update={"console": console, "claims": claims})


@asynccontextmanager
async def replica(
    path: Path, kafka: str, prefix: str, name: str, peers: str = ""
) -> AsyncIterator[Replica]:
    config = configured(path, kafka, prefix, name, peers)
    async with running(config) as run:
        yield Replica(run, config.journal.path)


@pytest.mark.timeout(240)
async def test_an_operator_needs_no_script(
    driver: str, tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """Search a ticket, open its event, replay a dead letter, see a replica that is away."""
    async with AsyncExitStack() as stack:
        kafka = embedded_kafka, topic_prefix
        gone = AsyncExitStack()
        other = await gone.enter_async_context(replica(tmp_path / "1", *kafka, "relay-1"))
        own = await stack.enter_async_context(
            replica(tmp_path / "0", *kafka, "relay-0", other.place)
        )
        assert (await other.run.send(payload("e-there", event={"ticket_id": "88"})))[0] == 200
        await own.letter("e-here")
        screen = await stack.enter_async_context(webdriver.browser(driver, scripts=False))
        assert "relay-0" not in await screen.open(own.address("wrong"))
        page = await screen.open(own.address())
        assert "relay-0" in page
        assert "relay-1" in page
        await _find(screen, own, "88")
        await _replay(screen, own)
        await gone.aclose()
        page = await screen.open(f"http://{own.place}/events")
        assert other.place in page
        assert "does not answer" in page


async def _find(screen: Browser, own: Replica, ticket: str) -> None:
    """Type a ticket's id, as it comes from a customer; its event lies at the other replica."""
    await screen.open(f"http://{own.place}/events")
    await screen.type("#text", ticket + "\ue007")
    page = await screen.shown("e-there")
    assert "e-here" not in page
    await screen.click("td code a", "on disk")
    await screen.click("a[href*='body=1']", "The body that Feishu sent")


async def _replay(screen: Browser, own: Replica) -> None:
    await screen.open(f"http://{own.place}/dead-letters")
    await screen.click("input[type=checkbox]", "Replay chosen")
    await screen.click("button[value=replay]", "Replay 1 event?")
    await screen.click("button[value=replay]", "1 event pending again")
    await until(lambda: own.outcome("e-here") == Outcome.PUBLISHED)
    assert "published" in await screen.open(f"http://{own.place}/event?id=e-here")


@pytest.mark.timeout(240)
async def test_a_strangers_page_changes_nothing_and_ours_are_accessible(
    driver: str, axe: str, tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """With scripts: another site's page sends our form, and axe looks at each of our pages."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(
            replica(tmp_path, embedded_kafka, topic_prefix, "relay-0")
        )
        await own.letter("e-1")
        screen = await stack.enter_async_context(webdriver.browser(driver, scripts=True))
        await screen.open(own.address())
        paths = ("?pause", "events", "event?id=e-1&body=1", "dead-letters", "nothing")
        for path in paths:
            await screen.open(f"http://{own.place}/{path}")
            await screen.run(axe)
            assert await screen.run(_AXE) == [], path
        stranger = await stack.enter_async_context(_stranger(own))
        await screen.open(stranger)
        await screen.click("button", "did not come from a page of this console")
        assert own.outcome("e-1") == Outcome.DEAD_LETTER


@asynccontextmanager
async def _stranger(own: Replica) -> AsyncIterator[str]:
    """Another site, whose page sends our form, with the password that the browser knows."""
    form = (
        f'<form method="post" action="http://{own.place}/do">'
        '<input name="deed" value="discard"><input name="pick" value="x|default|e-1">'
        "<button>A prize</button></form>"
    )

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=form, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
