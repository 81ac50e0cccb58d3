"""The real command `relay serve` as a process: started, watched, killed and started again."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import aiohttp

from tests import oracle
from tests.e2e import clock as clocks
from tests.e2e.forks import Fork, nursery
from tests.ports import free_port

PROJECT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("relay"))
#: Seconds between two looks.
LOOK = 0.03
#: What may stand in no log: keys, tokens, customers' words.
SECRETS = (oracle.ENCRYPT_KEY, oracle.TOKEN, *oracle.CUSTOMER_TEXT.split(), "xxxxxxxx")
#: `name{labels} value` of Prometheus' text format.
_SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$", re.MULTILINE)


class Relay:
    """One relay on one journal and two ports, which it keeps over its restarts."""

    def __init__(self, directory: Path, bootstrap: str, prefix: str, **settings: str) -> None:
        """`settings` are environment variables without RELAY_, on top of sensible ones."""
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = directory / "journal.db"
        self.bootstrap, self.prefix = bootstrap, prefix
        self._log_file = directory / "relay.log"
        self._log_file.touch()
        self._clock = directory / "clock"
        self._webhook_port, self._admin_port = free_port(), free_port()
        self._settings = self._defaults() | settings
        self._process: subprocess.Popen[bytes] | Fork | None = None

    def _defaults(self) -> dict[str, str]:
        return {
            "APPS__DEFAULT__ENCRYPT_KEY": oracle.ENCRYPT_KEY,
            "APPS__DEFAULT__VERIFICATION_TOKEN": oracle.TOKEN,
            "WEBHOOK__HOST": "127.0.0.1",
            "WEBHOOK__PORT": str(self._webhook_port),
            "ADMIN__HOST": "127.0.0.1",
            "ADMIN__PORT": str(self._admin_port),
            "JOURNAL__PATH": str(self.journal),
            "KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA__TOPIC_PREFIX": self.prefix,
            "KAFKA__PARTITIONS": "3",
            "DRAIN__DELAY": "0s",
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End it whatever happened, and look through its whole log."""
        if self._process is not None:
            self.kill()
            await self.ended()
        if error is not None:
            error.add_note(f"The end of relay's log:\n{self.log[-3000:]}")
            return
        found = [secret for secret in SECRETS if secret in self.log]
        assert not found, f"the log holds {found}"

    @property
    def url(self) -> str:
        """Where Feishu would call it."""
        return f"{self._at('WEBHOOK')}/webhook/event"

    def _at(self, listener: str) -> str:
        host, port = (self._settings[f"{listener}__{name}"] for name in ("HOST", "PORT"))
        host = {"::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def log(self) -> str:
        """What all its processes have printed."""
        return self._log_file.read_text()

    @property
    def running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running one."""
        assert self._process is not None
        return self._process.pid

    def start(
        self,
        *,
        crash: str = "",
        point: str = "",
        clock: float | None = None,
        listing: str = "",
        file_size: str = "",
        **settings: str,
    ) -> None:
        """Run `relay serve`; dying at a point of crash.py or points.py, or with a wrong clock.

        `clock` is in seconds ahead, and may then be changed; `listing` gets the modules that it had
        loaded at its end; no file may grow beyond `file_size` bytes.
        """
        assert self._process is None, "it runs already"
        ways = {"crash": crash, "points": point, "listing": listing}
        if clock is not None:
            self.set_clock(clock)
            ways["clock"] = str(self._clock)
        words = ["relay", "serve"]
        for way, argument in ways.items():
            if argument:
                words = [f"tests.e2e.{way}", argument, "--", "serve"]
        environment = _environment(self._settings | settings)
        with self._log_file.open("ab") as log:
            self._process = self._run(words, file_size, environment, log)

    def _run(
        self, words: list[str], file_size: str, environment: dict[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes] | Fork:
        """Run a module, by its name, with arguments; relay itself as a user does."""
        module, *arguments = words
        command = [COMMAND] if module == "relay" else [sys.executable, "-m", module]
        if file_size:
            command = ["prlimit", f"--fsize={file_size}:", *command]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def set_clock(self, ahead: float) -> None:
        """Set the clock of a process that was started with one; in seconds ahead."""
        clocks.write(self._clock, ahead)

    async def command(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Run another command with the same settings; give its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            env=_environment(self._settings | settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()

    async def serving(self, *, clock: float | None = None, **settings: str) -> None:
        """Start it and wait until it is ready."""
        self.start(clock=clock, **settings)
        await self.ready()

    async def ready(self, timeout: float = 15) -> None:  # noqa: ASYNC109 - a deadline to poll to
        """Wait until /readyz says so."""
        await until(self.is_ready, timeout, "relay is ready")

    async def is_ready(self) -> bool:
        """Ask /readyz once."""
        assert self._process is not None
        assert self._process.poll() is None, f"relay ended: {self.log[-2000:]}"
        status, _ = await self._get("/readyz")
        return status == 200

    async def metrics(self) -> dict[str, float]:
        """Scrape it, and check the account: it must balance at every scrape."""
        status, text = await self._get("/metrics")
        assert status == 200
        values = {name: float(value) for name, value in _SAMPLE.findall(text)}
        received = _sum(values, "relay_received_total")
        settled, pending = _sum(values, "relay_settled_total"), values["relay_pending_events"]
        assert received == settled + pending, f"{received} != {settled} + {pending}"
        return values

    async def drained(self, timeout: float = 30) -> None:  # noqa: ASYNC109 - a deadline to poll to
        """Wait until nothing is pending."""

        async def empty() -> bool:
            return (await self.metrics())["relay_pending_events"] == 0

        await until(empty, timeout, "the journal is drained")

    async def logged(self, event: str, timeout: float = 20) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for a log event; give its fields."""

        async def said() -> bool:
            return bool(self.said(event))

        await until(said, timeout, f"the log says {event}")
        return self.said(event)[-1]

    def said(self, event: str) -> list[dict[str, Any]]:
        """Every occurrence of a log event."""
        lines = [line for line in self.log.splitlines() if line.startswith("{")]
        return [fields for line in lines if (fields := json.loads(line))["event"] == event]

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    async def ended(self, timeout: float = 30) -> int:  # noqa: ASYNC109 - a deadline to poll to
        """Wait until it has ended; give its exit code, negative after a signal."""
        process, code = self._process, None
        assert process is not None

        async def over() -> bool:
            nonlocal code
            code = process.poll()
            return code is not None

        await until(over, timeout, "relay has ended")
        assert code is not None
        self._process = None
        return code

    async def killed(self) -> None:
        """SIGKILL and wait for the end."""
        self.kill()
        await self.ended()

    async def stopped(self, timeout: float = 30) -> int:  # noqa: ASYNC109 - a deadline to poll to
        """SIGTERM and wait for the exit code."""
        self.terminate()
        return await self.ended(timeout)

    def resident(self, field: str = "VmRSS") -> float:
        """Its memory in MiB, now or (VmHWM) at its highest."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", text)
        assert found
        return int(found[1]) / 1024

    async def _get(self, path: str) -> tuple[int, str]:
        url = f"{self._at('ADMIN')}{path}"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(url) as response,
            ):
                return response.status, await response.text()
        return 0, ""


class ForkedRelay(Relay):
    """The same for tests that start it again and again: see forks.py."""

    def _run(
        self, words: list[str], file_size: str, environment: dict[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes] | Fork:
        if file_size or words[0] in {"tests.e2e.clock", "tests.e2e.listing"}:
            # A wrong clock must be there before the libraries are; only what is needed is listed.
            return super()._run(words, file_size, environment, log)
        return nursery(words[0]).fork(*words, environment=environment, output=log)

    async def command(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Run another command with the same settings; give its exit code and what it printed."""
        environment = _environment(self._settings | settings)
        with tempfile.TemporaryFile() as printed:
            words = ("relay", *arguments)
            fork = nursery("relay").fork(*words, environment=environment, output=printed)

            async def over() -> bool:
                return fork.poll() is not None

            await until(over, 30, f"`relay {' '.join(arguments)}` has ended")
            printed.seek(0)
            assert fork.returncode is not None
            return fork.returncode, printed.read().decode()


async def until(
    condition: Callable[[], Awaitable[bool]],
    timeout: float,  # noqa: ASYNC109 - a deadline to poll to
    what: str,
) -> None:
    """Poll until a condition holds; fail at the deadline with a sentence."""
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain until {what}"
        await asyncio.sleep(LOOK)


@contextlib.asynccontextmanager
async def compared(relay: Relay, source: oracle.Oracle) -> AsyncIterator[None]:
    """After the block: drain the relay, then each acknowledged event must be on Kafka once."""
    yield
    await relay.drained()
    report = await source.compared(relay.bootstrap, relay.prefix)
    assert not report.faults(), report.faults()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("RELAY_")}
    return inherited | {f"RELAY_{name}": value for name, value in settings.items()}


def _sum(values: Mapping[str, float], name: str) -> float:
    return sum(value for key, value in values.items() if key.split("{")[0] == name)
