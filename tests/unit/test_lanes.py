"""How the tests are spread over workers: each runs once, and nobody waits for ever."""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler import loadscope

from tests import conftest

SECONDS = {"unit": 0.1, "integration": 1.0, "e2e": 8.0, "sdk": 5.0, "lab": 8.0, "deploy": 2.0}
TESTS = [
    f"tests/{folder}/test_{file}.py::test_{number}"
    for folder, files, tests in (
        ("unit", 4, 100),
        ("integration", 10, 20),
        ("e2e", 4, 10),
        ("sdk", 2, 10),
        ("lab", 1, 20),
        ("deploy", 3, 10),
    )
    for file in range(files)
    for number in range(tests)
]


@dataclass(eq=False)
class Worker:
    """What the scheduler uses of one; like the real one it runs no test before it has another."""

    gateway: SimpleNamespace
    queue: list[int] = field(default_factory=list)
    shutting_down: bool = False
    busy: bool = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def next(self) -> int | None:
        ready = not self.busy and len(self.queue) > (not self.shutting_down)
        return self.queue.pop(0) if ready else None


@pytest.fixture
def scheduler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(loadscope, "parse_tx_spec_config", lambda _: range(request.param))
    config: Any = SimpleNamespace(option=SimpleNamespace(loadscopereorder=False))
    log: Any = SimpleNamespace(loadscopesched=lambda *_: None)
    made = conftest.pytest_xdist_make_scheduler(config, log)
    workers = [Worker(SimpleNamespace(id=f"gw{number}")) for number in range(request.param)]
    for worker in workers:
        made.add_node(worker)
    return made


def run(
    scheduler: Any, tests: list[str]
) -> tuple[Counter[str], dict[str, list[tuple[float, str]]]]:
    """Run them in a time of their own; give how often each ran, and when, by worker."""
    workers = list(scheduler.nodes)
    for worker in workers:
        scheduler.add_node_collection(worker, tests)
    scheduler.schedule()
    now, running = 0.0, list[tuple[float, int, Worker, int]]()
    ran, when = Counter[str](), defaultdict[str, list[tuple[float, str]]](list)
    while True:
        for worker in workers:
            if (index := worker.next()) is not None:
                worker.busy = True
                end = now + SECONDS[tests[index].split("/")[1]]
                heapq.heappush(running, (end, id(worker), worker, index))
        if not running:
            return ran, when
        now, _, worker, index = heapq.heappop(running)
        worker.busy = False
        ran[tests[index]] += 1
        when[worker.gateway.id].append((now, tests[index].split("/")[1]))
        scheduler.mark_test_complete(worker, index)


@pytest.mark.parametrize("scheduler", [1, 2, 3, 4], indirect=True)
@pytest.mark.parametrize("folder", ["", *SECONDS])
def test_each_test_runs_once(scheduler: Any, folder: str) -> None:
    """All of them, or those of one folder."""
    tests = [one for one in TESTS if one.startswith(f"tests/{folder}")]
    ran, _ = run(scheduler, tests)
    assert ran == Counter(tests)


@pytest.mark.parametrize("scheduler", [3], indirect=True)
def test_third_worker_disturbs_no_measurement(scheduler: Any) -> None:
    """Until they are over it has integration alone; the laboratory, the longest lane, is next."""
    _, when = run(scheduler, TESTS)
    measured = max(end for rows in when.values() for end, folder in rows if folder == "e2e")
    third = {folder for end, folder in when["gw2"] if end - SECONDS[folder] < measured}
    assert third == {"integration"}
    began = {
        name: min(
            end - SECONDS[name] for rows in when.values() for end, folder in rows if folder == name
        )
        for name in ("lab", "sdk")
    }
    assert began["lab"] <= began["sdk"]
    helped = {folder for end, folder in when["gw2"] if end > measured}
    assert helped >= {"sdk"}
