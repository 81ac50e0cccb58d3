"""Every place at which relay can die between an event's bytes and its settling, from the code.

`python -m tests.e2e.points seen:FILE -- serve` runs relay and writes down which places it passes;
`... die:PLACE -- serve` kills it there. The modules of the flow are compiled with a call before and
after each await, and around each COMMIT; the product knows nothing of it.
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType

#: In the order of the way in and out.
FLOW = (
    "ingress.webhook",
    "ingress.pipeline",
    "journal.journal",
    "journal.writer",
    "journal.file",
    "egress.dispatcher",
    "egress.recovery",
    "egress.publisher",
    "egress.kafka.producer",
)
PACKAGE = Path(__file__).parents[2] / "relay"
_CALL = "__passing__"


class _Marker(ast.NodeTransformer):
    """Puts a call before and after each place; notes the places."""

    def __init__(self, module: str) -> None:
        self._path = [module]
        self._count = 0
        self.places: list[str] = []

    def _scope(self, node: ast.AST) -> ast.AST:
        before = self._count
        self._path.append(getattr(node, "name", "?"))
        self._count = 0
        self.generic_visit(node)
        self._path.pop()
        self._count = before
        return node

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _scope  # noqa: N815 - ast's names

    def visit_Await(self, node: ast.Await) -> ast.AST:
        """An await: others run, and the process may be gone before it goes on."""
        self.generic_visit(node)
        return self._marked(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A COMMIT: what was done is on disk after it, and not before."""
        self.generic_visit(node)
        commits = any(isinstance(one, ast.Constant) and one.value == "COMMIT" for one in node.args)
        return self._marked(node) if commits else node

    def _marked(self, node: ast.expr) -> ast.expr:
        """Make `(__passing__("x:1:before"), node, __passing__("x:1:after"))[1]` of it."""
        self._count += 1
        place = f"{'.'.join(self._path)}:{self._count}"
        self.places.append(place)
        calls = [
            ast.Call(ast.Name(_CALL, ast.Load()), [ast.Constant(f"{place}:{when}")], [])
            for when in ("before", "after")
        ]
        row = ast.Tuple([calls[0], node, calls[1]], ast.Load())
        return ast.copy_location(ast.Subscript(row, ast.Constant(1), ast.Load()), node)


def _source(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _marked(module: str) -> tuple[ast.Module, list[str]]:
    marker = _Marker(module.rpartition(".")[2])
    tree = marker.visit(ast.parse(_source(module).read_text()))
    return ast.fix_missing_locations(tree), marker.places


def places() -> list[str]:
    """Name every place of the flow, as the code is now."""
    found = [place for module in FLOW for place in _marked(module)[1]]
    return [f"{place}:{when}" for place in found for when in ("before", "after")]


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module of the flow with its marks."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile, past any cache."""
        tree, _ = _marked(fullname.removeprefix("relay."))
        return compile(tree, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Take the modules of the flow."""
        del path, target
        package, _, module = fullname.partition(".")
        if package != "relay" or module not in FLOW:
            return None
        file = str(_source(module))
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Loader(fullname, file)
        )


def load() -> None:
    """Load relay's modules with their marks, which look for their function at each passage."""
    sys.meta_path.insert(0, _Finder())
    import_module("relay.app")


def main() -> None:
    """Be `relay` with marks."""
    mode, _, argument = sys.argv[1].partition(":")
    seen: set[str] = set()

    def note(place: str) -> None:
        if place not in seen:
            seen.add(place)
            with Path(argument).open("a") as file:
                file.write(place + "\n")

    def die(place: str) -> None:
        if place == argument:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    import builtins  # noqa: PLC0415 - where the marks look for their function

    setattr(builtins, _CALL, {"seen": note, "die": die}[mode])
    load()
    from relay.cli import main as cli  # noqa: PLC0415 - with marks

    sys.argv = ["relay", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()
