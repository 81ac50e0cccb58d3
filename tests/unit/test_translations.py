"""A paper in Chinese says what its English one says: commands, settings, topics, figures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: English, Chinese.
README = ("README.md", "README.zh-CN.md")
KUBERNETES = ("docs/kubernetes.md", "docs/kubernetes.zh-CN.md")

#: How an English sentence says a figure; a million is a hundred of what Chinese counts in.
WORDS = {"one": "1", "two": "2", "four": "4", "seven": "7", "five million": "500"}


def read(name: str) -> str:
    """Give a paper's text."""
    return (ROOT / name).read_text()


def blocks(paper: str) -> list[str]:
    """Give what is in fences but for comments, which are in the reader's language."""
    fences = re.findall(r"^```\w+\n(.*?)^```", paper, re.MULTILINE | re.DOTALL)
    return [re.sub(r"[ ]*#.*", "", fence) for fence in fences]


def codes(paper: str) -> set[str]:
    """Give every word in backticks outside of fences: commands, settings, topics, codes."""
    outside = re.sub(r"^```.*?^```", "", paper, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", outside))


def first_cells(paper: str) -> list[str]:
    """Give the first cell of each row that begins with code."""
    return re.findall(r"^\| (`[^|]+`) \|", paper, re.MULTILINE)


def figures(paper: str) -> set[str]:
    """Give every number outside of fences, with what it counts if that is a unit."""
    outside = re.sub(r"^```.*?^```", "", paper, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)", "]", outside)
    for word, figure in WORDS.items():
        prose = re.sub(rf"\b{word}\b", figure, prose)
    return set(re.findall(r"(?<![\w.-])\d[\d.]*\d|(?<![\w.-])\d(?![\w.])", prose))


@pytest.mark.parametrize("pair", [README, KUBERNETES], ids=lambda pair: pair[1])
def test_each_names_the_other(pair: tuple[str, str]) -> None:
    """In the first lines, where somebody who opened the wrong one looks."""
    for this, other in (pair, pair[::-1]):
        top = "\n".join(read(this).splitlines()[:4])
        assert f"({Path(other).name})" in top, this


@pytest.mark.parametrize("pair", [README, KUBERNETES], ids=lambda pair: pair[1])
def test_what_is_to_be_typed_is_the_same(pair: tuple[str, str]) -> None:
    """Each block of the Chinese paper is one of the English paper, or a part of one."""
    english, chinese = (blocks(read(name)) for name in pair)
    assert chinese
    assert [block for block in chinese if not any(block in text for text in english)] == []


@pytest.mark.parametrize("pair", [README, KUBERNETES], ids=lambda pair: pair[1])
def test_every_name_is_in_both(pair: tuple[str, str]) -> None:
    """No command, setting, topic or code that the English paper does not have."""
    english, chinese = (read(name) for name in pair)
    outside = {code for code in codes(chinese) if code not in english}
    assert not outside


def test_tables_are_the_same() -> None:
    """Events with their topics, what was forgotten, commands: row by row."""
    english, chinese = map(read, README)
    assert first_cells(chinese) == [
        cell for cell in first_cells(english) if cell in first_cells(chinese)
    ]
    commands = [cell for cell in first_cells(english) if cell.startswith("`relay ")]
    assert [cell for cell in first_cells(chinese) if cell.startswith("`relay ")] == commands


@pytest.mark.parametrize("pair", [README, KUBERNETES], ids=lambda pair: pair[1])
def test_figures_are_the_same(pair: tuple[str, str]) -> None:
    """A limit that changes in English changes in Chinese, too."""
    english, chinese = (read(name) for name in pair)
    assert figures(chinese) - figures(english) == set()
