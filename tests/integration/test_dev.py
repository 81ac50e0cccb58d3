"""`relay dev` inside this process: all of it, on the embedded broker and on a real one."""

import asyncio
import io
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from aiohttp import ClientSession
from rich.console import Console
from typer.testing import CliRunner

from relay.cli.main import app as command
from relay.dev import run as dev
from relay.dev.run import DevOptions
from relay.dev.view import Board, Places
from relay.errors import KafkaUnavailableError, SettingsError
from relay.observe.metrics import Metrics
from relay.simulator.feishu import SmallFeishu
from relay.tail import Seen, Tail
from tests.fakes import until
from tests.kafka_server import Broker

FAST = DevOptions(rate=100, repeat=0.2, hostile=0.2, seed=1, duration=1)
ACCOUNT = re.compile(
    r"received (\d+) = published (\d+) \+ duplicate (\d+) \+ dead-lettered 0 \+ pending 0  ✓"
)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However it ends, its temporary directory is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


async def test_everything_sent_is_accounted_for_and_seen_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await dev.run(FAST) == 0
    out = capsys.readouterr().out
    *_, account = ACCOUNT.findall(out)
    received, published, duplicate = (int(number) for number in account)
    assert received == published + duplicate
    assert published > 30
    assert duplicate > 0
    assert f"consumer {published}" in out
    assert "TWICE" not in out
    assert "UNEXPECTED" not in out
    assert "must be" not in out.replace("as it must be", "")


async def test_a_real_broker_is_used_when_one_is_named(
    kafka: Broker,
    topic_prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.setenv("RELAY_KAFKA__TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("RELAY_KAFKA__PARTITIONS", "2")
    monkeypatch.setenv("RELAY_KAFKA__REPLICATION_FACTOR", "1")
    assert await dev.run(DevOptions(rate=50, seed=1, duration=4)) == 0
    out = capsys.readouterr().out
    *_, (_, published, _) = ACCOUNT.findall(out)
    assert f"consumer {published}" in out
    assert "(embedded)" not in out


async def test_taken_ports_are_no_obstacle(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as webhook, socket.socket() as admin, socket.socket() as console:
        for holder, port in ((webhook, 8080), (admin, 9090), (console, 9091)):
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind(("127.0.0.1", port))
                holder.listen()
            except OSError:
                continue  # somebody else holds it already, which will do
        assert await dev.run(FAST) == 0
    assert ":8080/" not in capsys.readouterr().out


def test_half_of_the_events_may_come_over_the_long_connection() -> None:
    """By the command, as a user runs it."""
    options = ("--rate", "100", "--seed", "1", "--duration", "1", "--hostile", "0")
    done = CliRunner().invoke(command, ["dev", "--long-connection", *options])
    assert done.exit_code == 0, done.output
    assert "acknowledged 200" in done.output
    assert "200 OK" in done.output
    *_, (received, published, duplicate) = ACCOUNT.findall(done.output)
    assert int(received) == int(published) + int(duplicate) > 20
    assert f"consumer {published}" in done.output
    assert "TWICE" not in done.output
    assert "UNEXPECTED" not in done.output


async def test_the_printed_address_opens_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is: name and password stand in it."""
    found: list[str] = []

    async def look() -> None:
        said: list[str] = []

        def printed() -> re.Match[str] | None:
            said.append(capsys.readouterr().out)
            return re.search(r"console (http://\S+)\n", "".join(said))

        await until(printed)
        address = printed()
        assert address
        async with ClientSession() as session, session.get(address[1]) as answer:
            found.append(await answer.text())
        os.kill(os.getpid(), signal.SIGTERM)

    looking = asyncio.create_task(look())
    assert await dev.run(DevOptions(rate=50)) == 0
    await looking
    assert "everything received is accounted for" in found[0]


async def test_a_signal_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(1.5, os.kill, os.getpid(), signal.SIGTERM)
    assert await dev.run(DevOptions(rate=50)) == 0
    assert ACCOUNT.search(capsys.readouterr().out)


async def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what is published nor for the consumer; nothing is left behind."""
    monkeypatch.setenv("RELAY_DRAIN__DELAY", "30")
    loop = asyncio.get_running_loop()
    for moment in (1.5, 1.8):
        loop.call_later(moment, os.kill, os.getpid(), signal.SIGINT)
    async with asyncio.timeout(15):
        assert await dev.run(DevOptions(rate=50)) == 130


async def test_shell_of_an_operator_brings_no_real_events(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long connection of ours would take its share of them, acknowledge it, and forget it."""
    feishu = SmallFeishu()
    await feishu.start()
    played = feishu.gateway.options
    for name, value in {
        "RELAY_FEISHU_URL": feishu.url,
        "RELAY_APPS__DEFAULT__FEISHU_URL": feishu.url,
        "RELAY_APPS__DEFAULT__APP_ID": played.app_id,
        "RELAY_APPS__DEFAULT__APP_SECRET": played.app_secret,
        "RELAY_APPS__DEFAULT__LONG_CONNECTION": "true",
        "RELAY_CLAIMS__URL": "redis://127.0.0.1:1",
        "RELAY_JOURNAL__PATH": "/nowhere/journal.db",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        for connected in (False, True):
            assert await dev.run(replace(FAST, long_connection=connected)) == 0
            assert not feishu.gateway.arrived.is_set()
    finally:
        await feishu.stop()


async def test_mistakes_in_the_environment_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_KAFKA__PARTITIONS", "many")
    with pytest.raises(SettingsError, match="RELAY_KAFKA__PARTITIONS"):
        await dev.run(FAST)


async def test_a_named_broker_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.raises(KafkaUnavailableError, match=r"no broker answers at 127\.0\.0\.1:1"):
        await dev.run(FAST)


async def test_a_port_that_is_set_and_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        monkeypatch.setenv("RELAY_WEBHOOK__PORT", str(holder.getsockname()[1]))
        with pytest.raises(OSError, match="address already in use"):
            await dev.run(FAST)


@pytest.mark.parametrize("error", [KafkaUnavailableError("gone"), StopAsyncIteration()])
async def test_a_consumer_that_ends_is_not_passed_over(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> Seen:
            raise error

    monkeypatch.setattr(Tail, "records", lambda _: Failing())
    if isinstance(error, StopAsyncIteration):
        assert await dev.run(DevOptions(rate=50)) == 0
        return
    with pytest.raises(KafkaUnavailableError, match="gone"):
        await dev.run(DevOptions(rate=50))


def test_output_that_nobody_reads_ends_it() -> None:
    read, write = os.pipe()
    os.close(read)
    stop = asyncio.Event()
    with os.fdopen(write, "w") as out:
        places = Places(
            command="relay",
            webhook="w",
            admin="a",
            console="c",
            broker="b",
            topic_prefix="",
            encrypt_key="k",
            verification_token="t",
            plain_token="t",
        )
        board = Board(places, Metrics().account)
        with dev._view(board, Console(file=out), stop):
            assert stop.is_set()


async def test_on_a_terminal_it_takes_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert await dev.run(FAST) == 0
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    assert enter in terminal.getvalue()
    assert "received" in terminal.getvalue().rpartition(leave)[2]


@pytest.mark.parametrize(
    ("called", "on_path", "shown"),
    [
        ("/opt/venv/bin/relay", "/opt/venv/bin/relay", "relay"),
        ("-c", None, "relay"),
        ("./.venv/bin/relay", "/usr/bin/relay", ".venv/bin/relay"),
    ],
)
def test_the_command_to_copy_is_one_that_this_shell_knows(
    called: str, on_path: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "dev"])
    monkeypatch.setattr(shutil, "which", lambda _: on_path)
    assert dev._command() == shown
