"""Builds programs on SDKs, code generators and the examples, once for what each is made of.

Each ecosystem's ordinary client fetches what they need; what was built lies in the user's cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from tests.builds import alone

_PROJECT = Path(__file__).parents[2]
#: What a user of the examples has made in their folders.
_MADE = ("node_modules", "target", "dist", "venv", "message_created.*", "*.db*", "__pycache__")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A program on an official SDK, a code generator or an example, and how it is made."""

    #: The folder of its sources.
    language: str
    #: What must be on the PATH.
    tools: tuple[str, ...]
    #: Builds from a copy of the sources, in place; gives the command that runs it.
    build: Callable[[Path], list[str]]
    #: Where that folder is.
    home: Path = Path("tests", "sdk")
    #: What it is made of besides.
    besides: tuple[Path, ...] = ()

    def missing(self) -> str:
        """Name the tools that are not there."""
        return ", ".join(tool for tool in self.tools if shutil.which(tool) is None)

    def command(self) -> list[str]:
        """Build the program unless that was done before; give its command."""
        source = self.home / self.language
        files = _files((source, *self.besides))
        place = _cache() / f"{self.language}-{_digest(files, source)}"
        done = place / "built"
        with alone(place):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                for path in files:
                    (place / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(_PROJECT / path, place / path)
                command = self.build(place / source)
                done.write_text("\n".join(command))
        return done.read_text().splitlines()


def _python(place: Path, program: str = "client.py") -> list[str]:
    venv.create(place / "venv", with_pip=True)
    python = str(place / "venv" / "bin" / "python")
    _run(
        place,
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--require-hashes",
        "--no-deps",
        "-r",
        "requirements.txt",
    )
    return [python, str(place / program)]


def _go(place: Path) -> list[str]:
    _run(place, "go", "build", "-mod=readonly", "-o", "client", ".")
    return [str(place / "client")]


def _java(place: Path) -> list[str]:
    libraries = place / "lib"
    copy = ("dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib")
    _run(place, "mvn", "--batch-mode", "--quiet", *copy)
    _run(place, "javac", "-cp", f"{libraries}/*", "-d", "classes", "src/main/java/Client.java")
    paths = (place / "classes", place / "src" / "main" / "resources", libraries / "*")
    return ["java", *_JVM, "-cp", ":".join(map(str, paths)), "Client"]


#: Small, and compiled quickly rather than well: these live for seconds.
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def _node(place: Path, program: str = "client.js", *flags: str) -> list[str]:
    _run(place, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return ["node", *flags, str(place / program)]


def _python_example(place: Path) -> list[str]:
    command = _python(place, program="consumer.py")
    generator = place / "venv" / "bin" / "datamodel-codegen"
    _run(place, str(generator))
    return command


def _go_example(place: Path) -> list[str]:
    _run(place, "go", "generate", "./...")
    return _go(place)


def _java_example(place: Path) -> list[str]:
    _run(place, "mvn", "--batch-mode", "--quiet", "compile")
    classes, libraries = place / "target" / "classes", place / "target" / "lib"
    return ["java", *_JVM, "-cp", f"{classes}:{libraries}/*", "Consumer"]


def _node_example(place: Path) -> list[str]:
    command = _node(place, program="dist/consumer.js")
    _run(place, "npm", "run", "build")
    return command


TOOLCHAINS = (
    Toolchain(language="python", tools=(), build=_python),
    Toolchain(language="go", tools=("go",), build=_go),
    Toolchain(language="java", tools=("java", "javac", "mvn"), build=_java),
    Toolchain(language="node", tools=("node", "npm"), build=_node),
)
MODELS_PYTHON = Toolchain(
    language="models_python", tools=(), build=partial(_python, program="check.py")
)
MODELS_NODE = Toolchain(
    language="models_node", tools=("node", "npm"), build=partial(_node, program="make.js")
)
GENERATORS = (MODELS_PYTHON, MODELS_NODE)
#: Those whom `relay schema --as` is for.
CONNECT = Toolchain(language="connect", tools=("java", "javac", "mvn"), build=_java)
FLINK = Toolchain(language="flink", tools=("java", "javac", "mvn"), build=_java)
POSTGRES = Toolchain(
    language="postgres",
    tools=("node", "npm"),
    # Compiles PostgreSQL in half the time: it lives for a second.
    build=lambda place: _node(place, "client.js", "--liftoff-only"),
)
KIT = (CONNECT, FLINK, POSTGRES)
#: Looks whether a page is accessible; what its command names last is the script.
AXE = Toolchain(
    language="axe",
    tools=("node", "npm"),
    build=lambda place: _node(place, "node_modules/axe-core/axe.min.js"),
)
_SCHEMA = Path("docs", "schemas", "helpdesk.ticket_message.created_v1.v1.json")
_example = partial(Toolchain, home=Path("examples"), besides=(_SCHEMA,))
EXAMPLES = (
    _example(language="python", tools=(), build=_python_example),
    _example(language="go", tools=("go",), build=_go_example),
    _example(language="java", tools=("java", "javac", "mvn"), build=_java_example),
    _example(language="node", tools=("node", "npm"), build=_node_example),
)


def _run(place: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"[-3000:])


def _digest(files: list[Path], home: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        name = os.path.relpath(path, home)
        digest.update(name.encode() + b"\0" + (_PROJECT / path).read_bytes())
    return digest.hexdigest()[:16]


def _files(sources: Iterable[Path]) -> list[Path]:
    """Give the sources and what is below them, by their paths in the project."""
    roots = [_PROJECT / source for source in sources]
    found = [path for root in roots for path in (root, *sorted(root.rglob("*")))]
    paths = [path.relative_to(_PROJECT) for path in found if path.is_file()]
    return [path for path in paths if not any(map(_made, path.parts))]


def _made(part: str) -> bool:
    return any(fnmatch(part, pattern) for pattern in _MADE)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "relay-test" / "sdk"
