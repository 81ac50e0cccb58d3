"""The image, built without a registry: what is in it, and a relay that runs out of it.

Its root file system is read-only; the relay is process 1 of a namespace and a user of no name.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay import __version__
from tests.deploy.tools import REVISION, ROOT, needed, run
from tests.deploy.tools import image as built_image
from tests.e2e.process import until
from tests.kafka_server import Broker
from tests.oracle import ENCRYPT_KEY, TOKEN, consume
from tests.ports import free_port
from tests.unit.test_requirements import pins

#: The first time Debian is fetched, and relay's requirements each time something has changed.
pytestmark = pytest.mark.timeout(900)

MEBIBYTE = 2**20
#: Beyond the base; bytes.
LIMIT = 120 * MEBIBYTE
#: What a container engine does: a root of its own that is read-only, but for one volume, and a
#: process 1 that is another user.
ENTER = """
root=$1 volume=$2 user=$3; shift 3
mount --bind "$root" "$root"
mount --bind "$volume" "$root/var/lib/relay"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image: its files, and what else a container engine reads."""

    root: Path
    config: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """What every process in it gets."""
        return dict(line.split("=", 1) for line in self.config["Env"])


@pytest.fixture(scope="module")
def image() -> Image:
    """The image of these sources; built when one of them has changed."""
    if os.geteuid() != 0:
        _cannot("only root can build and enter the image")
    for command in ("buildah", "debootstrap"):
        needed(command, command)
    place = built_image()
    return Image(root=place, config=json.loads(place.with_suffix(".json").read_text()))


def _cannot(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI cannot run this: {why}")
    pytest.skip(why)


@pytest.fixture
def volume(image: Image, tmp_path: Path) -> Path:
    """An empty directory that is the image's user's."""
    path = tmp_path / "volume"
    path.mkdir()
    user, group = image.config["User"].split(":")
    os.chown(path, int(user), int(group))
    return path


class Container:
    """One process of the image, entered as a container engine does."""

    def __init__(
        self, image: Image, volume: Path, settings: dict[str, str], user: str | None = None
    ) -> None:
        self._image, self._volume = image, volume
        self._settings = settings
        self._user: str = user or image.config["User"]

    def command(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Give what starts it, and its environment: the image's, and the settings."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "-"]
        places = [str(self._image.root), str(self._volume), self._user]
        return [*unshare, *places, *arguments], self._image.environment | self._settings

    def run(self, *arguments: str) -> str:
        """Run it to its end, which must be a good one."""
        command, environment = self.command(arguments)
        return run(command, env=environment, timeout=60)

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the image's own command while the context lasts."""
        config = self._image.config
        command, environment = self.command([*config["Entrypoint"], *config["Cmd"]])
        with (self._volume.parent / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_size(image: Image) -> None:
    """Everything that is added to the base."""
    added = [path for name in ("opt", "var/lib/relay") for path in (image.root / name).rglob("*")]
    assert sum(path.lstat().st_size for path in added) < LIMIT


def test_no_tools(image: Image) -> None:
    """No compiler, no installer, no tests; relay is compiled."""
    commands = {path.name for folder in image.root.glob("**/*bin/") for path in folder.iterdir()}
    assert not commands & {"gcc", "cc", "c++", "ld", "make", "pip", "pip3"}
    assert not list(image.root.rglob("ensurepip"))
    assert {path.name for path in (image.root / "opt/relay/bin").iterdir()} == {
        "python",
        "python3",
        f"python3.{_minor(image)}",
        "relay",
    }
    mine = {path.name for path in (image.root / "opt").rglob("*")}
    assert not mine & {"pip", "setuptools", "tests", "confluent_kafka"}
    assert f"settings.cpython-3{_minor(image)}.pyc" in mine


def test_compiled_by_content(image: Image) -> None:
    """What is compiled by a file's time would be compiled at each start: times are the image's."""
    compiled = list((image.root / "opt/relay").rglob("*.pyc"))
    unchecked_hash = (1).to_bytes(4, "little")
    assert compiled
    assert not [path for path in compiled if path.read_bytes()[4:8] != unchecked_hash]


def _minor(image: Image) -> int:
    (library,) = (image.root / "opt/relay/lib").iterdir()
    return int(library.name.removeprefix("python3."))


def test_what_an_engine_reads(image: Image) -> None:
    """A user that is not root by its number, the command's own form, the right version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert image.config["User"] == "10001:10001"
    assert image.config["Entrypoint"] == ["relay"]
    assert image.config["StopSignal"] == "SIGTERM"
    assert image.config["Volumes"] == {"/var/lib/relay": {}}
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels[REVISION[0]] == REVISION[1], "what deploy/image/build was told"


def test_what_is_in_it_can_be_listed(image: Image) -> None:
    """Every library that is locked for it, in its version, and Debian's packages."""
    script = str(ROOT / "deploy" / "sbom.py")
    listed = json.loads(run([sys.executable, script, str(image.root)]))
    assert listed["metadata"]["component"]["purl"] == f"pkg:pypi/feishu-relay@{__version__}"
    found = {part["purl"].split("?")[0] for part in listed["components"]}
    locked = pins(ROOT / "requirements" / "run.txt")
    python = {name for name in found if name.startswith("pkg:pypi/")}
    assert python < {f"pkg:pypi/{name}@{version}" for name, version in locked.items()}
    assert {name.split("@")[0] for name in found} > {
        "pkg:pypi/aiokafka",
        "pkg:deb/debian/python3",
        "pkg:deb/debian/ca-certificates",
    }


def test_base_is_the_official_one() -> None:
    """Unless another one is given."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("ARG")] == [
        "ARG BASE=python:3.13-slim",
        "ARG REQUIREMENTS=requirements/run.txt",
    ]
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"${BASE}"}


def test_every_command_starts(image: Image, volume: Path) -> None:
    """On a root that nothing can be written to."""
    container = Container(image, volume, {})
    for command in ("serve", "check", "drain", "simulate", "events", "tail", "subscribe"):
        assert "Usage: relay" in container.run("relay", command, "--help")
    assert container.run("sh", "-c", "touch /opt/x 2>&1 || true").endswith(
        "Read-only file system\n"
    )


async def test_one_event_through_the_image(
    image: Image, volume: Path, kafka: Broker, topic_prefix: str
) -> None:
    """Simulated by the image itself, on Kafka once; healthy; SIGTERM ends it with 0."""
    webhook, admin = free_port(), free_port()
    settings = {
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY": ENCRYPT_KEY,
        "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": TOKEN,
        "RELAY_WEBHOOK__PORT": str(webhook),
        "RELAY_ADMIN__PORT": str(admin),
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "RELAY_KAFKA__TOPIC_PREFIX": topic_prefix,
        "RELAY_DRAIN__DELAY": "0s",
    }
    container = Container(image, volume, settings)
    check = image.config["Healthcheck"]["Test"][1:]

    with container.serving() as process:

        async def healthy() -> bool:
            assert process.poll() is None, (volume.parent / "log").read_text()
            with suppress(AssertionError):
                container.run(*check)
                return True
            return False

        await until(healthy, 30, "the image's health check passes")
        url = f"http://127.0.0.1:{webhook}/webhook/event"
        once = ("--count", "1", "--repeat", "0")
        await asyncio.to_thread(container.run, "relay", "simulate", "--url", url, *once)
        (relay,) = _children(process.pid)
        assert _status(relay, "NSpid").split()[-1] == "1"
        assert _status(relay, "Uid").split()[0] == "10001"
        os.kill(relay, signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
    events = [seen for seen in await consume(kafka.bootstrap, topic_prefix) if seen.key]
    assert len(events) == 1
    assert {path.name for path in _files(volume)} == {"journal.db", "journal.db.lock"}


@pytest.mark.parametrize("user", ["1000680000:0", "65532:0"])
async def test_any_user_of_group_0_may_run_it(image: Image, tmp_path: Path, user: str) -> None:
    """On a volume that an engine has made of the image's own directory."""
    volume, own = tmp_path / "volume", (image.root / "var/lib/relay").stat()
    volume.mkdir()
    os.chown(volume, own.st_uid, own.st_gid)
    volume.chmod(own.st_mode)
    webhook, admin = free_port(), free_port()
    settings = {
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY": ENCRYPT_KEY,
        "RELAY_WEBHOOK__PORT": str(webhook),
        "RELAY_ADMIN__PORT": str(admin),
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
    }
    container = Container(image, volume, settings, user)
    check = image.config["Healthcheck"]["Test"][1:]
    with container.serving() as process:

        async def healthy() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with suppress(AssertionError):
                container.run(*check)
                return True
            return False

        await until(healthy, 30, "the image's health check passes")
        (relay,) = _children(process.pid)
        assert _status(relay, "Uid").split()[0] == user.partition(":")[0]
        assert {path.name for path in _files(volume)} >= {"journal.db", "journal.db.lock"}
        os.kill(relay, signal.SIGKILL)


def _files(volume: Path) -> list[Path]:
    return list(volume.iterdir())


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1] for line in lines if line.startswith(f"{field}:"))
