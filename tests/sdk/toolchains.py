"""Builds the programs on SDKs and code generators, once for each content of sources and locks.

Each ecosystem's ordinary client fetches what they need; what was built lies in the user's cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.builds import alone

_SOURCES = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """One official SDK or code generator, and how a program on it is made."""

    #: The folder of its sources.
    language: str
    #: What must be on the PATH.
    tools: tuple[str, ...]
    #: Builds from a copy of the sources, in place; gives the command that runs it.
    build: Callable[[Path], list[str]]

    def missing(self) -> str:
        """Name the tools that are not there."""
        return ", ".join(tool for tool in self.tools if shutil.which(tool) is None)

    def command(self) -> list[str]:
        """Build the program unless that was done before; give its command."""
        source = _SOURCES / self.language
        place = _cache() / f"{self.language}-{_digest(source)}"
        done = place / "built"
        with alone(place):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place)
                command = self.build(place)
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


def _run(place: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"[-3000:])


def _digest(source: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "relay-test" / "sdk"
