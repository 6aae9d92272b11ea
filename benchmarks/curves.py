"""The plot of the prequential benchmark: NDCG@10 by day, one labelled line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.protocol import Average

Curve = Mapping[str, Average]
"""An average per day, keyed by ISO date."""
FEWEST = 100
"""Scored events that a day must hold to be drawn: fewer leave an interval wider than the plot."""

STYLES: dict[str, dict[str, Any]] = {
    "online": {"color": "#0b5fa5", "linewidth": 2.4, "zorder": 3},
    "online_10min": {"color": "#3f8fd2", "linewidth": 1.4},
    "online_1h": {"color": "#6aaade", "linewidth": 1.4},
    "online_5h": {"color": "#94c1e8", "linewidth": 1.4},
    "frozen": {"color": "#0b5fa5", "linewidth": 1.2, "linestyle": (0, (4, 2))},
    "blend": {"color": "#c0561a", "linewidth": 1.6},
    "cooccurrence": {"color": "#e0985f", "linewidth": 1.4},
    "popularity": {"color": "#8a8a8a", "linewidth": 1.4},
}
_LABEL_HEIGHT = 0.034
"""Share of the axis that one label needs."""


def draw(path: Path, curves: Mapping[str, Curve], title: str) -> None:
    """Draw the curves with their 95 % bands and write them to `path` (.png, .svg or .pdf).

    Needs matplotlib. Raises ValueError when no day holds `FEWEST` scored events.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is missing: pip install 'freshet[plots]'") from error
    drawn = {method: points for method, curve in curves.items() if (points := _points(curve))}
    if not drawn:
        raise ValueError(f"no day holds {FEWEST} scored events: take a larger --sample or --limit")
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes: Any = figure.add_subplot()
    for method, points in drawn.items():
        days, averages = [day for day, _ in points], [average for _, average in points]
        style = STYLES.get(method, {})
        line, *_ = axes.plot(days, [average.value for average in averages], **style)
        low, high = [a.low for a in averages], [a.high for a in averages]
        axes.fill_between(days, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
    _dress(axes, title)
    _label(axes, {method: points[-1][1].value for method, points in drawn.items()})
    figure.savefig(path, dpi=160)


def _points(curve: Curve) -> Sequence[tuple[date, Average]]:
    return [
        (date.fromisoformat(day), average)
        for day, average in curve.items()
        if average.events >= FEWEST
    ]


def _dress(axes: Any, title: str) -> None:
    from matplotlib import dates

    locator = dates.AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel("NDCG@10, mean of the day (band: 95 %)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)


def _label(axes: Any, last: Mapping[str, float]) -> None:
    """Write each method's name beside the end of its line, names moved apart where lines meet."""
    bottom, top = axes.get_ylim()
    methods = sorted(last, key=lambda method: last[method])
    heights = spaced([(last[method] - bottom) / (top - bottom) for method in methods])
    for line, method in zip(axes.get_lines(), last, strict=True):
        height = heights[methods.index(method)]
        place = {"xy": (1.01, height), "xycoords": "axes fraction", "va": "center"}
        axes.annotate(method.replace("_", " "), color=line.get_color(), fontsize=9, **place)


def spaced(rising: Sequence[float], gap: float = _LABEL_HEIGHT) -> list[float]:
    """The nearest heights in the same order of which no two are closer than `gap`.

    Least squares: runs of labels that would touch are centred on their mean (pool adjacent
    violators on the heights less their share of the gap).
    """
    pools: list[tuple[float, int]] = []
    for place, height in enumerate(rising):
        pool = (height - place * gap, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, size = pools.pop()
            whole = size + pool[1]
            pool = ((mean * size + pool[0] * pool[1]) / whole, whole)
        pools.append(pool)
    flat = [mean for mean, size in pools for _ in range(size)]
    return [height + place * gap for place, height in enumerate(flat)]
