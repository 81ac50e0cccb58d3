"""The locked requirements: whole, hashed, and the same wherever they are installed."""

import re
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / "requirements"
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
