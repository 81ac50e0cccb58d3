"""Log lines: machine-readable, once for each change, and without a library's chatter."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from relay import logs
from relay.settings import Log


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Leave the process as it was."""
    levels = {name: logging.getLogger(name).level for name in ("aiokafka", "aiohttp", "asyncio")}
    yield
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_lines_are_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error; standard output belongs to commands."""
    logs.configure(Log())
    structlog.get_logger().info("serving", port=8080)
    captured = capsys.readouterr()
    line = json.loads(captured.err)
    assert captured.out == ""
    assert (line["event"], line["level"], line["port"]) == ("serving", "info", 8080)
    assert line["timestamp"].endswith("Z")


def test_lines_are_readable_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log(format="console"))
    structlog.get_logger().info("serving", port=8080)
    line = capsys.readouterr().err
    assert "serving" in line
    assert not line.startswith("{")


def test_a_terminal_gets_readable_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure(Log())
    structlog.get_logger().warning("kafka_unavailable")
    assert not capsys.readouterr().err.startswith("{")


def test_exception_becomes_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """One event stays one line."""
    logs.configure(Log(format="json"))
    try:
        Path("/nowhere/at/all").stat()
    except OSError:
        structlog.get_logger().exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"][0]["exc_type"] == "FileNotFoundError"


def test_level_hides_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log(level="warning"))
    structlog.get_logger().info("hidden")
    structlog.get_logger().warning("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "shown"


@pytest.mark.parametrize("name", ["aiokafka", "aiokafka.conn", "aiohttp.server", "asyncio"])
def test_libraries_are_quiet(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Relay says itself what their errors mean."""
    logs.configure(Log())
    logging.getLogger(name).error("again")
    assert capsys.readouterr().err == ""


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
        logs.configure(Log(format="json"))
        structlog.get_logger().warning("journal_not_writable")
