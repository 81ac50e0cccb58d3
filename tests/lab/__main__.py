"""`make lab SEEDS=500`: runs seeds, prints a table and the timeline of each that failed.

`python -m tests.lab --first 17 --seeds 1` repeats seed 17: the same faults in the same order; the
moments are the machine's. With `--results FILE` a run that was ended goes on where it was.
"""

import argparse
import json
import math
import os
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kafka_server import USUAL
from tests.lab import lanes
from tests.lab.faults import FAULTS
from tests.lab.lanes import Row

#: Columns of the table where there is no terminal.
WIDE = 160


def main() -> int:
    """Run the seeds; 1 if one of them failed."""
    for name in list(os.environ):
        if name.upper().startswith("RELAY_"):
            del os.environ[name]
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    rows = _read(options.results)
    done = {row["seed"] for row in rows}
    wanted = range(options.first, options.first + options.seeds)
    for row in lanes.run([seed for seed in wanted if seed not in done], options):
        rows.append(row)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
        _tell(row, console, timeline=options.timeline or bool(row["wrong"]))
    console.print(_table(rows))
    failed = sorted(row["seed"] for row in rows if row["wrong"])
    console.print(
        f"{len(rows)} seeds of {options.seconds:g} s, {options.brokers} brokers;",
        f"failed: {failed}" if failed else "none failed",
    )
    return bool(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--seconds", type=float, default=60, help="of faults for each seed")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=3)
    parser.add_argument("--kafka", default=USUAL, help="the version, as 3.9.2")
    parser.add_argument("--reauthentication", action="store_true", help="asked for every 5 s")
    parser.add_argument("--at-once", type=int, default=1, help="seeds, on brokers of their own")
    parser.add_argument("--results", type=Path, help="a line for each seed that is done")
    parser.add_argument("--only", choices=[fault.__name__ for fault in FAULTS], help="this fault")
    parser.add_argument("--timeline", action="store_true", help="print what happened in each seed")
    return parser.parse_args()


def _read(results: Path | None) -> list[Row]:
    if results is None or not results.exists():
        return []
    return [json.loads(line) for line in results.read_text().splitlines()]


def _tell(row: Row, console: Console, *, timeline: bool) -> None:
    mark = f"[red]{row['wrong']}[/]" if row["wrong"] else "[green]kept[/]"
    console.print(f"seed {row['seed']}: {row.get('said', '')}; {mark}", highlight=False)
    if timeline:
        console.print(row["story"], markup=False, highlight=False)


def _table(rows: list[Row]) -> Table:
    """What all seeds together have shown."""
    ended = [row for row in rows if "said" in row]
    faults: Counter[str] = sum((Counter(row["faults"]) for row in ended), Counter())
    answers: Counter[str] = sum((Counter(row["answers"]) for row in ended), Counter())
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    rest = {
        "acknowledged": f"{sum(row['acknowledged'] for row in ended):,}",
        "lost": str(sum(row["lost"] for row in ended)),
        "twice": str(sum(row["twice"] for row in ended if not row["may_repeat"])),
        "twice, where claims were emptied": str(
            sum(row["twice"] for row in ended if row["may_repeat"])
        ),
        "answers": ", ".join(f"{status}: {n:,}" for status, n in sorted(answers.items())),
        "answered within (99 %)": f"{_worst([row['p99'] for row in ended]) * 1000:.0f} ms",
        "longest recovery": f"{_worst([row['recovery'] for row in ended]):.1f} s",
    } | {name.replace("_", " "): str(count) for name, count in sorted(faults.items())}
    for name, figure in rest.items():
        table.add_row(name, figure)
    return table


def _worst(values: list[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


if __name__ == "__main__":
    sys.exit(main())
