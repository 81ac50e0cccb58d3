"""Starts what is measured, each process on its cores, and stops it by its handle.

Children get a session of their own: Ctrl-C reaches only the benchmark, which ends them in order.
"""

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from bench.events import ENCRYPT_KEY, VERIFICATION_TOKEN
from tests.ports import free_port

_SAMPLE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_READY_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


class BenchError(Exception):
    """The measurement is void; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """One core for the server that is measured, the others for everything else."""

    server: int
    others: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Self:
        """Take the cores that this process may use."""
        first, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise BenchError("The benchmark needs two cores: one for the server alone.")
        return cls(server=first, others=tuple(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running HTTP server."""

    name: str
    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay(Server):
    """A running relay: a server that says how far it is."""

    admin_port: int

    def metrics(self) -> dict[str, float]:
        """Read `/metrics`: each sample by its name and labels, as they stand there."""
        _, body = _get(self.admin_port, "/metrics", timeout=10)
        return {name + labels: float(value) for name, labels, value in _SAMPLE.findall(body)}

    def pending(self) -> int:
        """Tell how many accepted events are not yet on Kafka."""
        return round(self.metrics()["relay_pending_events"])

    def wait_until_drained(self, timeout: float = 120) -> None:
        """Wait until Kafka has everything."""
        deadline = time.monotonic() + timeout
        while self.pending():
            if time.monotonic() > deadline:
                raise BenchError(f"{self.pending()} events still pending after {timeout:.0f} s.")
            time.sleep(0.05)


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Start processes here: they inherit the cores of the thread that starts them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str],
    *,
    cores: Sequence[int],
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int = subprocess.PIPE,
    descriptors: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on some cores for as long as the context lasts."""
    with pinned(cores):
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=None if output == subprocess.PIPE else subprocess.STDOUT,
            pass_fds=descriptors,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: in an orderly way first, by force after ten seconds."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def bare(core: int, directory: Path) -> Iterator[Server]:
    """Start the bare aiohttp server."""
    port = free_port()
    command = (sys.executable, "-m", "bench.bare", str(port))
    log = directory / "bare.log"
    with log.open("wb") as output, running(command, cores=(core,), output=output) as process:
        server = Server(name="bare", process=process, port=port)
        _wait(lambda: _connects(port), process, log)
        yield server


@contextmanager
def relay(
    command: str,
    core: int,
    directory: Path,
    bootstrap: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Relay]:
    """Start the relay on default settings; the context has it ready.

    Its journal is new unless the directory has one. `environment` holds settings besides.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port, admin_port = free_port(), free_port()
    settings = {
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY": ENCRYPT_KEY,
        "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": VERIFICATION_TOKEN,
        "RELAY_WEBHOOK__HOST": "127.0.0.1",
        "RELAY_WEBHOOK__PORT": str(port),
        "RELAY_ADMIN__PORT": str(admin_port),
        "RELAY_JOURNAL__PATH": str(directory / "journal.db"),
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "RELAY_LOG__LEVEL": "warning",
        "RELAY_DRAIN__DELAY": "0s",
        **(environment or {}),
    }
    log = directory / "relay.log"
    with (
        log.open("wb") as output,
        running((command, "serve"), cores=(core,), environment=settings, output=output) as process,
    ):
        server = Relay(name="relay", process=process, port=port, admin_port=admin_port)
        _wait(lambda: _is_ready(admin_port), process, log)
        try:
            yield server
        except BenchError as error:
            raise BenchError(f"{error}\nThe relay's log ends with:\n{_end(log)}") from error


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{process.args!r} did not get ready; it said:\n{_end(log)}")
        time.sleep(0.005)


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return _get(port, "/readyz", timeout=1)[0] == 200
    return False


def _get(port: int, path: str, *, timeout: float) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
