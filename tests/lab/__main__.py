"""`make lab SEEDS=500`: runs seeds, prints a table and the timeline of each that failed.

`python -m tests.lab --first 17 --seeds 1` repeats seed 17: the same faults in the same order; the
moments are the machine's.
"""

import argparse
import asyncio
import math
import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kafka_server import USUAL
from tests.lab.ground import Ground
from tests.lab.run import REPLICAS, run_seed
from tests.lab.world import Verdict

#: Columns of the table where there is no terminal.
WIDE = 160


def main() -> int:
    """Run the seeds; 1 if one of them failed."""
    for name in list(os.environ):
        if name.upper().startswith("RELAY_"):
            del os.environ[name]
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--seconds", type=float, default=60, help="of faults for each seed")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=3)
    parser.add_argument("--kafka", default=USUAL, help="the version, as 3.9.2")
    parser.add_argument("--timeline", action="store_true", help="print what happened in each seed")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    verdicts: list[Verdict] = []
    failed: list[int] = []
    with Ground(options.brokers, REPLICAS, options.kafka) as ground:
        for seed in range(options.first, options.first + options.seeds):
            verdict = _one(seed, ground, options.seconds, console)
            if verdict is None or verdict.wrong():
                failed.append(seed)
            if verdict:
                verdicts.append(verdict)
                _tell(verdict, console, timeline=options.timeline or bool(verdict.wrong()))
    console.print(_table(verdicts))
    console.print(
        f"{len(verdicts)} seeds of {options.seconds:g} s, {options.brokers} brokers;", end=" "
    )
    console.print(f"failed: {failed}" if failed else "none failed")
    return bool(failed)


def _one(seed: int, ground: Ground, seconds: float, console: Console) -> Verdict | None:
    with tempfile.TemporaryDirectory(prefix="relay-lab-") as directory:
        try:
            return asyncio.run(run_seed(seed, ground, Path(directory), seconds))
        except Exception:  # noqa: BLE001 - the next seed may show more
            traceback.print_exc()
            return None


def _tell(verdict: Verdict, console: Console, *, timeline: bool) -> None:
    mark = f"[red]{verdict.wrong()}[/]" if verdict.wrong() else "[green]kept[/]"
    console.print(f"seed {verdict.seed}: {verdict.report}; {mark}", highlight=False)
    if timeline:
        console.print("\n".join(verdict.timeline), markup=False, highlight=False)


def _table(verdicts: list[Verdict]) -> Table:
    """What all seeds together have shown."""
    faults: Counter[str] = sum((one.faults for one in verdicts), Counter())
    strict = [one for one in verdicts if not one.may_repeat]
    emptied = [one for one in verdicts if one.may_repeat]
    answers = sum((one.answers for one in verdicts), Counter[int]())
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    rows = {
        "acknowledged": f"{sum(one.report.acknowledged for one in verdicts):,}",
        "lost": str(sum(len(one.report.missing) for one in verdicts)),
        "twice": str(sum(len(one.report.twice) for one in strict)),
        "twice, where claims were emptied": str(sum(len(one.report.twice) for one in emptied)),
        "answers": ", ".join(f"{status}: {n:,}" for status, n in sorted(answers.items())),
        "answered within (99 %)": f"{_worst([one.p99 for one in verdicts]) * 1000:.0f} ms",
        "longest recovery": f"{_worst([one.recovery for one in verdicts]):.1f} s",
    } | {name.replace("_", " "): str(count) for name, count in sorted(faults.items())}
    for name, figure in rows.items():
        table.add_row(name, figure)
    return table


def _worst(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


if __name__ == "__main__":
    sys.exit(main())
