"""Score each event, then learn it: the online model beside the baselines, over a file of actions.

The protocol, word for word, and the figures reached: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import curves, reference, report
from benchmarks.baselines import (
    HOUR_MS,
    Blend,
    BlendSettings,
    Cooccurrence,
    CooccurrenceSettings,
    Popularity,
    PopularitySettings,
    answer,
)
from benchmarks.protocol import (
    Average,
    Evaluation,
    Events,
    Part,
    averages_by_day,
    averages_of,
    read_events,
)
from benchmarks.tuning import tune
from service.commands.action_rows import Columns

BASELINES: dict[str, tuple[Any, Any]] = {
    "popularity": (Popularity, PopularitySettings()),
    "cooccurrence": (Cooccurrence, CooccurrenceSettings()),
    "blend": (Blend, BlendSettings()),
}
MODELS = ("online", "online_10min", "online_1h", "online_5h", "frozen")
METHODS = (*MODELS, *BASELINES)
PARTS = {
    "": ("last 80 %", Part()),
    "unseen.": ("last 80 %, without items the user had", Part(unseen=True)),
    "second_half.": ("last 50 %", Part(skip=0.5)),
}
"""What stands before a metric's name, what it means, and the part itself."""
QUICK_LIMIT, QUICK_SAMPLE = 100_000, 2_000


@dataclass
class Run:
    """What was measured, and under which settings."""

    evaluation: Evaluation
    settings: dict[str, Any]
    """The protocol's settings, the same for every method."""
    of_method: dict[str, dict[str, Any]] = field(default_factory=dict)
    actions_per_second: float | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = report.parser(__doc__)
    add = options.add_argument
    columns = Columns()
    add("--data", type=Path, required=True, help="CSV (also .gz) or Parquet file of actions")
    add("--limit", type=int, metavar="N", help="only the first N events in time")
    add("--sample", type=int, metavar="S", help="events to score (50,000)")
    add("--seed", type=int, default=0, help="of the sample")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="M", help=f"{METHODS}")
    add("--active-hours", type=hours, default=24.0, metavar="H",
        help="an item counts for so long after an event; 'all': ever after")  # fmt: skip
    add("--tune", action="store_true", help="tune the baselines on the first 20 %% of this stream")
    add("--settings", type=Path, metavar="TOML", help="settings of the model's run")
    add("--by-day", action="store_true", help="one more figure per method, metric and day")
    add("--plot", type=Path, metavar="FILE", help="draw NDCG@10 by day (.png, .svg, .pdf)")
    add("--user-column", default=columns.user)
    add("--item-column", default=columns.item)
    add("--time-column", default=columns.time, help="seconds since the epoch")
    return options


def hours(text: str) -> float | None:
    """A number of hours, or None for "all"."""
    return None if text == "all" else float(text)


def check(options: argparse.Namespace) -> None:
    """Hold ranks and baselines against the reference, on a small stream full of ties."""
    reference.check()


def measure(options: argparse.Namespace) -> Iterator[report.Figure]:
    """Read, run every method over the stream, draw, and give the averages."""
    run = _run(options)
    for method in options.methods:
        for prefix, (words, part) in PARTS.items():
            averages = averages_of(run.evaluation, method, part)
            yield from _figures(run, method, prefix, averages, part=words)
        if options.by_day:
            for day, averages in averages_by_day(run.evaluation, method).items():
                yield from _figures(run, method, "by_day.", averages, day=day)
    if run.actions_per_second is not None:
        speed, settings = run.actions_per_second, {**run.settings, **run.of_method["online"]}
        yield report.Figure.of("prequential.actions_per_second", "1/s", [speed], **settings)
    if options.plot:
        days = {method: averages_by_day(run.evaluation, method) for method in options.methods}
        ndcg = {m: {day: a["ndcg_at_10"] for day, a in days[m].items()} for m in days}
        curves.draw(options.plot, ndcg, _title(options, run.evaluation))


def _run(options: argparse.Namespace) -> Run:
    events = _events(options)
    active_ms = None if options.active_hours is None else round(options.active_hours * HOUR_MS)
    sample = options.sample or (QUICK_SAMPLE if options.quick else 50_000)
    evaluation = Evaluation(events, active_ms, sample, options.seed)
    run = Run(evaluation, _protocol(options, evaluation))
    _run_baselines(options, run, active_ms)
    models = [method for method in options.methods if method in MODELS]
    if models:
        _run_model(options, run, models)
    return run


def _events(options: argparse.Namespace) -> Events:
    columns = Columns(options.user_column, options.item_column, options.time_column)
    events = read_events(options.data, columns)
    limit = options.limit or (QUICK_LIMIT if options.quick else len(events))
    return events.first(limit)


def _protocol(options: argparse.Namespace, evaluation: Evaluation) -> dict[str, Any]:
    events = evaluation.events
    return {
        "data": options.data.name,
        "events": len(events),
        "users": events.users,
        "items": events.items,
        "counted_events": evaluation.counted,
        "sample": len(evaluation.sample_S),
        "seed": options.seed,
        "active_hours": "all" if options.active_hours is None else options.active_hours,
    }


def _run_baselines(options: argparse.Namespace, run: Run, active_ms: int | None) -> None:
    events, baselines = run.evaluation.events, {}
    for method, (baseline, settings) in BASELINES.items():
        if method in options.methods:
            if options.tune:
                settings = tune(events, active_ms, baseline, settings)
                report.progress(f"tuned: {settings}")
            baselines[method] = baseline(events, settings)
            run.of_method[method] = asdict(settings)
    answer(run.evaluation, baselines)


def _run_model(options: argparse.Namespace, run: Run, models: list[str]) -> None:
    from benchmarks import online

    settings = tomllib.loads(options.settings.read_text()) if options.settings else {}
    outcome = online.run_model(run.evaluation.events, run.evaluation, models, settings)
    run.actions_per_second = outcome.actions_per_second
    run.of_method |= {method: {"model": outcome.settings} for method in MODELS}


def _figures(
    run: Run, method: str, prefix: str, averages: Mapping[str, Average], **where: str
) -> Iterator[report.Figure]:
    settings = {**where, **run.settings, **run.of_method[method]}
    for metric, average in averages.items():
        yield report.Figure(
            figure=f"prequential.{method}.{prefix}{metric}",
            value=average.value,
            unit="1",
            low=average.low,
            high=average.high,
            runs=1,
            settings={**settings, "scored_events": average.events, "interval": "95 %"},
        )


def _title(options: argparse.Namespace, evaluation: Evaluation) -> str:
    scored, events = len(evaluation.sample_S), len(evaluation.events)
    return f"{options.data.name}: each event scored, then learned ({scored:,} of {events:,} scored)"


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), check, measure))
