"""A run as a picture: latency, freshness, CPU and memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stack.run import Run
from benchmarks.stack.sent import PROBE, REQUEST, Column, column

BIN_SECONDS = 5.0
GREY = "#444444"
COLORS = ("#0b5fa5", "#c0561a", "#3a8f4d", "#8a4fa3", "#8a8a8a", "#b8a13a", "#c23b6b", "#4fa3a3")


def draw(path: Path, done: Run, title: str) -> None:
    """Draw the run. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure as Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is missing: pip install 'freshet[plots]'") from error
    made = Picture(figsize=(11, 8), layout="constrained")
    (requests, fresh), (cpu, memory) = made.subplots(2, 2)
    start = column(done.sent.posts, REQUEST, "due").min()
    _requests(requests, done, start)
    _fresh(fresh, done, start)
    _processes(cpu, memory, done, start)
    for axes in (requests, fresh, cpu, memory):
        axes.set_xlabel("seconds")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, frameon=False)
    made.suptitle(title, fontsize=11)
    made.savefig(path, dpi=130)


def _requests(axes: Any, done: Run, start: float) -> None:
    routes = {"POST /v1/actions": done.sent.posts, "POST /v1/rank": done.sent.rankings}
    for color, (route, rows) in zip(COLORS, routes.items(), strict=False):
        due, seconds = column(rows, REQUEST, "due") - start, column(rows, REQUEST, "seconds")
        for share, style in ((0.5, "-"), (0.99, ":")):
            times, values = _binned(due, seconds, share)
            label = f"{route}, p{share * 100:.0f}"
            axes.plot(times, values * 1000, style, color=color, label=label)
    axes.set_yscale("log")
    axes.set_title(f"answers, ms ({BIN_SECONDS:.0f} s each)", fontsize=10)


def _fresh(axes: Any, done: Run, start: float) -> None:
    due = column(done.sent.probes, PROBE, "due") - start
    axes.plot(due, column(done.sent.probes, PROBE, "ranking_seconds"), ".", color=COLORS[0],
              label="action to changed ranking, s")  # fmt: skip
    waits = done.weights_seconds()
    axes.plot(due[: len(waits)], waits, ".", color=COLORS[1], label="action to changed weights, s")
    lags = np.array(done.lags).reshape(-1, 2)
    axes.plot(lags[:, 0] - start, lags[:, 1] / 1000, color=GREY, label="not learned, thousands")
    axes.set_yscale("log")
    axes.set_title("freshness", fontsize=10)


def _processes(cpu: Any, memory: Any, done: Run, start: float) -> None:
    for color, (name, looks) in zip(COLORS, done.watch.looks.items(), strict=False):
        at = np.array([one.at for one in looks]) - start
        used = np.diff([one.cpu_seconds for one in looks]) / np.diff(at)
        kernel = np.ones(int(BIN_SECONDS)) / int(BIN_SECONDS)
        smooth = np.convolve(used, kernel, "valid") if len(used) >= len(kernel) else used
        cpu.plot(at[-len(smooth) :], smooth, color=color, label=name)
        bytes_ = np.array([one.resident_bytes for one in looks])
        memory.plot(at, bytes_ / 2**20, color=color, label=name)
    cpu.set_title("cores in use", fontsize=10)
    memory.set_title("resident memory, MiB", fontsize=10)
    memory.set_ylim(bottom=0)


def _binned(due: Column, seconds: Column, share: float) -> tuple[Column, Column]:
    """The quantile of every stretch of time that has requests."""
    number = (due // BIN_SECONDS).astype(int)
    bins = np.unique(number)
    values = [float(np.quantile(seconds[number == one], share)) for one in bins]
    return bins * BIN_SECONDS, np.array(values)
