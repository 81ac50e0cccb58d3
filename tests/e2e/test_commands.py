"""The other commands as a user runs them, beside a relay that must not be disturbed."""

import asyncio
import contextlib
import json
import os
import runpy
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from relay.cli import main as cli
from tests.deploy.tools import needed
from tests.e2e.process import COMMAND, Relay, compared, until
from tests.kafka_server import Broker
from tests.oracle import ENCRYPT_KEY, TOKEN, Oracle, Seen, consume, make_event

NOWHERE = "127.0.0.1:1"
#: What a shell and a container engine say of a process that SIGTERM has ended.
TERMINATED = 128 + signal.SIGTERM


@pytest.fixture
def as_pid_1() -> Sequence[str]:
    """What starts a command as PID 1, as a container engine without an init does."""
    prefix = (needed("unshare", "util-linux"), "--pid", "--fork", "--kill-child")
    if (done := subprocess.run([*prefix, "true"], check=False, capture_output=True)).returncode:
        if os.environ.get("CI"):
            pytest.fail(f"CI may make no PID namespace: {done.stderr.decode()}")
        pytest.skip("only root may make a PID namespace")
    return prefix


@contextlib.asynccontextmanager
async def started(relay: Relay, *command: str | Path) -> AsyncIterator[Process]:
    """Run a command with a relay's settings; whatever happens, it ends with the block."""
    environment = {f"RELAY_{name}": value for name, value in relay._settings.items()}
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def starting(relay: Relay, fifo: Path, *command: str | Path) -> AsyncIterator[Process]:
    """Run a command that waits for its settings, out of a FIFO, as long as the block lasts."""
    os.mkfifo(fifo)
    async with started(relay, *command, "--config", fifo) as process:
        writers: list[int] = []

        async def reads() -> bool:
            with contextlib.suppress(OSError):  # nobody reads yet
                writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writers)

        await until(reads, 15, "it reads its settings")
        try:
            yield process
        finally:
            os.close(writers[0])


async def terminated(process: Process, pid: int) -> int:
    """Send SIGTERM from outside; give the exit code."""
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        return await process.wait()


def child(process: Process) -> int:
    """Give the process that `unshare` has forked."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


async def test_check_passes_beside_a_running_relay(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It looks at journal, topics and transactions without fencing the one that works."""
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        async with compared(relay, oracle):
            await oracle.send(50)
            await relay.drained()
            code, printed = await relay.command("check")
            assert code == 0, printed
            await oracle.send(50)
    assert ENCRYPT_KEY not in printed
    assert TOKEN not in printed


async def test_check_fails_without_kafka(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """One sentence says what is wrong."""
    async with Relay(tmp_path, NOWHERE, topic_prefix) as relay:
        code, printed = await relay.command("check")
    assert code == 1
    assert "kafka" in printed
    assert "Traceback" not in printed


async def test_settings_mistake_is_exit_2(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """Each mistake has a line that names it; no secret is shown."""
    async with Relay(tmp_path, NOWHERE, topic_prefix) as relay:
        code, printed = await relay.command("serve", KAFKA__PARTITIONS="0", WEBHOOK__PORT="x")
    assert code == 2
    assert "RELAY_KAFKA__PARTITIONS" in printed
    assert "RELAY_WEBHOOK__PORT" in printed
    assert ENCRYPT_KEY not in printed


async def test_events_are_listed_and_replayed_beside_a_running_relay(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """A replayed event comes once more, says so, and the account still balances."""
    event = make_event("1", 1)
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving()
        assert await Oracle(relay.url).post(event) == 200
        await relay.drained()
        code, printed = await relay.command("events", "list", "--json")
        assert code == 0, printed
        assert [json.loads(line)["event_id"] for line in printed.splitlines()] == [event.event_id]
        code, printed = await relay.command("events", "replay", event.event_id)
        assert code == 0, printed

        async def twice() -> bool:
            name = 'relay_settled_total{outcome="published"}'
            return (await relay.metrics())[name] == 2

        await until(twice, 15, "the event is replayed")
        seen: list[Seen] = []

        async def shown() -> bool:
            # The commit is answered before the last marker is written.
            seen[:] = await consume(kafka.bootstrap, topic_prefix)
            return len(seen) > 1

        await until(shown, 15, "a consumer sees it")
    assert [one.event_id for one in seen] == [event.event_id] * 2
    assert [one.headers.get("relay_replayed") for one in seen] == [None, "1"]


async def test_simulator_is_answered_as_it_demands(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """Events, repeats and hostile requests: each gets the answer of the design's table."""
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving()
        options = ("--rate", "0", "--count", "300", "--hostile", "0.3", "--seed", "1")
        code, printed = await relay.command("simulate", "--url", relay.url, *options)
        assert code == 0, printed
        await relay.drained()


@pytest.mark.parametrize("command", ["serve", "drain"])
async def test_sigterm_ends_pid_1_while_it_starts(
    command: str, as_pid_1: Sequence[str], tmp_path: Path, topic_prefix: str
) -> None:
    """Before `serve` has its own handler: without any, the kernel would keep the signal from it."""
    async with (
        Relay(tmp_path, NOWHERE, topic_prefix) as relay,
        starting(relay, tmp_path / "relay.toml", *as_pid_1, COMMAND, command) as process,
    ):
        assert await terminated(process, child(process)) == TERMINATED


async def test_sigterm_ends_another_process_as_the_signal_that_it_is(
    tmp_path: Path, topic_prefix: str
) -> None:
    """Its parent sees that: to systemd it is no failure, 143 would be one."""
    async with (
        Relay(tmp_path, NOWHERE, topic_prefix) as relay,
        starting(relay, tmp_path / "relay.toml", COMMAND, "serve") as process,
    ):
        assert await terminated(process, process.pid) == -signal.SIGTERM


async def test_sigterm_ends_a_drain_that_is_pid_1(
    as_pid_1: Sequence[str], tmp_path: Path, topic_prefix: str
) -> None:
    """At once, as after a crash: what it has not published is pending still."""
    event = make_event("1", 1)
    async with Relay(tmp_path, NOWHERE, topic_prefix, DRAIN__TIMEOUT="0s") as relay:
        await relay.serving()
        assert await Oracle(relay.url).post(event) == 200
        assert await relay.stopped() == 0
        async with started(relay, *as_pid_1, COMMAND, "drain") as process:
            assert process.stderr
            async with asyncio.timeout(15):
                assert b"kafka_unavailable" in await process.stderr.readline()
            assert await terminated(process, child(process)) == TERMINATED
        code, printed = await relay.command("events", "list", "--outcome", "pending", "--json")
    assert code == 0, printed
    assert [json.loads(line)["event_id"] for line in printed.splitlines()] == [event.event_id]


def test_only_pid_1_has_a_handler_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module again, as the process that a container engine has started would run it."""
    handlers: list[tuple[int, Callable[[int, None], None]]] = []
    codes: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda *handler: handlers.append(handler))
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(os, "getpid", lambda: 2)
    runpy.run_path(cli.__file__)
    assert not handlers
    monkeypatch.setattr(os, "getpid", lambda: 1)
    runpy.run_path(cli.__file__)
    ((number, handler),) = handlers
    handler(number, None)
    assert (number, codes) == (signal.SIGTERM, [TERMINATED])
