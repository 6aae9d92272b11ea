"""One stream learned by the trainer's own code, each chance predicted before it is learned."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass
class Calibration:
    """Sums over the shown items that were predicted."""

    shown: int = 0
    clicked: int = 0
    predicted: float = 0.0
    loss: float = 0.0
    clicks_of_all: int = 0
    """In the whole stream, learned at the beginning or not."""
    rows_learned: int = 0

    @property
    def ratio(self) -> float:
        """Mean prediction over observed rate."""
        return self.predicted / max(1, self.clicked)

    @property
    def mean_loss(self) -> float:
        """Log loss in nats per shown item."""
        return self.loss / max(1, self.shown)


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
            chance_R, label_R = state.learner.chances(batch)[:, 0], batch.label_RA[:, 0]
            right_R = label_R * chance_R + (1 - label_R) * (1 - chance_R)
            found.shown += len(label_R)
            found.clicked += int(label_R.sum())
            found.predicted += float(chance_R.double().sum())
            found.loss -= float(right_R.clamp(min=1e-30).double().log().sum())

    teacher.shown_observers.append(predict)
    for block in world.blocks():
        teacher.teach(block)
    found.rows_learned = state.counters["targets_trained"]
    assert not math.isnan(found.loss)
    return teacher, found
