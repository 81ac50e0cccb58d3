"""Log lines: machine-readable, once for each change, and without a library's chatter."""

import io
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pytest
import structlog
from structlog.testing import capture_logs

from relay.observe import logs

#: Sets up logs; what follows it runs in a process of its own.
CONFIGURED = """
import os, structlog
from relay.observe import logs
logs.configure(form="json")
say = structlog.get_logger().info
"""


@pytest.fixture(autouse=True)
def default_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process as it was."""
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    levels = {name: logging.getLogger(name).level for name in logs._QUIET}
    yield
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def failing(salt: str) -> None:
    token = f"{salt}-token"
    if token:
        raise ValueError("odd")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("how", ["exception", "true", "itself", "triple"])
def test_error_is_logged_without_the_variables_of_its_frames(form: str, how: str) -> None:
    """They may hold a secret, or a customer's words."""
    with redirect_stderr(io.StringIO()) as written:
        logs.configure(form=form)
        log = structlog.get_logger()
        try:
            failing("hunter" + str(1 + 1))
        except ValueError as error:
            given = {"true": True, "itself": error, "triple": sys.exc_info()}
            more = {"exc_info": given[how]} if how in given else {}
            log.exception("odd", app="a", **more)
    assert "hunter2" not in written.getvalue()
    assert "ValueError" in written.getvalue()


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Give the ends of a pipe, for reading and for writing, that holds as much as it can."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n")
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def stalled() -> Iterator[TextIO]:
    """Make standard error a pipe whose reader has stopped; give the reader."""
    with (
        full_pipe() as (reading, writing),
        open(reading, closefd=False) as reader,
        open(writing, "wb", buffering=0, closefd=False) as raw,
        redirect_stderr(io.TextIOWrapper(raw, write_through=True)),
    ):
        logs.configure(level="error")
        yield reader


def said(reader: TextIO, count: int) -> list[dict[str, Any]]:
    """Read so many lines; empty ones are what the pipe was filled with."""
    lines = (line for line in reader if line.strip())
    return [json.loads(line) for line in itertools.islice(lines, count)]


def printed(code: str) -> list[str]:
    """Give the lines that a process prints, to standard output or error."""
    command = [sys.executable, "-W", "ignore", "-c", CONFIGURED + code]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=20
    )
    lines = done.stdout.splitlines()
    return [json.loads(line)["event"] if line.startswith("{") else line for line in lines]


def test_lines_are_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error; standard output belongs to commands."""
    logs.configure()
    structlog.get_logger().info("serving", port=8080)
    captured = capsys.readouterr()
    line = json.loads(captured.err)
    assert captured.out == ""
    assert (line["event"], line["level"], line["port"]) == ("serving", "info", 8080)
    assert line["timestamp"].endswith("Z")


def test_lines_are_readable_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(form="console")
    structlog.get_logger().info("serving", port=8080)
    line = capsys.readouterr().err
    assert "serving" in line
    assert not line.startswith("{")


def test_a_terminal_gets_readable_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure()
    structlog.get_logger().warning("kafka_unavailable")
    assert not capsys.readouterr().err.startswith("{")


def test_exception_becomes_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """One event stays one line."""
    logs.configure(form="json")
    try:
        Path("/nowhere/at/all").stat()
    except OSError:
        structlog.get_logger().exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"][0]["exc_type"] == "FileNotFoundError"


def test_level_hides_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning")
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "shown"


@pytest.mark.parametrize(
    "name",
    [
        "aiokafka",
        "aiokafka.conn",
        "aiohttp.server",
        "asyncio",
        "opentelemetry.sdk.trace.export",
        "urllib3.connectionpool",
    ],
)
def test_libraries_are_quiet(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Relay says itself what their errors mean."""
    logs.configure()
    logging.getLogger(name).error("again")
    assert caplog.messages == []


def test_repeated_failure_is_logged_when_it_changes() -> None:
    """An outage of a day is a handful of lines."""
    with capture_logs() as lines:
        changes = logs.Changes(structlog.get_logger(), "recovered")
        changes.working()
        for error in ("a", "a", "b", "b"):
            changes.failing("failed", error)
        changes.working()
        changes.working()
        changes.failing("failed", "b")
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("failed", "a"),
        ("failed", "b"),
        ("recovered", None),
        ("failed", "b"),
    ]


def test_line_that_cannot_be_written_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error on the disk that is full: just what the line is about."""
    with Path("/dev/full").open("wb", buffering=0) as raw:
        full = io.TextIOWrapper(raw, write_through=True)
        monkeypatch.setattr(sys, "stderr", full)
        logs.configure(form="json")
        structlog.get_logger().warning("journal_not_writable")


@pytest.mark.timeout(20)
def test_reader_that_stalls_holds_up_nobody() -> None:
    """Its lines come when it reads again."""
    with stalled() as reader:
        began = time.monotonic()
        for number in range(50):
            structlog.get_logger().error("failed", number=number)
        assert time.monotonic() - began < 1
        assert [line["number"] for line in said(reader, 50)] == list(range(50))


@pytest.mark.timeout(20)
def test_lines_that_do_not_fit_are_counted() -> None:
    """At the place where they are missing, and whatever the level."""
    with stalled() as reader:
        log = structlog.get_logger()
        for number in range(logs.LINES + 5):
            log.error("failed", number=number)
        *lines, last = said(reader, logs.LINES + 1)
        assert [line["number"] for line in lines] == list(range(logs.LINES))
        assert (last["event"], last["lines"]) == ("log_lines_dropped", 5)
        log.error("failed", number=-1)
        assert said(reader, 1)[0]["number"] == -1


@pytest.mark.timeout(20)
def test_words_of_libraries_hold_up_nobody_either() -> None:
    """What no handler takes goes the way of relay's lines."""
    with stalled() as reader:
        assert logging.lastResort
        warning = {"levelno": logging.WARNING, "msg": '{"event": "odd"}'}
        logging.lastResort.handle(logging.makeLogRecord(warning))
        assert said(reader, 1) == [{"event": "odd"}]


@pytest.mark.timeout(20)
def test_line_without_a_thread_waits_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no more threads breaks nothing."""

    def refuse(_: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with stalled() as reader:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            structlog.get_logger().error("first")
        structlog.get_logger().error("second")
        assert [line["event"] for line in said(reader, 2)] == ["first", "second"]


def test_line_stands_before_what_is_printed_next() -> None:
    """And survives an end that waits for nothing."""
    code = 'say("one"); print("two", flush=True); say("three"); os._exit(0)'
    assert printed(code) == ["one", "two", "three"]


def test_forked_process_writes_its_lines() -> None:
    """The thread stays behind; another one is started."""
    code = 'say("parent"); os.fork() or (say("child"), os._exit(0)); os.wait(); say("parent")'
    assert printed(code) == ["parent", "child", "parent"]


def test_end_waits_for_a_reader_who_comes_back() -> None:
    code = CONFIGURED + 'say("one"); say("two"); print("end", flush=True)'
    with full_pipe() as (reading, writing), open(reading, closefd=False) as reader:
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing)
        assert process.stdout
        with process.stdout as stdout:
            assert stdout.readline() == b"end\n"
        assert [line["event"] for line in said(reader, 2)] == ["one", "two"]
        assert process.wait(20) == 0


def test_end_does_not_wait_for_a_reader_that_stalls() -> None:
    code = CONFIGURED + 'say("one"); say("two")'
    with full_pipe() as (_, writing):
        subprocess.run([sys.executable, "-c", code], stderr=writing, check=True, timeout=20)
