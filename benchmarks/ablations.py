"""What each choice in the model is worth: one setting changed at a time, the rest as by default.

    python -m benchmarks.ablations --data clicks.csv.gz --out ablations.jsonl --table ablations.md
    python -m benchmarks.ablations --data clicks.csv.gz --only no-rab softmax --seeds 5

The protocol, the path and the questions are those of `benchmarks.prequential` (docs/evaluation.md);
a seed decides the initial weights, the negatives and which events are scored. `online` is the
trainer's model of the moment, answering from the very rows that it learns from; `served` is a
server that takes a new version every 10 minutes and always reads whole histories, which is what
stochastic length must be judged by. A variant's difference is to the default with the same seed, so
over the same questions; its standard error is that of the mean over seeds, with few of which it is
itself a rough figure.

With --out, finished runs are kept, and an interrupted command goes on where it was. Two at once,
one thread each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import prequential, report, trials
from benchmarks.protocol import Evaluation, Part, averages_of, read_events
from benchmarks.report import Figure
from service.commands.action_rows import Columns

Sections = dict[str, dict[str, Any]]
DEFAULT = "default"


def _model(**settings: Any) -> Sections:
    return {"model": settings}


def _trainer(**settings: Any) -> Sections:
    return {"trainer": settings}


VARIANTS: dict[str, Sections] = {
    DEFAULT: {},
    "history-row": _model(next_item_from="history"),
    "softmax": _model(weights="softmax"),
    "no-rab": _model(relative_bias=False),
    "no-logq": _trainer(log_q=False),
    "dim-32": _model(dim=32, qk_width=16, v_width=16),
    "dim-128": _model(dim=128, qk_width=64, v_width=64),
    "layers-1": _model(layers=1),
    "layers-4": _model(layers=4),
    "window-32": _model(window=32),
    "window-64": _model(window=64),
    "window-128": {**_model(window=128), "histories": {"capacity": 256}},
    "stochastic-1.4": _trainer(stochastic_length=1.4),
    "stochastic-1.6": _trainer(stochastic_length=1.6),
    "bfloat16": _trainer(precision="bfloat16"),
}
"""What is laid over the settings of `benchmarks.online`."""
QUICK = ("history-row", "no-rab")
METHODS = {"online": "", "served": "served_"}
"""What stands before the name of a method's metric."""
MEANINGS = {"online": "online", "served": "online_10min"}
METRICS = ("hr_at_10", "mrr_at_10", "ndcg_at_10")
SPEED = "actions_per_cpu_second"
NAMES = [f"{prefix}{metric}" for prefix in METHODS.values() for metric in METRICS]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--data", type=Path, required=True, help="CSV (also .gz) or Parquet file of actions")
    add("--events", type=int, default=400_000, help="only the first so many in time (400,000)")
    add("--seeds", type=int, default=3, help="runs of each variant (3)")
    add("--sample", type=int, default=10_000, help="events to score (10,000)")
    add("--only", nargs="+", choices=VARIANTS, metavar="NAME",
        help=f"beside the default, of {', '.join(VARIANTS)}")  # fmt: skip
    add("--active-hours", type=prequential.hours, default=24.0, metavar="H",
        help="an item counts for so long after an event; 'all': ever after")  # fmt: skip
    add("--jobs", type=int, default=2, help="runs side by side, one thread each (2)")
    add("--out", type=Path, metavar="FILE", help="keep finished runs in this file")
    add("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    return options


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Run what is not in the file yet; the figures of every variant and the table."""
    names = options.only or (QUICK if options.quick else VARIANTS)
    variants = [DEFAULT, *(name for name in names if name != DEFAULT)]
    planned = [
        _trial(options, variant, seed) for variant in variants for seed in range(_seeds(options))
    ]
    results = trials.outcomes(planned, tried, options.jobs, options.out)
    by_variant: dict[str, list[trials.Result]] = {variant: [] for variant in variants}
    for trial, result in zip(planned, results, strict=True):
        by_variant[trial["variant"]].append(result)
    if options.table:
        options.table.write_text(table(by_variant))
    shared = {"data": options.data.name, "events": results[0]["events"]}
    shared |= {name: planned[0][name] for name in ("sample", "active_hours")}
    for variant, runs in by_variant.items():
        for name in (*NAMES, SPEED):
            values, differences = _values(runs, name), _differences(by_variant, variant, name)
            yield Figure(
                figure=f"ablations.{variant}.{name}", value=mean(values),
                unit="1/s" if name == SPEED else "1", low=min(values), high=max(values),
                runs=len(values),
                settings={
                    **shared, "changed": VARIANTS[variant],
                    "sd": _deviation(values), "minus_default": mean(differences),
                    "standard_error": _error(differences),
                },
            )  # fmt: skip


def _seeds(options: argparse.Namespace) -> int:
    return 1 if options.quick else int(options.seeds)


def _trial(options: argparse.Namespace, variant: str, seed: int) -> trials.Trial:
    return {
        "variant": variant, "seed": seed, "changed": VARIANTS[variant], "data": str(options.data),
        "events": min(options.events, 20_000) if options.quick else options.events,
        "sample": min(options.sample, 2_000) if options.quick else options.sample,
        "active_hours": options.active_hours,
    }  # fmt: skip


def tried(trial: trials.Trial) -> trials.Result:
    """One variant with one seed, over the whole stream."""
    from benchmarks.online import run_model  # torch: the trial's process needs it, no other

    events = read_events(Path(trial["data"]), Columns()).first(trial["events"])
    hours = trial["active_hours"]
    active_ms = None if hours is None else round(hours * prequential.HOUR_MS)
    evaluation = Evaluation(events, active_ms, trial["sample"], trial["seed"])
    changed = trial["changed"]
    trainer = {**changed.get("trainer", {}), "seed": trial["seed"], "threads": 1}
    settings = {**changed, "trainer": trainer}
    outcome = run_model(events, evaluation, list(MEANINGS.values()), settings)
    result = {"events": len(events), SPEED: 1 / outcome.cpu_seconds_per_action}
    for method, prefix in METHODS.items():
        averages = averages_of(evaluation, MEANINGS[method], Part())
        result |= {f"{prefix}{metric}": averages[metric].value for metric in METRICS}
    return result


def table(by_variant: dict[str, list[trials.Result]]) -> str:
    """Mean and standard deviation over seeds, differences to the default with their error."""
    seeds = len(by_variant[DEFAULT])
    heads = [
        "variant", "HR@10", "MRR@10", "NDCG@10", "difference", "served NDCG@10", "difference",
        "actions / CPU s",
    ]  # fmt: skip
    lines = [f"{seeds} seeds: mean ± sd; differences to the default ± standard error.", ""]
    lines += [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for variant, runs in by_variant.items():
        cells = [f"`{variant}`", *(_spread(_values(runs, metric)) for metric in METRICS)]
        for name in ("ndcg_at_10", "served_ndcg_at_10"):
            if name.startswith("served"):
                cells.append(_spread(_values(runs, name)))
            cells.append(_against(by_variant, variant, name))
        lines.append(_line([*cells, f"{mean(_values(runs, SPEED)):,.0f}"]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f} ± {_deviation(values):.4f}"


def _against(by_variant: dict[str, list[trials.Result]], variant: str, name: str) -> str:
    if variant == DEFAULT:
        return ""
    differences = _differences(by_variant, variant, name)
    return f"{mean(differences):+.4f} ± {_error(differences):.4f}"


def _values(runs: Sequence[trials.Result], name: str) -> list[float]:
    return [run[name] for run in runs]


def _differences(
    by_variant: dict[str, list[trials.Result]], variant: str, name: str
) -> list[float]:
    """Seed by seed."""
    pairs = zip(by_variant[variant], by_variant[DEFAULT], strict=True)
    return [ours[name] - default[name] for ours, default in pairs]


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _error(differences: Sequence[float]) -> float:
    """Of their mean."""
    return float(_deviation(differences) / len(differences) ** 0.5)


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), prequential.check, measure))
