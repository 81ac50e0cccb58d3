"""The broker that tests kill: what it has acknowledged is there when it comes back."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests import kafka_server
from tests.kafka_server import KafkaServer


@pytest.fixture
def server(tmp_path: Path) -> KafkaServer:
    """One whose process is another."""
    made = KafkaServer()
    made._directory = tmp_path
    made._process = subprocess.Popen(["sleep", "60"])
    for name in ("t-0", "t-1"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "partition.metadata").touch()
    return made


def test_kill_waits_until_every_partition_has_its_id(server: KafkaServer) -> None:
    """Kafka would throw the partition away."""
    late = server._home / "data" / "t-1" / "partition.metadata"
    late.unlink()
    process, alive = server._running(), []

    def write() -> None:
        time.sleep(0.3)
        alive.append(process.poll() is None)
        late.touch()

    writing = threading.Thread(target=write)
    writing.start()
    server.kill()
    writing.join()
    assert alive == [True]
    assert process.returncode == -9


@pytest.mark.parametrize(
    "name", ["t-0.7f-delete", "t-1.9c-stray", "x-offset", "__cluster_metadata-0"]
)
def test_kill_waits_for_nothing_else(server: KafkaServer, name: str) -> None:
    (server._home / "data" / name).mkdir()
    assert server._without_id() == []
    server.kill()


def test_kill_does_not_wait_for_ever(server: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that hangs writes nothing."""
    monkeypatch.setattr(kafka_server, "IDS_WITHIN", 0.1)
    (server._home / "data" / "t-0" / "partition.metadata").unlink()
    server.kill()
    assert server._process is None
