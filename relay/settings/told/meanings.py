"""What each setting is for, in a sentence: the tables of docs/configuration.md without their links.

`make schemas` writes them into meanings.json, out of the paper: it is the one place to change.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("meanings.json")
#: Columns of the tables: the name in TOML, the variable, the default, the meaning.
_COLUMNS = 4
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]*)((?:#[\w-]+)?)\)")


@cache
def meanings() -> Mapping[str, str]:
    """Give the sentence of each setting by its name in TOML: `kafka.timeout`."""
    return dict(json.loads(_FILE.read_text(encoding="utf-8")))


def of(paper: str) -> dict[str, str]:
    """Read the sentences out of docs/configuration.md."""
    return {name: _plain(meaning) for name, meaning in _rows(paper)}


def _rows(paper: str) -> Iterator[tuple[str, str]]:
    for line in paper.splitlines():
        cells = line.strip("| ").split(" | ")
        if line.startswith("| `") and len(cells) == _COLUMNS and cells[1].startswith("`RELAY_"):
            yield cells[0].strip("`"), cells[3]


def _plain(text: str) -> str:
    """Put a place of the docs in brackets behind its words, as an editor follows no link."""

    def place(link: re.Match[str]) -> str:
        words, paper, anchor = link.groups()
        name = Path(paper or "configuration.md").name
        return f"{words} (docs/{name}{anchor})"

    return _LINK.sub(place, text)


def main() -> None:
    """Write meanings.json anew, out of the paper that is named."""
    paper = Path(sys.argv[1]).read_text(encoding="utf-8")
    _FILE.write_text(json.dumps(of(paper), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
