"""Tools of other ecosystems: found on the machine, or skipped at home and missed in CI."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.builds import alone

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
HELM = ("helm.sh/helm/v3/cmd/helm", "v3.19.2")
KUBECONFORM = ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0")
#: The last one that `go install` takes.
UNITTEST = ("github.com/helm-unittest/helm-unittest/cmd/helm-unittest", "v0.8.2")
#: A label that the image of the tests has.
REVISION = ("org.opencontainers.image.revision", "of-the-tests")
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
    with alone(place):
        if not (place / name).exists():
            environment = os.environ | {"GOBIN": str(place), "GOFLAGS": "-trimpath"}
            # It fetches some hundred modules, each with one attempt of go's own.
            install = [needed("go", "golang-go"), "install", f"{module}@{version}"]
            run(install, attempts=3, env=environment)
    return str(place / name)


def image() -> Path:
    """Build the image of these sources, unless that was done before; give its root file system."""
    place = CACHE / "image" / _digest()
    described = place.with_suffix(".json")
    with alone(CACHE / "image"):
        if not described.exists():
            shutil.rmtree(place.parent, ignore_errors=True)
            place.parent.mkdir(parents=True)
            built = place.with_suffix(".part")
            build = str(ROOT / "deploy" / "image" / "build")
            run([build, "--label", "=".join(REVISION), str(built)])
            built.rename(place)
            built.with_suffix(".part.json").rename(described)
    return place


def _digest() -> str:
    """Of all that goes into the image."""
    code = [path for path in (ROOT / "relay").rglob("*") if "__pycache__" not in path.parts]
    others = ["Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "deploy/image/build"]
    others += ["requirements/run.txt", "requirements/build.txt"]
    digest = hashlib.sha256()
    for path in sorted([*code, *(ROOT / name for name in others)]):
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(command: Sequence[str], *, attempts: int = 1, **options: object) -> str:
    """Run a command until it succeeds once; else `AssertionError` with what it printed."""
    for _ in range(attempts):
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
        if done.returncode == 0:
            return str(done.stdout)
    raise AssertionError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
