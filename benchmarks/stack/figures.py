"""The figures of a run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.report import Figure
from benchmarks.stack.run import Run
from benchmarks.stack.sent import PROBE, REQUEST, Column, column
from benchmarks.stack.watch import cores, growth_bytes

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
WARM_SHARE = 0.3
"""Of a run, after which memory should be flat: minute 3 of 10."""


def figures(done: Run, settings: dict[str, Any]) -> Iterator[Figure]:
    """Everything that is reported, the whole latency table among it."""
    plan, sent = done.plan, done.sent

    def one(name: str, unit: str, value: float, **more: Any) -> Figure:
        return Figure.of(f"stack.{name}", unit, [float(value)], **more, **settings)

    yield one("actions_per_second", "1/s", done.kept.actions / plan.seconds)
    yield one("rankings_per_second", "1/s", len(sent.rankings) / plan.seconds)
    routes = {"/v1/actions": sent.posts, "/v1/rank": sent.rankings}
    for route, rows in routes.items():
        for name, share in QUANTILES.items():
            seconds = _quantile(column(rows, REQUEST, "seconds"), share)
            yield one("request_seconds", "s", seconds, route=route, quantile=name)
        for status, count in sorted(Counter(column(rows, REQUEST, "status")).items()):
            yield one("requests", "", count, route=route, status=int(status))
    probed = {
        "action_to_ranking_seconds": column(sent.probes, PROBE, "ranking_seconds"),
        "action_to_weights_seconds": done.weights_seconds(),
    }
    for figure, values in probed.items():
        for name, share in QUANTILES.items():
            yield one(figure, "s", _quantile(values, share), quantile=name, probes=len(values))
    for name, looks in done.watch.looks.items():
        yield one("cores", "", cores(looks), process=name)
    yield one("idle_cores", "", done.watch.idle_cores)
    for name, looks in done.watch.looks.items():
        yield one("resident_bytes", "B", looks[-1].resident_bytes, process=name)
        grown = growth_bytes(looks, WARM_SHARE * plan.seconds)
        yield one("resident_growth_bytes", "B", grown, process=name, after=WARM_SHARE)
    yield from _ends(done, one)


def _ends(done: Run, one: Any) -> Iterator[Figure]:
    """What remained when the load ended, and what was lost."""
    late = [column(rows, REQUEST, "late") for rows in (done.sent.posts, done.sent.rankings)]
    yield one("sender_late_seconds", "s", _quantile(np.concatenate(late), 0.99), quantile="p99")
    yield one("versions", "", done.trained)
    yield one("lag_records", "", done.lag)
    yield one("drain_seconds", "s", done.drain_seconds)
    yield one("lost_actions", "", done.kept.missing)
    yield one("lost_impressions", "", done.sent.ranked - done.kept.impressions)
    yield one("sent_again", "", done.sent.again)


def _quantile(values: Column | Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")
