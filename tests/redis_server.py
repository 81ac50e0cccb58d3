"""A real Redis (or Valkey) for tests: started on a free port, stopped, hung and emptied at will."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port

_READY = 10.0


@dataclass
class RedisServer:
    """One server's process."""

    port: int
    directory: Path
    arguments: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        common = ("--port", str(self.port), "--bind", self.host, "--dir", str(self.directory))
        self._run(*common, "--save", "", *self.arguments)

    def start_sentinel(self, config: Path) -> None:
        """Start as a sentinel, and wait until it answers."""
        self._run(str(config), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1")

    def _run(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            (need_redis(), *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + _READY
        while not self._answers():
            assert self.process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)

    def call(self, *words: str) -> bytes:
        """Send one command; give the raw answer."""
        with socket.create_connection((self.host, self.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65_536)

    def hang(self) -> None:
        """Stop answering, with all connections open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def _signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.call("PING").startswith((b"+PONG", b"-NOAUTH"))
        return False


def need_redis() -> str:
    """Find the server; without one skip at home, fail in CI."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None and os.environ.get("CI"):
        pytest.fail("redis-server is missing")
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


@contextmanager
def redis_server(
    directory: Path, *arguments: str, host: str = "127.0.0.1"
) -> Iterator[RedisServer]:
    """Run a server for as long as the context lasts."""
    server = RedisServer(free_port(), directory, arguments, host)
    server.start()
    try:
        yield server
    finally:
        server.go_on()
        server.kill()
