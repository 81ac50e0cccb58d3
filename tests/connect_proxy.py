"""A real HTTP proxy for tests: CONNECT and plain requests, with a password, or a refusal for all.

Names need no DNS: it alone knows where each is. What it has been asked for stands in `asked`.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class HttpProxy:
    """A proxy on loopback."""

    #: `host:port` → the loopback port that is meant.
    places: Mapping[str, int]
    #: `user:password` that it wants; empty: nothing.
    credentials: str = ""
    #: A status line that it answers to all instead; empty: none.
    refusal: str = ""
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """What stands in a variable, with the credentials."""
        user = f"{self.credentials}@" if self.credentials else ""
        return f"http://{user}127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request, and pass on what comes after it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            self.asked.append(f"{method} {target}")
            if answer := self._refused(head):
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
            else:
                await self._pass(method, target, head, reader, writer)
        writer.close()

    def _refused(self, head: str) -> str:
        known = b64encode(self.credentials.encode()).decode()
        if self.credentials and f"\r\nProxy-Authorization: Basic {known}\r\n" not in head:
            return "407 Proxy Authentication Required"
        return self.refusal

    async def _pass(
        self,
        method: str,
        target: str,
        head: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        place = target if method == "CONNECT" else re.split("/+", target)[1]
        there = await asyncio.open_connection("127.0.0.1", self.places[place])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            there[1].write(re.sub("Proxy-.*\r\n", "", head).encode())
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def http_proxy(
    places: Mapping[str, int], credentials: str = "", refusal: str = ""
) -> AsyncIterator[HttpProxy]:
    """Run a proxy for as long as the context lasts."""
    proxy = HttpProxy(places, credentials, refusal)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
