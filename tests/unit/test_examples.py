"""What the papers show of the consumers in `examples/` stands there, and all of them are shown."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = (ROOT / "examples" / "README.md").read_text()
#: Not what was built beside them.
CONSUMERS = sorted(
    [*ROOT.glob("examples/*/consumer.*"), *ROOT.glob("examples/*/src/main/java/*.java")]
)


def shown() -> Iterator[tuple[str, str]]:
    """Give each block of README that follows a link to an example, with the path of that."""
    path = ""
    for part in re.split(r"(^```.*?^```$)", README, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("```") and path:
            yield path, part.partition("\n")[2].removesuffix("```")
        elif part.strip():
            found = re.search(r"\]\((examples/.+?)\):$", part.strip())
            path = found[1] if found else ""


BLOCKS = list(shown())


@pytest.mark.parametrize(("path", "block"), BLOCKS)
def test_lines_shown_are_the_example_s(path: str, block: str) -> None:
    """One after the other, as they stand there, but for how far all of them are indented."""
    lines, count = (ROOT / path).read_text().splitlines(keepends=True), block.count("\n")
    windows = ("".join(lines[start : start + count]) for start in range(len(lines)))
    assert block in map(textwrap.dedent, windows)


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda path: path.suffix)
def test_every_example_is_shown(consumer: Path) -> None:
    """In README with some lines, and in the examples' own with a link."""
    path = consumer.relative_to(ROOT).as_posix()
    assert path in {path for path, _ in BLOCKS}
    assert f"]({path.removeprefix('examples/')})" in EXAMPLES


def test_there_are_four() -> None:
    assert {path.suffix for path in CONSUMERS} == {".py", ".java", ".go", ".ts"}
