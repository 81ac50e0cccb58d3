"""What the kernel knows about processes, cores and the machine (Linux's /proc)."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.quantiles import Spread

_TICK = os.sysconf("SC_CLK_TCK")
_MB = 1_000_000
_SYNCS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the figures depend on besides the code."""

    processor: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    #: Writing 4 KiB and `fdatasync`, where the journal lies.
    fsync: Spread


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB (10^6 bytes)."""
    return _status_kib(pid, "VmRSS") * 1024 / _MB


def peak_mb(pid: int) -> float:
    """The most that was ever resident, in MB."""
    return _status_kib(pid, "VmHWM") * 1024 / _MB


def busy_seconds(cores: Sequence[int]) -> float:
    """Time that these cores were taken since boot: by processes, interrupts, the hypervisor."""
    names = {f"cpu{core}" for core in cores}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    # user, nice, system, idle, iowait, irq, softirq, steal
    taken = (sum(map(int, line[1:4] + line[6:9])) for line in lines if line[0] in names)
    return sum(taken) / _TICK


def is_memory(directory: Path) -> bool:
    """Whether files there lie in memory: their fsync would cost nothing."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    path = directory.resolve()
    holding = [mount for mount in mounts if path.is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2] in {"tmpfs", "ramfs"}


def describe(directory: Path) -> Machine:
    """Describe this machine; takes up to a second for the disk."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        fsync=_measure_fsync(directory / "fsync"),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model", "Processor"}:
            return value.strip()
    return platform.machine()


def _measure_fsync(path: Path) -> Spread:
    taken = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for number in range(_SYNCS):
            os.pwrite(descriptor, os.urandom(4096), number * 4096)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return Spread.of(taken)


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0
