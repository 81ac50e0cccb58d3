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
        run([needed("go", "golang-go"), "install", f"{module}@{version}"], env=environment)
    return str(place / name)


def run(command: Sequence[str], **options: object) -> str:
    """Run a command; what it prints is the failure's text."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return str(done.stdout)
