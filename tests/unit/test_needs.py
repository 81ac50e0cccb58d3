"""What is said of a machine that lacks something, and what CI installs."""

import re
import shutil
from pathlib import Path

import pytest

from tests import kafka_server, needs

CI = Path(__file__).parents[2] / ".ci" / "run"


def test_ci_installs_what_the_tests_need() -> None:
    listed = dict(re.findall(r"^    ([a-z-]+):([a-z-]+)$", CI.read_text(), re.MULTILINE))
    assert needs.PACKAGES.items() <= listed.items()


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    said = "\n".join(needs.missing())
    for command, package in needs.PACKAGES.items():
        assert f"no {command}: its tests are skipped; package {package}" in said
    assert "no Kafka" in said


def test_nothing_is_said_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command, **_: command)
    monkeypatch.setattr(kafka_server, "available", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert needs.missing() == []
