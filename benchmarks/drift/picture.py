"""The variants' hit rates side by side, with intervals, every seed, and what can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drift.intervals import interval

STYLES = {
    "hstu": ("HSTU", "#0b5fa5"),
    "no-rab": ("HSTU, no rab", "#3f8fd2"),
    "softmax": ("HSTU, no rab, softmax", "#c0561a"),
    "transformer": ("Transformer", "#8a8a8a"),
}
HEADINGS = {"hr_at_10": "HR@10", "hr_at_50": "HR@50"}


def draw(
    path: Path,
    found: Mapping[str, Mapping[str, Sequence[float]]],
    reachable: Mapping[str, float],
    title: str,
) -> None:
    """Draw each variant's seeds, mean and interval. Axes do not start at zero, so no bars.

    found: of each variant and figure the values of all seeds. Needs matplotlib.
    """
    try:
        from matplotlib.figure import Figure as Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is missing: pip install 'freshet[plots]'") from error
    made = Picture(figsize=(10, 3.2), layout="constrained")
    sides: Any = made.subplots(1, len(HEADINGS), sharey=True)
    for axes, (name, heading) in zip(sides, HEADINGS.items(), strict=True):
        for place, variant in enumerate(found):
            _line(axes, place, found[variant][name], STYLES[variant][1])
        axes.axvline(reachable[name], color="#444444", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel(f"{heading} (dashed: the most that can be reached)")
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_yticks(range(len(found)), [STYLES[variant][0] for variant in found])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    made.suptitle(f"{title}: mean, 95 % t-interval, seeds", fontsize=11)
    made.savefig(path, dpi=160)


def _line(axes: Any, place: int, runs: Sequence[float], color: str) -> None:
    known = interval(runs)
    axes.plot([known.low, known.high], [place, place], color=color, linewidth=2.2)
    axes.plot(known.mean, place, "o", color=color, markersize=7)
    axes.plot(runs, [place + 0.22] * len(runs), "|", color=color, markersize=7)
    axes.annotate(f"{known.mean:.4f}", (known.mean, place - 0.18), ha="center", va="bottom",
                  fontsize=8, color=color)  # fmt: skip
