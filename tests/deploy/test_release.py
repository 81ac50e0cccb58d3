"""`make release`: what is published besides the image, the same at each run on a commit."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.deploy.tools import HELM, ROOT, go_tool, run

MOMENT = 1_750_000_000


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "deploy"))
        spec = importlib.util.spec_from_file_location("release", ROOT / "deploy" / "release.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "release", module)
        spec.loader.exec_module(module)
        return module


@pytest.mark.parametrize("source", [None, "https://git.example.com/team/relay"])
def test_labels_tell_the_commit(source: str | None, release: ModuleType) -> None:
    """And where the sources are, if somebody has said it."""
    made = release.Release(version="1.2.3", revision="abc", moment=MOMENT, source=source)
    told = {name.rsplit(".", 1)[-1]: value for name, value in made.labels().items()}
    assert told == {
        "version": "1.2.3",
        "revision": "abc",
        "created": "2025-06-15T15:06:40Z",
    } | ({"source": source} if source else {})


def test_second_run_gives_the_same(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wheel, sdist and the chart's archive; its sums are what sha256sum checks."""
    monkeypatch.setenv("PATH", str(Path(go_tool(*HELM)).parent), prepend=":")
    made = release.Release(version="0.1.0", revision="abc", moment=MOMENT, source=None)
    summed = []
    for name in ("one", "two"):
        target = tmp_path / name
        target.mkdir()
        release.packages(made, target)
        release.chart(made, target)
        summed.append(release.sums(target))
        run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=target)
    assert summed[0] == summed[1]
    names = {line.split()[1] for line in summed[0].splitlines()}
    assert {path.rsplit("-", 1)[0] for path in names} > {"feishu_relay", "relay"}
    with tarfile.open(next(target.glob("relay-*.tgz"))) as chart:
        entries = chart.getnames()
        assert "relay/Chart.yaml" in entries
        assert {entry.mtime for entry in chart} == {MOMENT}
    assert not [name for name in entries if name.startswith(("relay/ci/", "relay/tests/"))]
    run([go_tool(*HELM), "lint", str(next(target.glob("relay-*.tgz"))), *_needed()])


def test_chart_tells_where_the_sources_are(
    release: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If somebody has said it, and the chart in the sources stays as it is."""
    monkeypatch.setenv("PATH", str(Path(go_tool(*HELM)).parent), prepend=":")
    source = "https://git.example.com/team/relay"
    before = (ROOT / "deploy/helm/Chart.yaml").read_bytes()
    made = release.Release(version="0.1.0", revision="abc", moment=MOMENT, source=source)
    release.chart(made, tmp_path)
    about = yaml.safe_load(run([go_tool(*HELM), "show", "chart", *map(str, tmp_path.iterdir())]))
    assert about["home"] == source
    assert about["sources"] == [source]
    assert about["kubeVersion"] == ">=1.27.0-0"
    assert (ROOT / "deploy/helm/Chart.yaml").read_bytes() == before


def _needed() -> list[str]:
    said = ["kafka.bootstrapServers=kafka:9092", "apps.default.encryptKey=k"]
    said += ["image.repository=relay", "apps.default.verificationToken=t"]
    return [part for one in said for part in ("--set", one)]


def test_helm_is_the_one_of_the_tests(release: ModuleType) -> None:
    """What a release is made with was tried."""
    assert "@".join(HELM) == release.HELM


def test_release_of_what_is_in_no_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its labels would name a commit that it is not of."""
    for path in ("deploy/release.py", "deploy/sbom.py", "pyproject.toml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\necho ' M relay/app.py'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=":")
    command = [sys.executable, "deploy/release.py", "--arches", ""]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "M relay/app.py" in done.stderr
    assert not (tmp_path / "dist").exists()


PACKAGE = """Package: {name}
Status: {status}
Architecture: arm64
Version: {version}
Description: text
 of lines
"""


def test_list_of_an_image(tmp_path: Path) -> None:
    """What dpkg and the environment have; nothing of what was taken away; twice the same."""
    blocks = [
        PACKAGE.format(name="tzdata", status="install ok installed", version="1:2+b~1"),
        PACKAGE.format(name="gone", status="deinstall ok config-files", version="1"),
    ]
    texts = {
        "var/lib/dpkg/status": "\n".join(blocks),
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    }
    site = "opt/relay/lib/python3.13/site-packages"
    texts[f"{site}/feishu_relay-1.dist-info/METADATA"] = "Name: feishu-relay\nVersion: 1\n\ntext\n"
    texts[f"{site}/A_b-2.dist-info/METADATA"] = "Name: A_b\nVersion: 2\nLicense-Expression: MIT\n"
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    script = str(ROOT / "deploy" / "sbom.py")
    one, other = (run([sys.executable, script, str(tmp_path)]) for _ in range(2))
    assert one == other
    listed = json.loads(one)
    assert listed["metadata"]["component"]["purl"] == "pkg:pypi/feishu-relay@1"
    assert {part["purl"]: part.get("licenses") for part in listed["components"]} == {
        "pkg:deb/debian/tzdata@1%3A2%2Bb~1?arch=arm64&distro=debian-12": None,
        "pkg:pypi/a-b@2": [{"expression": "MIT"}],
    }
