"""The rooms of relay/: few, each with a duty, and imports between them that run one way."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "relay"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
#: Reads of a clock, whatever the module is called.
_CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}


def unit(module: str) -> str:
    """Give the room of a module, or the module itself where it lies at the root."""
    return module.split(".")[1]


@cache
def arrows() -> dict[str, set[str]]:
    """Give which room or module of the root imports which others."""
    graph = grimp.build_graph("relay", cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules - {"relay"}:
        others = {unit(one) for one in graph.find_modules_directly_imported_by(module) - {"relay"}}
        found.setdefault(unit(module), set()).update(others - {unit(module)})
    return found


def longest(name: str) -> list[str]:
    """Give the longest chain of imports from a unit down; imports in a circle never end."""
    return [name, *max((longest(one) for one in arrows()[name]), key=len, default=[])]


def test_a_look_at_the_package_is_short() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 20, sorted(entries)


def test_chains_of_imports_are_short() -> None:
    chain = max((longest(name) for name in arrows()), key=len)
    assert len(chain) <= 9, chain


def test_rooms_beside_each_other_do_not_know_each_other() -> None:
    """But for egress, which asks the claims."""
    beside = {"ingress", "egress", "claims"}
    found = {(one, other) for one in beside for other in arrows()[one] & beside}
    assert found == {("egress", "claims")}


@pytest.mark.parametrize("room", ROOMS)
def test_room_says_what_it_owns(room: str) -> None:
    """In one to five lines; and it hands nothing out, but for the settings, which are one thing."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    said = ast.get_docstring(tree)
    assert said
    assert 1 <= len(said.splitlines()) <= 5
    assert tree.body[1:] == [] or room == "settings"


@pytest.mark.parametrize(
    "room", sorted(p.parent for p in PACKAGE.rglob("*/__init__.py")), ids=lambda p: p.stem
)
def test_room_is_no_warehouse(room: Path) -> None:
    assert len(list(room.glob("*.py"))) <= 11


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_module_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", sorted((PACKAGE / "contract").rglob("*.py")), ids=lambda p: p.stem)
def test_contract_reads_no_clock(path: Path) -> None:
    calls = [one.func for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call)]
    assert not {one.attr for one in calls if isinstance(one, ast.Attribute)} & _CLOCKS


def test_commands_print_by_one_module_only() -> None:
    """`relay/cli/say.py`, which drives no terminal: none of them can forget it."""
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        calls = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call)]
        direct = {ast.unparse(one.func) for one in calls} & {"print", "typer.echo", "typer.secho"}
        assert not direct or path.name == "say.py", path.name


def test_architecture_and_readme_tell_of_every_room() -> None:
    for paper, form in (("docs/architecture.md", r"^\| `(\w+)/` \|"), ("README.md", r"^ *(\w+)/ ")):
        told = set(re.findall(form, (ROOT / paper).read_text(), re.MULTILINE))
        assert told >= set(ROOMS), paper


def test_walls_hold_and_one_that_is_broken_is_seen(tmp_path: Path) -> None:
    """`make check` runs the same command; here it also meets an import that runs back."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    command += ["--config", str(ROOT / "pyproject.toml")]

    def checked(place: Path) -> tuple[int, str]:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, said = checked(ROOT)
    assert code == 0, said
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    wrong = {
        "journal/backlog.py": "import relay.egress.dispatcher",
        "contract/rules/table.py": "import time",
        "egress/lateness.py": "import aiokafka",
        "admin.py": "import sqlite3",
        "observe/metrics.py": "import relay.simulator.talks",
    }
    for module, line in wrong.items():
        with (tmp_path / "relay" / module).open("a") as file:
            file.write(f"\n{line}\n")
    code, said = checked(tmp_path)
    assert (code, said.count(" BROKEN")) == (1, 5), said
