"""Draws a dashboard from what a real Prometheus answers: its layout, titles, units and data.

It is no Grafana, and shows what one would be given."""

import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.deploy.dashboards import DASHBOARDS, Query
from tests.stack.prometheuses import Prometheus

COLUMNS, INCHES_WIDE, INCHES_PER_ROW = 24, 18.0, 0.36
WINDOW = "15s"


def draw(dashboard: str, prometheus: Prometheus, seconds: float, path: Path) -> None:
    """Write a PNG of the last so many seconds."""
    panels = DASHBOARDS[dashboard]["panels"]
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    figure = pyplot.figure(figsize=(INCHES_WIDE, rows * INCHES_PER_ROW), facecolor="#f4f5f5")
    for panel in panels:
        if panel["type"] == "row":
            y = 1 - (panel["gridPos"]["y"] + 0.7) / rows
            figure.text(0.012, y, panel["title"], weight="bold", size=11)
            continue
        axes = _place(figure, panel["gridPos"], rows)
        axes.set_title(panel["title"], loc="left", size=9, weight="bold")
        series = [
            (target["legendFormat"], found)
            for target in panel["targets"]
            for found in prometheus.history(
                Query(dashboard, panel["title"], target["expr"]).plain(WINDOW), seconds
            )
        ]
        (_tile if panel["type"] == "stat" else _lines)(axes, panel, series)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _place(figure: Figure, at: dict[str, int], rows: int) -> Axes:
    left, bottom = at["x"] / COLUMNS, 1 - (at["y"] + at["h"]) / rows
    wide, high = at["w"] / COLUMNS, at["h"] / rows
    inside = (left + 0.03, bottom + 1.0 / rows, wide - 0.042, high - 2.3 / rows)
    return figure.add_axes(inside)


def _tile(axes: Axes, panel: dict[str, Any], series: list[tuple[str, dict[str, Any]]]) -> None:
    axes.axis("off")
    last = float(series[0][1]["values"][-1][1]) if series else float("nan")
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    passed = [step["color"] for step in steps if step["value"] is None or last >= step["value"]]
    text = _said(last, panel["fieldConfig"]["defaults"]["unit"])
    axes.text(0.5, 0.4, text, ha="center", va="center", size=20, color=passed[-1])


def _lines(axes: Axes, panel: dict[str, Any], series: list[tuple[str, dict[str, Any]]]) -> None:
    axes.set_facecolor("white")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for legend, found in series:
        times, values = zip(*((t, float(v)) for t, v in found["values"]), strict=True)
        name = _named(legend, found["metric"])
        axes.plot([t - times[-1] for t in times], values, linewidth=1.2, label=name)
    if panel["fieldConfig"]["defaults"].get("min") == 0:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _said(value, unit))
    axes.tick_params(labelsize=7)
    axes.grid(color="#e0e0e0", linewidth=0.5)
    if series:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.7)


def _named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend)


def _said(value: float, unit: str) -> str:
    """A value as a person reads it."""
    if value != value:
        return "no data"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "percentunit":
        return f"{value:.3g}" if value > 1 else f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    suffix = {"reqps": " req/s", "cps": " /s", "ops": " /s"}.get(unit, "")
    return f"{value:,.4g}{suffix}"
