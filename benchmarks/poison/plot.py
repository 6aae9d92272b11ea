"""What the gate measured around a poison, as a picture."""

from pathlib import Path

import numpy as np

from benchmarks.poison.rehearsal import Course
from benchmarks.poison.stories import HOUR_MS


def draw(path: Path, course: Course) -> None:
    """What the gate measured of every version around the poison, which is shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first, last = course.story.poison_ms
    near = [v for v in course.versions if first - 3 * HOUR_MS < v.at_ms < last + 4 * HOUR_MS]
    hours = [(v.at_ms - first) / HOUR_MS for v in near]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    lines = ((above, ("crowd", "taste")), (below, ("surprise", "edge")))
    for axes, names in lines:
        for name in names:
            axes.plot(hours, [v.metrics.get(f"gate.{name}", np.nan) for v in near], label=name)
        axes.axvspan(0, (last - first) / HOUR_MS, color="tab:red", alpha=0.15, label="poison")
        held = [v.held is not None for v in near]
        axes.fill_between(hours, 0, 0.04, where=held, transform=axes.get_xaxis_transform(),
                          color="black", label="held")  # fmt: skip
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.legend(loc="upper left", fontsize=8)
        axes.set_ylabel("nats")
    above.set_title("Loss on old trials: this version less the one published a quarantine ago")
    below.set_title("New events before they are learned: less what is usual")
    below.set_xlabel("hours since the flip began")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
