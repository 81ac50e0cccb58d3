"""Starts processes as forks of one that has loaded relay: a tenth of the work of a start.

For the tests that start hundreds. Of such processes there are two, whose relay is marked or not
(points.py); a process that is measured is started like a user's.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).parents[2]
#: What `relay serve` loads, at once or when its settings ask for it.
SERVING = (
    "relay.cli.main",
    "relay.app",
    "relay.claims.seeding",
    "relay.ingress.longconn",
    "aiokafka.admin",
)
#: The module whose processes have the marks.
MARKED = "tests.e2e.points"
#: Bytes of an order; it holds an environment.
LARGEST = 2**20


class Fork:
    """What the tests use of a `Popen`."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Give the exit code, negative after a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"ended": self.pid})
        return self.returncode


class Nursery:
    """The process that forks."""

    def __init__(self, *, marked: bool) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        with theirs:
            descriptor = theirs.fileno()
            # It ends when the socket does: with this process.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.forks", str(descriptor), *["marked"] * marked],
                cwd=PROJECT,
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
            )

    def fork(
        self, module: str, *arguments: str, environment: Mapping[str, str], output: IO[bytes]
    ) -> Fork:
        """Be `python -m module arguments` in a new process that prints to a file."""
        order = {"module": module, "arguments": arguments, "environment": dict(environment)}
        return Fork(self, self.ask(order, output.fileno()))

    def ask(self, order: Mapping[str, Any], *files: int) -> Any:
        """Give the answer to an order."""
        socket.send_fds(self._orders, [json.dumps(order).encode()], files)
        return json.loads(self._orders.recv(LARGEST))


def nursery(module: str) -> Nursery:
    """Give the one for processes of a module, which is started once."""
    return _nursery(marked=module == MARKED)


@cache
def _nursery(*, marked: bool) -> Nursery:
    return Nursery(marked=marked)


def _answer(order: dict[str, Any], files: list[int], orders: socket.socket) -> int | None:
    if "ended" in order:
        pid, status = os.waitpid(order["ended"], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    if pid := os.fork():
        os.close(files[0])
        return pid
    orders.close()
    _become(order, files[0])
    sys.exit()


def _become(order: dict[str, Any], output: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    # The ones that are there know their files: whether one can seek in them.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Load relay, then fork as told, until nobody tells any more."""
    # Ctrl-C is for the tests, which close the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "marked" in sys.argv:
        import_module(MARKED).load()
        # The fork that is this module runs it anew.
        del sys.modules[MARKED]
    for module in SERVING:
        import_module(module)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            message, files, _, _ = socket.recv_fds(orders, LARGEST, 1)
            if not message:
                return
            orders.send(json.dumps(_answer(json.loads(message), files, orders)).encode())


if __name__ == "__main__":
    main()
