"""The locked requirements: whole, hashed, and the same wherever they are installed."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
import yaml

import relay

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "requirements"
FILES = sorted(PLACE.glob("*.txt"))


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["traces.txt", "dev.txt"])
def test_what_runs_is_what_was_tested(name: str) -> None:
    """Both contain all that a relay needs, in the same versions."""
    assert pins(PLACE / "run.txt").items() <= pins(PLACE / name).items()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_requirement_is_hashed_and_names_no_place(path: Path) -> None:
    text = path.read_text()
    blocks = re.split(r"^(?=[a-z0-9-]+(?:\[[^]]*\])?==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(path))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text


def test_distribution_has_a_name_of_its_own() -> None:
    """`relay` is another project's on the Python package index; the command keeps its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "feishu-relay"
    assert distribution("feishu-relay").version == project["version"] == relay.__version__
    (command,) = entry_points(group="console_scripts", name="relay")
    assert (command.value, command.dist and command.dist.name) == (
        "relay.cli.main:main",
        "feishu-relay",
    )


def test_one_version_everywhere() -> None:
    """The chart asks for the image of the version that is built."""
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())
    (image,) = re.findall(r'image\.version="(.+)"', (ROOT / "Dockerfile").read_text())
    assert chart["appVersion"] == relay.__version__ == image


def test_the_earlier_name_goes_before_the_new_one_comes(tmp_path: Path) -> None:
    """Taken away after it, it would take the command along."""
    for name in ("Makefile", "pyproject.toml", "requirements/dev.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python, asked = tmp_path / ".venv/bin/python", tmp_path / "asked"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n')
    python.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(["make", "install"], cwd=tmp_path, env=plain, check=True, capture_output=True)
    steps = [(line.split()[2], line.split()[-1]) for line in asked.read_text().splitlines()]
    assert steps == [
        ("install", "requirements/dev.txt"),
        ("uninstall", "relay"),
        ("install", "."),
    ]
