"""A real browser, led over WebDriver: headless Chromium behind ChromeDriver."""

import asyncio
import re
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp

#: As root, in a container, without a screen.
_ARGS = [
    "--headless=new",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
]
_NO_SCRIPTS = {"profile.managed_default_content_settings.javascript": 2}
#: The name that the standard gives to an element in JSON.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(self, method: str, path: str, **values: Any) -> Any:
        """Send one command, give its value."""
        data = values if method == "POST" else None
        async with self._session.request(method, self._url + path, json=data) as answer:
            value = (await answer.json())["value"]
            assert answer.status == 200, value
            return value

    async def open(self, address: str) -> str:
        """Go there; give the page's source."""
        await self.call("POST", "/url", url=address)
        return await self.source()

    async def source(self) -> str:
        """Give the page as it is."""
        return str(await self.call("GET", "/source"))

    async def find(self, css: str) -> str:
        """Give the first element that fits."""
        using = {"using": "css selector", "value": css}
        return str((await self.call("POST", "/element", **using))[_ELEMENT])

    async def click(self, css: str, expected: str) -> str:
        """Click, wait for the page that follows, which says what is expected; give its source."""
        await self.call("POST", f"/element/{await self.find(css)}/click")
        return await self.shown(expected)

    async def shown(self, expected: str) -> str:
        """Wait for a page that says what is expected; give its source."""
        for _ in range(300):
            if expected in (page := await self.source()):
                return page
            await asyncio.sleep(0.1)
        raise AssertionError(f"not there within 30 s: {expected}")

    async def type(self, css: str, text: str) -> None:
        """Type into a field; U+E007 is Enter."""
        await self.call("POST", f"/element/{await self.find(css)}/value", text=text)

    async def run(self, script: str, *args: Any) -> Any:
        """Run a script of the test's own in the page; a promise is awaited."""
        return await self.call("POST", "/execute/sync", script=script, args=list(args))

    async def picture(self, width: int, height: int, *, dark: bool) -> bytes:
        """Give the page as a PNG, as a screen of that width shows it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._chrome("Emulation.setEmulatedMedia", features=[scheme])
        await self._chrome("Emulation.setDeviceMetricsOverride", **metrics)
        return b64decode(await self.call("GET", "/screenshot"))

    async def _chrome(self, command: str, **params: Any) -> None:
        await self.call("POST", "/goog/cdp/execute", cmd=command, params=params)


@contextmanager
def driver() -> Iterator[str]:
    """Run ChromeDriver on a free port; give its URL."""
    command = ["chromedriver", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if port := re.search(rb"started successfully on port (\d+)", line):
                    yield f"http://127.0.0.1:{int(port[1])}"
                    break
            else:
                raise AssertionError("ChromeDriver does not start")
        finally:
            process.terminate()


@asynccontextmanager
async def browser(driver_url: str, *, scripts: bool) -> AsyncIterator[Browser]:
    """Open a window in which pages may, or may not, run scripts."""
    options = {"args": _ARGS, "prefs": {} if scripts else _NO_SCRIPTS}
    wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        opener = Browser(session, driver_url)
        made = await opener.call("POST", "/session", **wanted)
        window = Browser(session, f"{driver_url}/session/{made['sessionId']}")
        try:
            yield window
        finally:
            await window.call("DELETE", "")
