"""What a serving process leaves out of memory."""

import ctypes
import subprocess
import sys

import pytest

from relay import app


def loaded(code: str) -> set[str]:
    """Give the modules that a fresh interpreter has loaded after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_serving_loads_neither_terminal_nor_other_stores() -> None:
    """They are for other commands, or for what is not set."""
    found = loaded("import relay.cli.main, relay.app, relay.observe.logs")
    assert "structlog" in found
    assert found.isdisjoint({"rich", "pygments", "redis", "google.protobuf", "opentelemetry"})


def test_commands_can_still_draw() -> None:
    assert "rich.table" in loaded("import relay.cli.main, rich.table")


def test_rich_that_is_there_already_stays() -> None:
    assert "rich.console" in loaded("import rich.console, relay.cli.main, rich.console")


def test_another_c_library_has_no_limit_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    app._give_memory_back()
