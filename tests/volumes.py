"""Small volumes to fill, and what fills them; only root may mount them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def mount(place: Path, options: str) -> bool:
    """Mount a volume in memory; give whether that is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def volume_of(place: Path, size: str) -> Iterator[Path]:
    """Give an empty volume of a size, such as `2m`."""
    place.mkdir()
    if not mount(place, f"size={size}"):
        pytest.skip("only root may mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def filled(path: Path, *, spare: int = 0) -> Iterator[None]:
    """Something else fills the volume on which a file lies, but for `spare` bytes."""
    filler = path.with_name("filler")
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        file.truncate(max(0, file.tell() - spare))
    yield
    filler.unlink()
