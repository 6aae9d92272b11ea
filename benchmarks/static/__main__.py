"""HSTU and SASRec on a fixed file: the published leave-one-out protocol, and a clean one beside it.

published: train on all but each user's last event, rank it among all items, report the best epoch
(there is no validation set). clean: the epoch is chosen on the second to last event, reported on
the last, which no choice has seen. Mean and standard deviation over seeds.

    python -m benchmarks.static --data ml-1m                    # all models, three seeds: hours
    python -m benchmarks.static --data ml-1m --models hstu --protocols clean --seeds 1
    python -m benchmarks.static --data ml-1m --step             # time of a step, as published

The file holds user_id, item_id and `--order` (seq_pos). With `--out`, finished runs are kept and
not repeated.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks import report, trials
from benchmarks.report import CheckFailed, Figure
from benchmarks.softmax import MASKED, TEMPERATURE, shared_loss
from benchmarks.static import steps
from benchmarks.static.encoders import SHAPES, built
from benchmarks.static.sequences import located
from benchmarks.static.training import HELD_OUT, Task, run


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m benchmarks.static`."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--data", required=True, help="a file, or the name of one in the folder FRESHET_DATA")
    add("--order", default="seq_pos", help="column that orders a user's events (seq_pos)")
    add("--models", nargs="+", choices=SHAPES, default=["sasrec", "hstu"])
    add("--protocols", nargs="+", choices=HELD_OUT, default=list(HELD_OUT))
    add("--seeds", type=int, default=3)
    add("--epochs", type=int, default=40)
    add("--every", type=int, default=4, help="epochs between two scorings (4)")
    add("--users", type=int, default=32, help="sequences in a batch (32)")
    add("--negatives", choices=["shared", "gathered"], default="shared")
    add("--count", type=int, default=2048, help="negatives: of a batch, or of a position (2,048)")
    add("--learning-rate", type=float, default=3e-3, help="at the start; it falls to 0 (0.003)")
    add("--temperature", type=float, default=0.07, help="of the softmax (0.07)")
    add("--jobs", type=int, default=2, help="runs side by side, one thread each (2)")
    add("--out", type=Path, help="keep finished runs in this file")
    add("--step", action="store_true", help="measure a training step only")
    return report.run(options, check, measure, arguments)


def check(options: argparse.Namespace) -> None:
    """The data is there, the loss is the softmax it estimates, and nobody sees a neighbour."""
    located(options.data)
    torch.manual_seed(0)
    users_TD, vectors_ID = (torch.nn.functional.normalize(torch.randn(n, 8)) for n in (5, 12))
    item_T = torch.arange(1, 6)
    whole = shared_loss(users_TD, item_T, vectors_ID, torch.arange(1, 12))
    logits_TI = (users_TD @ vectors_ID.T / TEMPERATURE).index_fill(1, torch.zeros(1).long(), MASKED)
    _expect("the loss over all items", whole, torch.nn.functional.cross_entropy(logits_TI, item_T))
    for name in options.models:
        model = built(name, 50).eval()
        item_T = torch.arange(1, 31)
        alone = model(item_T[:7], torch.tensor([0, 7]))
        beside = model(item_T, torch.tensor([0, 7, 30]))[:7]
        _expect(f"{name} alone and beside a neighbour", alone, beside)


def _expect(what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise CheckFailed(f"{what}: off by {float((found - wanted).abs().max()):.2g}")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Steps, or the table."""
    if options.step:
        yield from steps.measure(options)
        return
    data = str(located(options.data))
    few = {"seeds": 1, "epochs": 2, "limit": 400} if options.quick else {}
    seeds, epochs = few.get("seeds", options.seeds), few.get("epochs", options.epochs)
    for model in options.models:
        for protocol in options.protocols:
            tasks = [
                Task(
                    data, options.order, model, protocol, seed, epochs, options.every,
                    options.users, options.negatives, options.count,
                    options.learning_rate, options.temperature, few.get("limit"),
                )
                for seed in range(seeds)
            ]  # fmt: skip
            yield from _figures(tasks, options)


def _figures(tasks: list[Task], options: argparse.Namespace) -> Iterator[Figure]:
    results = trials.outcomes([vars(task) for task in tasks], run, options.jobs, options.out)
    task, name = tasks[0], Path(tasks[0].data).name.partition(".")[0]
    chosen_by = "valid_ndcg" if task.protocol == "clean" else "ndcg"
    best = [max(result["epochs"], key=lambda e: e[chosen_by]) for result in results]
    settings = {
        "model": task.model, "protocol": task.protocol, "epochs": task.epochs,
        "negatives": f"{task.count} {task.negatives}", "learning_rate": task.learning_rate,
        "temperature": task.temperature,
    }  # fmt: skip
    for metric in ("hr", "ndcg"):
        values = [scores[metric] for scores in best]
        last = [result["epochs"][-1][metric] for result in results]
        yield Figure(
            figure=f"static.{name}.{metric}_at_10", value=mean(values), unit="share",
            low=min(values), high=max(values), runs=len(values),
            settings=settings
            | {"sd": round(stdev(values), 4) if len(values) > 1 else 0.0}
            | {"at_epochs": [scores["epoch"] for scores in best]}
            | {"last_epoch": round(mean(last), 4)},
        )  # fmt: skip
    times = [result["step_cpu_ms"] for result in results]
    yield Figure.of(f"static.{name}.step_cpu_ms", "ms", times, **settings, users=task.users)


if __name__ == "__main__":
    raise SystemExit(main())
