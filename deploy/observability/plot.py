"""Draws the dashboard without Grafana: the same panels and queries, out of a Prometheus, as a PNG.

    python deploy/observability/plot.py --prometheus http://127.0.0.1:9090 --minutes 60 picture.png

It knows only as much of Grafana as deploy/helm/files/dashboard.json uses. Wants Chromium.
"""

import argparse
import html
import json
import math
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "helm" / "files" / "dashboard.json"
#: Pixels of a grid unit, and between two panels.
COLUMN, ROW, GAP = 66, 38, 6
#: Pixels around a plot.
LEFT, RIGHT, TOP, BOTTOM = 46, 36, 28, 46
#: Times from here on, in seconds, are written in minutes.
LONG = 120
#: Numbers from here on are written without a fraction.
THOUSAND = 1000
#: Between two values that are written beside an axis lies one of these, times a power of ten.
STEPS, MOST_TICKS = (0.5, 1, 2, 5), 4
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#fade2a")
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px sans-serif; position: relative }
div.panel { position: absolute; background: #181b1f; border: 1px solid #25272c; overflow: hidden }
div.row { position: absolute; font-size: 14px; font-weight: bold; line-height: 32px }
h2 { margin: 6px 8px; font-size: 12px; font-weight: 600 }
p { margin: 0; text-align: center; font-size: 34px; font-weight: 600 }
svg { position: absolute; left: 0; top: 0 }
svg text { fill: #9fa1ab; font-size: 10px }
div.legend { position: absolute; left: 8px; bottom: 1px; height: 31px; font: 10px/10px sans-serif }
div.legend span { margin-right: 6px; white-space: nowrap }
table { border-collapse: collapse; width: 100%; font-size: 12px }
th, td { text-align: left; padding: 4px 8px; border-bottom: 1px solid #25272c; font-weight: normal }
th { color: #8ab8ff }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time that is shown; Unix seconds."""

    start: float
    end: float
    step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series of a panel."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]


class Source:
    """A Prometheus, and what stands for the dashboard's variables."""

    def __init__(self, url: str, span: Span, rate: str) -> None:
        self._url = url
        self.span = span
        self._variables = {
            "$__rate_interval": rate,
            "$__range": f"{span.end - span.start:.0f}s",
            "$replica": ".*",
            "$job": ".*",
            "$by": "instance",
        }

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """Ask one query of a panel."""
        query = {"query": self._resolve(target["expr"])}
        if target.get("instant"):
            path, query["time"] = "query", str(self.span.end)
        else:
            path, query["step"] = "query_range", str(self.span.step)
            query |= {"start": str(self.span.start), "end": str(self.span.end)}
        found = self._get(path, query)["data"]["result"]
        legend = self._resolve(target.get("legendFormat", target["refId"]))
        return [_line(legend, series) for series in found]

    def _resolve(self, text: str) -> str:
        for name, value in self._variables.items():
            text = text.replace(name, value)
        return text

    def _get(self, path: str, query: dict[str, str]) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)


def _line(legend: str, series: dict[str, Any]) -> Line:
    labels = series["metric"]
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    values = series.get("values") or [series["value"]]
    return Line(name=legend, labels=labels, points=[(at, float(value)) for at, value in values])


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """Write a value with its unit, about as Grafana does."""
    if math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "s" and value >= LONG:
        return f"{value / 60:.3g} min"
    if decimals is None:
        decimals = 0 if value >= THOUSAND or value == round(value) else 2
    number = f"{value:,.{decimals}f}"
    return number + {"s": " s", "eps": "/s", "reqps": "/s"}.get(unit, "")


def stat(panel: dict[str, Any], source: Source) -> str:
    """Draw the last value, large, in its threshold's or mapping's colour."""
    defaults = panel["fieldConfig"]["defaults"]
    lines = [line for target in panel["targets"] for line in source.lines(target)]
    value = lines[0].points[-1][1] if lines else math.nan
    colour = NAMED["green"]
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = NAMED[step["color"]]
    text = written(value, defaults.get("unit", ""), defaults.get("decimals"))
    for mapping in defaults.get("mappings", []):
        if said := mapping["options"].get(f"{value:g}"):
            text, colour = said["text"], NAMED[said["color"]]
    return f'<p style="color: {colour}; margin-top: 44px">{html.escape(text)}</p>'


def table(panel: dict[str, Any], source: Source) -> str:
    """Draw one row for each replica; the columns are the queries, as the panel names them."""
    names = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    rows: dict[str, dict[str, str]] = {}
    columns = ["instance"]
    for target in panel["targets"]:
        title = f"Value #{target['refId']}"
        column = names["renameByName"].get(title, "journal")
        columns.append(column)
        for line in source.lines(target):
            row = rows.setdefault(line.labels["instance"], {})
            value = written(line.points[-1][1], "s" if column == "oldest" else "")
            row[column] = line.labels.get("journal", value)
            if column in {"Kafka", "claims"}:
                row[column] = "up" if value == "1" else "down"
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(
        f"<tr><td>{instance}</td>"
        + "".join(f"<td>{row.get(column, '')}</td>" for column in columns[1:])
        + "</tr>"
        for instance, row in sorted(rows.items())
    )
    return f"<table><tr>{head}</tr>{body}</table>"


class Axis:
    """Where a value lies between bottom and top, and which values are written beside it."""

    def __init__(self, values: Iterable[float], height: float, *, logarithmic: bool) -> None:
        known = [value for value in values if not math.isnan(value)]
        self._logarithmic = logarithmic and any(value > 0 for value in known)
        if self._logarithmic:
            positive = [value for value in known if value > 0]
            low, high = (math.log10(edge(positive)) for edge in (min, max))
            lowest, highest = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
            self.ticks = [10.0**power for power in range(lowest, highest + 1)]
            self._low, self._high = float(lowest), float(highest)
        else:
            step = _step(max(known, default=0) or 1)
            self._low, self._high = 0.0, step * math.ceil((max(known, default=0) or 1) / step)
            self.ticks = [step * n for n in range(round(self._high / step) + 1)]
        self._height = height

    def place(self, value: float) -> float:
        """Give the pixels from the top."""
        if self._logarithmic:
            value = math.log10(value) if value > 0 else self._low
        share = (value - self._low) / (self._high - self._low)
        return TOP + (1 - share) * (self._height - TOP - BOTTOM)


def _step(most: float) -> float:
    """Give a round distance between ticks, for two to four of them."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * n for n in STEPS if most / (power * n) <= MOST_TICKS)


def timeseries(panel: dict[str, Any], source: Source) -> str:
    """Draw lines over time, with a legend below."""
    width, height = _size(panel)
    field = panel["fieldConfig"]
    unit = field["defaults"].get("unit", "")
    lines = [line for target in panel["targets"] for line in source.lines(target)]
    aside = {o["matcher"]["options"] for o in field.get("overrides", [])}
    kind = field["defaults"].get("custom", {}).get("scaleDistribution", {}).get("type")
    drawn = []
    for names_aside in (False, True):
        shown = [line for line in lines if (line.name in aside) is names_aside]
        if not shown:
            continue
        values = (value for line in shown for _, value in line.points)
        axis = Axis(values, height, logarithmic=kind == "log")
        drawn += _ticks(axis, width, "" if names_aside else unit, right=names_aside)
        for line in shown:
            colour = COLOURS[lines.index(line) % len(COLOURS)]
            drawn += [_path(part, axis, source.span, width, colour) for part in _parts(line)]
    drawn += _clock(source.span, width, height)
    legend = _legend([line.name for line in lines])
    return f'<svg width="{width}" height="{height}">{"".join(drawn)}</svg>{legend}'


def _parts(line: Line) -> list[list[tuple[float, float]]]:
    """Split a series where it has no value."""
    parts: list[list[tuple[float, float]]] = [[]]
    for at, value in line.points:
        if math.isnan(value):
            parts.append([])
        else:
            parts[-1].append((at, value))
    return [part for part in parts if part]


def _path(
    part: list[tuple[float, float]], axis: Axis, span: Span, width: float, colour: str
) -> str:
    points = " ".join(f"{_x(at, span, width):.1f},{axis.place(v):.1f}" for at, v in part)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _x(at: float, span: Span, width: float) -> float:
    return LEFT + (at - span.start) / (span.end - span.start) * (width - LEFT - RIGHT)


def _ticks(axis: Axis, width: float, unit: str, *, right: bool) -> list[str]:
    drawn = []
    for tick in axis.ticks:
        y, x = axis.place(tick), width - RIGHT + 4 if right else LEFT - 4
        anchor = "start" if right else "end"
        text = written(tick, unit)
        drawn.append(f'<text x="{x}" y="{y + 3:.1f}" text-anchor="{anchor}">{text}</text>')
        if not right:
            ends = f'x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            drawn.append(f'<line {ends} stroke="#2c2f36"/>')
    return drawn


def _clock(span: Span, width: float, height: float) -> list[str]:
    """Write minutes from the start."""
    minutes = max(1, round((span.end - span.start) / 60 / 4))
    count = int((span.end - span.start) // (minutes * 60))
    return [
        f'<text x="{_x(span.start + n * minutes * 60, span, width):.1f}" y="{height - BOTTOM + 12}"'
        f' text-anchor="middle">{n * minutes} min</text>'
        for n in range(count + 1)
    ]


def _legend(names: Sequence[str]) -> str:
    spans = [
        f'<span style="color: {COLOURS[n % len(COLOURS)]}">{html.escape(name.strip())}</span>'
        for n, name in enumerate(names)
    ]
    return f'<div class="legend">{" ".join(spans)}</div>'


def _size(panel: dict[str, Any]) -> tuple[int, int]:
    place = panel["gridPos"]
    return place["w"] * COLUMN - GAP, place["h"] * ROW - GAP


DRAWN = {"stat": stat, "table": table, "timeseries": timeseries}


def page(dashboard: dict[str, Any], source: Source) -> str:
    """Draw all panels at their places."""
    boxes = []
    for panel in dashboard["panels"]:
        width, height = _size(panel)
        left, top = panel["gridPos"]["x"] * COLUMN + GAP, panel["gridPos"]["y"] * ROW
        place = f'style="left: {left}px; top: {top}px; width: {width}px; height: {height}px"'
        title = html.escape(panel["title"])
        if panel["type"] == "row":
            boxes.append(f'<div class="row" {place}>{title}</div>')
        else:
            drawn = DRAWN[panel["type"]](panel, source)
            boxes.append(f'<div class="panel" {place}><h2>{title}</h2>{drawn}</div>')
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{''.join(boxes)}"


def main() -> None:
    """Ask, draw, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", default="1m", help="what stands for $__rate_interval")
    parser.add_argument("picture", type=Path)
    chosen = parser.parse_args()
    now, seconds = time.time(), chosen.minutes * 60
    span = Span(start=now - seconds, end=now, step=max(1, seconds / 400))
    dashboard = json.loads(DASHBOARD.read_text())
    drawn = page(dashboard, Source(chosen.prometheus, span, chosen.rate))
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "dashboard.html"
        file.write_text(drawn)
        size = f"--window-size={24 * COLUMN + GAP},{rows * ROW}"
        profile = f"--user-data-dir={scratch}/profile"
        picture = f"--screenshot={chosen.picture.absolute()}"
        command = [*CHROMIUM, size, profile, picture, file.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
