"""Makes what a maintainer publishes, of the commit that is checked out: `make release`.

Wheel and sdist, the chart's archive, the image for each architecture as an OCI archive with a list
of what is in it, and SHA256SUMS of all. Whatever has a time has the commit's: a second run on the
same commit and the same base gives the same sums. docs/release.md tells the rest.
"""

import argparse
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sbom

ROOT = Path(__file__).parents[1]
#: Builds the chart's archive where no `helm` is installed.
HELM = "helm.sh/helm/v3/cmd/helm@v3.19.2"
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is released, and of which commit."""

    version: str
    revision: str
    #: Seconds since 1970: when the commit was made.
    moment: int
    #: Where the sources are, as the maintainer says.
    source: str | None

    def labels(self) -> dict[str, str]:
        """Give the image's labels in OCI's names."""
        created = dt.datetime.fromtimestamp(self.moment, dt.UTC)
        labels = {
            "version": self.version,
            "revision": self.revision,
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self.source:
            labels["source"] = self.source
        return {f"org.opencontainers.image.{name}": value for name, value in labels.items()}


def main() -> int:
    """Make it all in a new folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="address of the sources, for image and chart")
    parser.add_argument("--arches", default="amd64 arm64", help="of the images; none: ''")
    options = parser.parse_args()
    if changes := run("git", "status", "--porcelain"):
        sys.exit(f"A release is of a commit; these are in none:\n{changes}")
    made = release(options.source)
    target = ROOT / "dist" / made.version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    packages(made, target)
    chart(made, target)
    for arch in options.arches.split():
        image(made, target, arch)
    print(sums(target), end="")
    return 0


def release(source: str | None) -> Release:
    """Describe the commit that is checked out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Release(
        version=project["version"],
        revision=run("git", "rev-parse", "HEAD").strip(),
        moment=int(run("git", "log", "-1", "--format=%ct")),
        source=source or project.get("urls", {}).get("Source"),
    )


def packages(made: Release, target: Path) -> None:
    """Build wheel and sdist."""
    hatchling = str(Path(sys.executable).with_name("hatchling"))
    run(hatchling, "build", "--directory", str(target), moment=made.moment)


def chart(made: Release, target: Path) -> None:
    """Package the chart; helm writes the time of its run into each entry, this the commit's."""
    helm = [found] if (found := shutil.which("helm")) else ["go", "run", "-trimpath", HELM]
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(ROOT / "deploy/helm", Path(folder) / "chart")
        if made.source:
            address = json.dumps(made.source)
            with (copy / "Chart.yaml").open("a", encoding="utf-8") as about:
                about.write(f"home: {address}\nsources: [{address}]\n")
        run(*helm, "package", str(copy), "--destination", folder)
        (packed,) = Path(folder).glob("*.tgz")
        (target / packed.name).write_bytes(_repacked(packed, made.moment))


def _repacked(archive: Path, moment: int) -> bytes:
    buffer = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for entry in sorted(old.getmembers(), key=lambda entry: entry.name):
            entry.mtime, entry.pax_headers = moment, {}
            new.addfile(entry, old.extractfile(entry))
    return buffer.getvalue()


def image(made: Release, target: Path, arch: str) -> None:
    """Build the image of an architecture, and list what is in it."""
    name = f"relay-{made.version}-linux-{arch}"
    labels = [part for pair in made.labels().items() for part in ("--label", "=".join(pair))]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        places = ("--arch", arch, "--oci", str(target / f"{name}.oci.tar"), str(root))
        run(str(ROOT / "deploy/image/build"), *labels, *places, moment=made.moment)
        listed = json.dumps(sbom.bom(root), indent=2)
    (target / f"{name}.cdx.json").write_text(f"{listed}\n", encoding="utf-8")


def sums(target: Path) -> str:
    """Write the sum of each file, as `sha256sum --check` reads them."""
    lines = [f"{_sum(path)}  {path.name}\n" for path in _files(target)]
    (target / SUMS).write_text("".join(lines), encoding="utf-8")
    return "".join(lines)


def _files(target: Path) -> Iterable[Path]:
    return sorted(path for path in target.iterdir() if path.name != SUMS)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(*command: str, moment: int | None = None) -> str:
    """Run a command of the sources' folder; give what it printed."""
    dated = {} if moment is None else {"SOURCE_DATE_EPOCH": str(moment)}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | dated, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
