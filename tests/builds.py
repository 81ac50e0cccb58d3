"""What tests build once into the user's cache; built beside the first tests, which need none of it.

`python -m tests.builds` makes all that this machine can. What fails here fails again, with its
reason, in the test that needs it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

#: Below the tests in the scheduler's eyes.
NICENESS = 10


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Let one process build at a place; others wait, and find it built."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start() -> subprocess.Popen[bytes]:
    """Build in a process group of its own, so that it can be ended with its children."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.builds"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """Build everything, in the order in which tests ask for it."""
    from tests import kafka_server  # noqa: PLC0415 - they import `alone`
    from tests.deploy import tools  # noqa: PLC0415
    from tests.sdk.toolchains import (  # noqa: PLC0415
        AXE,
        EXAMPLES,
        GENERATORS,
        KIT,
        TOOLCHAINS,
    )

    os.nice(NICENESS)
    builds: list[Callable[[], object]] = []
    if kafka_server.available() is None:
        builds += [
            kafka_server.share_classes,
            partial(kafka_server.share_classes, kafka_server.OLDEST),
        ]
    programs = (*EXAMPLES, *GENERATORS, *TOOLCHAINS, *KIT, AXE)
    builds += [one.command for one in programs if not one.missing()]
    if shutil.which("go"):
        for module in (tools.HELM, tools.KUBECONFORM, tools.UNITTEST):
            builds.append(partial(tools.go_tool, *module))
    if os.geteuid() == 0 and shutil.which("buildah") and shutil.which("debootstrap"):
        builds.append(tools.image)
    for build in builds:
        try:
            build()
        except Exception as error:  # noqa: BLE001 - the test that needs it says why
            sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main()
