"""One stream learned by the trainer's own code, each chance predicted before it is learned."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.calibration.world import World
from service.metrics import TrainerMetrics
from service.settings import Settings
from trainer.build import Plan
from trainer.inspection import Inspection
from trainer.joining import Shown
from trainer.targets import Targets
from trainer.teaching import Teacher

SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "qk_width": 8, "v_width": 8, "window": 16},
    "histories": {"capacity": 64},
    "actions": {"types": {"click": {}}},
    "trainer": {
        "join_seconds": 10, "correct_seconds": 20, "pool_window": 1024, "pool_draws": 64,
        "evaluate_rows": 0,
    },
}  # fmt: skip

BINS = 40


class Chances:
    """Sums over chances that were predicted, and over what followed."""

    def __init__(self) -> None:
        self.shown, self.clicked, self.predicted, self.loss = 0, 0, 0.0, 0.0
        self._apart_B = np.zeros(BINS)

    def add(self, logit_R: Tensor, label_R: Tensor) -> None:
        """Some more shown items: the log odds of a click, and whether one followed."""
        logit_R, label_R = logit_R.double(), label_R.double()
        chance_R = torch.sigmoid(logit_R)
        self.shown += len(label_R)
        self.clicked += int(label_R.sum())
        self.predicted += float(chance_R.sum())
        self.loss += float(binary_cross_entropy_with_logits(logit_R, label_R, reduction="sum"))
        bin_R = (2 * logit_R.numpy() + BINS / 2).astype(np.int64).clip(0, BINS - 1)
        self._apart_B += np.bincount(bin_R, (label_R - chance_R).numpy(), BINS)

    @property
    def ratio(self) -> float:
        """Mean prediction over observed rate."""
        return self.predicted / max(1, self.clicked)

    @property
    def mean_loss(self) -> float:
        """Log loss in nats per shown item."""
        return self.loss / max(1, self.shown)

    @property
    def error(self) -> float:
        """Expected calibration error: by how much predicted and observed rate differ in a bin of
        half a unit of log odds, mean over shown items."""
        return float(np.abs(self._apart_B).sum()) / max(1, self.shown)

    def __str__(self) -> str:
        return (
            f"predicted / observed {self.ratio:.4f}, error {self.error:.6f}, "
            f"loss {self.mean_loss:.6f}"
        )


@dataclass
class Calibration:
    """What was predicted for the shown items of a stream's last part."""

    raw: Chances = field(default_factory=Chances)
    """By the head alone."""
    served: Chances = field(default_factory=Chances)
    """By the head and the map that was fitted by then."""
    clicks_of_all: int = 0
    """In the whole stream, learned at the beginning or not."""
    rows_learned: int = 0


def plan_of(world: World, **trainer: Any) -> Plan:
    """Settings of a run."""
    sections = SECTIONS | {"trainer": SECTIONS["trainer"] | {"seed": world.seed} | trainer}
    return Plan(Settings(sections))


def learned(
    world: World, from_share: float = 0.5, folder: Path = Path("skipped"), **trainer: Any
) -> tuple[Teacher, Calibration]:
    """Teach the whole stream; what was predicted in its last part."""
    plan, found = plan_of(world, **trainer), Calibration()
    state = plan.fresh_state()
    teacher = Teacher(state, plan.types, plan.trainer, TrainerMetrics(), Inspection(folder))
    targets = Targets(plan.model.window, len(plan.types.types))
    closed = 0

    def predict(shown: list[Shown]) -> None:
        nonlocal closed
        closed += len(shown)
        found.clicks_of_all += sum(map(len, (entry.acted for entry in shown)))
        if closed < from_share * world.impressions:
            return
        for batch in targets.batches(shown, state.histories)[0]:
            logit_RA, label_R = state.learner.logits(batch), batch.label_RA[:, 0]
            found.raw.add(logit_RA[:, 0], label_R)
            found.served.add(state.learner.calibrator.fitted()(logit_RA)[:, 0], label_R)

    teacher.shown_observers.append(predict)
    for block in world.blocks():
        teacher.teach(block)
    found.rows_learned = state.counters["targets_trained"]
    assert not math.isnan(found.raw.loss)
    return teacher, found
