"""Several seeds at once: each lane is a process with brokers of its own."""

import argparse
import asyncio
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from tests.lab.ground import Ground
from tests.lab.run import REPLICAS, run_seed
from tests.lab.world import Verdict

#: What a seed has shown, as JSON; one that failed of itself has `seed`, `wrong` and `story` alone.
Row = dict[str, Any]

#: Of a lane: what its seeds stand on.
_ground: list[Ground] = []


def run(seeds: Sequence[int], options: argparse.Namespace) -> Iterator[Row]:
    """Run the seeds; give each when it has ended."""
    with ProcessPoolExecutor(
        options.at_once, get_context("spawn"), initializer=_begin, initargs=(options,)
    ) as workers:
        for future in as_completed([workers.submit(_one, seed, options) for seed in seeds]):
            yield future.result()


def _begin(options: argparse.Namespace) -> None:
    again = options.reauthentication
    ground = Ground(options.brokers, REPLICAS, options.kafka, reauthentication=again)
    ground.__enter__()
    _ground.append(ground)
    # The pool ends a lane without unwinding it.
    Finalize(None, ground.__exit__, (None, None, None), exitpriority=1)


def _begin_anew(options: argparse.Namespace) -> None:
    """What a seed that failed of itself leaves behind is no ground for the next one."""
    _ground.pop().__exit__(None, None, None)
    _begin(options)


def _one(seed: int, options: argparse.Namespace) -> Row:
    (ground,) = _ground
    with tempfile.TemporaryDirectory(prefix="relay-lab-") as directory:
        seeding = run_seed(seed, ground, Path(directory), options.seconds, options.only)
        try:
            return _row(asyncio.run(seeding))
        except Exception as error:  # noqa: BLE001 - the next seed may show more
            story = traceback.format_exc()
            _begin_anew(options)
            return {"seed": seed, "wrong": f"the seed failed: {error}", "story": story}


def _row(verdict: Verdict) -> Row:
    report = verdict.report
    return {
        "seed": verdict.seed,
        "wrong": verdict.wrong(),
        "story": "\n".join(verdict.timeline),
        "said": str(report),
        "acknowledged": report.acknowledged,
        "lost": len(report.missing),
        "twice": len(report.twice),
        "may_repeat": verdict.may_repeat,
        "answers": {str(status): count for status, count in verdict.answers.items()},
        "p99": verdict.p99,
        "recovery": verdict.recovery,
        "faults": dict(verdict.faults),
    }
