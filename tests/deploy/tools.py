"""Tools of other ecosystems: found on the machine, or skipped at home and missed in CI."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relay-test"


def needed(command: str, package: str) -> str:
    """Find a command of a Debian package; skip at home, fail in CI."""
    if found := shutil.which(command):
        return found
    if os.environ.get("CI"):
        pytest.fail(f"CI has no {command}: install {package}")
    pytest.skip(f"{command} is not installed ({package})")


def go_tool(module: str, version: str) -> str:
    """Build a command of a Go module once; give its path."""
    name = module.rsplit("/", 1)[-1]
    place = CACHE / "go" / f"{name}-{version}"
    if not (place / name).exists():
        environment = os.environ | {"GOBIN": str(place), "GOFLAGS": "-trimpath"}
        # It fetches some hundred modules, each with one attempt of go's own.
        install = [needed("go", "golang-go"), "install", f"{module}@{version}"]
        run(install, attempts=3, env=environment)
    return str(place / name)


def run(command: Sequence[str], *, attempts: int = 1, **options: object) -> str:
    """Run a command until it succeeds once; else `AssertionError` with what it printed."""
    for _ in range(attempts):
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
        if done.returncode == 0:
            return str(done.stdout)
    raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
