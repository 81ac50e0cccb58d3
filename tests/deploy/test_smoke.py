"""What `helm test` runs: it waits for what is not there yet, and ends with a sentence."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deploy.tools import CHART
from tests.ports import free_port

SMOKE = (CHART / "files" / "smoke.py").read_text()

pytestmark = pytest.mark.timeout(120)


class Replica(BaseHTTPRequestHandler):
    """Plays a replica, its metrics and its webhook at one port; answers what the test says."""

    #: Answers to come before all is well, by method: status, body.
    troubles: list[tuple[str, int, str]] = []  # noqa: RUF012 - each test has a class of its own
    published = 0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Tell the metrics; at the webhook, that only POST is answered."""
        if self.path == "/metrics":
            body = f'relay_settled_total{{outcome="published"}} {float(self.published)}\n'
            self._answer("metrics", 200, body)
        else:
            self._answer("webhook", 405, "")

    def do_POST(self) -> None:
        """Take an event."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self._answer("post", 200, '{"msg":"success"}') == 200:
            type(self).published += 1

    def _answer(self, kind: str, status: int, body: str) -> int:
        trouble = next((one for one in self.troubles if one[0] == kind), None)
        if trouble:
            self.troubles.remove(trouble)
            _, status, body = trouble
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
        return status


@contextmanager
def smoke(path: Path, port: int, **changes: str) -> Iterator["subprocess.Popen[str]"]:
    """Start it, as the chart's pod does."""
    toml = path / "relay.toml"
    toml.write_text(
        '[apps.default]\nencrypt_key = "k"\nverification_token = "t"\n'
        '[kafka]\nbootstrap_servers = "b:1"\n'
    )
    environment = {
        "APP": "default",
        "WEBHOOK": f"http://127.0.0.1:{port}/webhook/event/default",
        "REPLICAS": "127.0.0.1",
        "COUNT": "1",
        "ADMIN_PORT": str(port),
        "RELAY_CONFIG": str(toml),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **changes,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SMOKE],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def replica(port: int, *troubles: tuple[str, int, str]) -> Iterator[None]:
    """Listen; the troubles come first."""
    kind = type("Trouble", (Replica,), {"troubles": list(troubles)})
    server = ThreadingHTTPServer(("127.0.0.1", port), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_replica_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    """As right after an install."""
    port = free_port()
    with smoke(tmp_path, port) as process:
        assert process.stdout
        first = process.stdout.readline()
        assert first.startswith(f"waits: the replicas' metrics, at 127.0.0.1:{port}, cannot be")
        with replica(port):
            said, trouble = process.communicate()
    assert (process.returncode, trouble) == (0, "")
    assert said.endswith("One event went in through the Service and out to Kafka.\n")


#: What may be answered at first, and how each is called.
TROUBLES = {
    ("metrics", 503, ""): "cannot be read: Service Unavailable",
    ("metrics", 200, "up 1"): "cannot be read: they are not relay's",
    ("webhook", 503, ""): "answers 503",
    ("webhook", 200, "hello"): "is not relay",
    ("post", 503, ""): "did not take the event",
}


def test_trouble_that_passes_is_waited_out(tmp_path: Path) -> None:
    """Whatever it is, one after the other."""
    port = free_port()
    with replica(port, *TROUBLES), smoke(tmp_path, port) as process:
        said, _ = process.communicate()
    assert process.returncode == 0
    assert [sentence for sentence in TROUBLES.values() if sentence not in said] == []
    assert said.endswith("One event went in through the Service and out to Kafka.\n")


@pytest.mark.parametrize("place", ["127.0.0.1", "no-such-name.invalid"])
def test_patience_ends_with_a_sentence(place: str, tmp_path: Path) -> None:
    """And with no traceback."""
    with smoke(tmp_path, free_port(), PATIENCE="0", REPLICAS=place) as process:
        _, trouble = process.communicate()
    assert process.returncode == 1
    assert trouble.startswith("Not within 0 s. the replicas' metrics")
    assert trouble.endswith("Try `relay check` in a pod; see its log.\n")
    assert len(trouble.splitlines()) == 1


def test_all_replicas_are_waited_for(tmp_path: Path) -> None:
    """One whose number was not read before could have published earlier."""
    port = free_port()
    with replica(port), smoke(tmp_path, port, PATIENCE="0", COUNT="2") as process:
        _, trouble = process.communicate()
    assert "1 of 2 replicas are there" in trouble
