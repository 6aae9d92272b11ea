"""What exploration adds to a ranking, to a shown item that is learned, and to a version.

CPU time of one thread; the parts take turns. A ranking is of 512 candidates for a user whose full
history is kept (`benchmarks.engine`), of which 20 are returned. Shown items come in batches of 64
lists of 20, to users without a history: no shown item costs less. Whether exploring finds what
greed does not is a test (tests/end_to_end/test_exploration.py).
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from benchmarks import report
from benchmarks.engine import CANDIDATES, SMALL, WIDE, Bench, Shape
from benchmarks.report import CheckFailed, Figure, interleaved
from service.action_types import ActionTypes
from service.draws import Draw
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.model.posterior import FACTOR, Explored, Posterior
from service.settings import Settings
from serving.exploration import best, propensities
from trainer.build import Plan
from trainer.information import Information, factor_of
from trainer.joining import Shown
from trainer.learner import Learner
from trainer.targets import TargetBatch, Targets

RETURNED, LISTS, LISTED, ITEMS = 20, 64, 20, 2000
START_MS = 1_732_096_800_000
WEIGHTS = torch.tensor([kind.weight for kind in ActionTypes().types.values()])


class Bandit:
    """Heads of a width that have met some shown items, and candidates."""

    def __init__(self, dim: int) -> None:
        make = torch.Generator().manual_seed(0)
        self.shown_RD = torch.randn(LISTS * LISTED, dim, generator=make)
        self.logits_RA = torch.randn(len(self.shown_RD), len(WEIGHTS), generator=make) - 3
        heads = nn.Linear(dim, len(WEIGHTS))
        self.information = Information(heads, 1e5, torch.device("cpu"))
        self.learn()
        self.posterior = Posterior(self.factor(), WEIGHTS)
        self._score_C = torch.randn(CANDIDATES, generator=make)
        self._inputs_CD = torch.randn(CANDIDATES, dim, generator=make)
        self.explored = self.draw()

    def learn(self) -> None:
        """What a batch of shown items adds."""
        self.information.add(self.shown_RD, self.logits_RA, torch.ones_like(self.logits_RA))

    def factor(self) -> torch.Tensor:
        """What a version adds."""
        return factor_of(self.information.state(), 1.0)[FACTOR]

    def draw(self) -> Explored:
        """What a ranking adds, but for its propensities."""
        return self.posterior.explored(self._score_C, self._inputs_CD, Draw(0.5, 7))

    def estimate(self) -> object:
        """The propensities."""
        return propensities(best(self.explored.score_MC.numpy(), RETURNED))


def learner_of(shape: Shape) -> Learner:
    """That knows all items, and not how sure it is."""
    model = shape.settings.model_dump(mode="json")
    settings = Settings({"model": model, "histories": {"capacity": 2 * shape.window}})
    learner = Plan(settings).fresh_state().learner
    keys = torch.arange(ITEMS)
    learner.items.admit(keys, torch.full_like(keys, START_MS))
    return learner


def targets_of(shape: Shape) -> TargetBatch:
    """Lists whose first item was acted on."""
    make, histories = np.random.default_rng(0), LocalHistories(HistorySettings())
    lists = [make.choice(ITEMS, LISTED, replace=False).tolist() for _ in range(LISTS)]
    shown = [
        Shown(START_MS, user, items, 0, {items[0]: 1}, key=user) for user, items in enumerate(lists)
    ]
    ((batch,), _) = Targets(shape.window, len(WEIGHTS)).batches(shown, histories)
    return batch


def check(_: argparse.Namespace) -> None:
    """Draws deviate as the posterior says."""
    torch.set_num_threads(1)
    bandit = Bandit(8)
    spread = bandit.explored.score_MC.std(0) / 0.5
    factor_AZZ, z_CZ = (
        bandit.factor().double(),
        nn.functional.pad(bandit._inputs_CD, (0, 1), value=1),
    )
    covariance = (WEIGHTS**2)[:, None, None] * torch.cholesky_inverse(factor_AZZ)
    expected = (z_CZ.double() @ covariance.sum(0) * z_CZ).sum(1).sqrt()
    if not torch.allclose(spread.double(), expected, rtol=0.25):
        raise CheckFailed(f"draws deviate by {spread[:3]} where {expected[:3]} was expected")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """A narrow and a wide model."""
    torch.set_num_threads(1)
    runs = 5 if options.quick else 25
    for shape in (SMALL, WIDE):
        bench, bandit = Bench(shape, "fp32"), Bandit(shape.dim)
        learner, batch = learner_of(shape), targets_of(shape)
        bench.ask(kept=True)
        found = interleaved(
            runs,
            {
                "ranking": seconds(lambda bench=bench: bench.ask(kept=True)),
                "draws": seconds(bandit.draw),
                "propensities": seconds(bandit.estimate),
                "learned": seconds(lambda one=learner, many=batch: one.learn_actions(many)),
                "information": seconds(bandit.learn),
                "factor": seconds(bandit.factor),
            },
        )
        for name, values in found.items():
            each = LISTS * LISTED if name in ("learned", "information") else 1
            per = "shown_item" if each > 1 else "version" if name == "factor" else "ranking"
            yield Figure.of(
                f"exploration.{name}_cpu_seconds", "s", [value / each for value in values],
                per=per, dim=shape.dim, layers=shape.layers,
            )  # fmt: skip


def seconds(work: Callable[[], object], times: int = 8) -> Callable[[], float]:
    """Measures the mean CPU time of this thread."""

    def measured() -> float:
        began = time.thread_time()
        for _ in range(times):
            work()
        return (time.thread_time() - began) / times

    return measured


if __name__ == "__main__":
    raise SystemExit(report.run(report.parser(__doc__), check, measure))
