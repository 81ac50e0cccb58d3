"""Where there is no IPv4: from the webhook to the consumer, claims, probes and `relay check`."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import need_kafka
from tests.e2e.process import PROJECT
from tests.redis_server import need_redis

#: Ways into a network of its own: root's, and anybody's.
WAYS = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])


def test_whole_path_needs_no_ipv4(tmp_path: Path) -> None:
    """In a network without; where none can be made, on ::1 alone."""
    need_kafka()
    need_redis()
    command = [sys.executable, "-m", "tests.e2e.ipv6_only", str(tmp_path)]
    for way in WAYS:
        if may(way):
            command = [*way, *command, "apart"]
            break
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert done.stdout.endswith("60 events, each once\n")


def may(way: list[str]) -> bool:
    """Whether this machine lets a namespace be made that way, with ::1 in it."""
    program = (
        "import socket; from tests.e2e import ipv6_only; ipv6_only.take_ipv4_away();"
        "socket.create_server(('::1', 0), family=socket.AF_INET6)"
    )
    command = [*way, sys.executable, "-c", program]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False, timeout=60)
    except OSError:
        return False
    return done.returncode == 0
