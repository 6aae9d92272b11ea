"""How much longer the slowest training steps are while a version is made."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.versions.world import NEVER, World
from service.blocks import Block
from trainer.loop import Trainer

BLOCK_RECORDS = 128
FIRST_STEPS = 10
"""Before the first version."""
FEWEST = 50
"""Steps of either kind; fewer have no p99 worth the name."""


@dataclass
class Steps:
    """Seconds from the end of one step to the end of the next: cut and copies included."""

    beside: list[float] = field(default_factory=list)
    """While a version was made."""
    alone: list[float] = field(default_factory=list)

    def watch(self, trainer: Trainer) -> None:
        """Time every step of this trainer from its second one on, and let it make a version
        whenever as many steps have gone by alone as went by beside the last one."""
        watched: Any = trainer
        teach, publish = trainer.teacher.teach, trainer.publish
        due = trainer.settings.model_copy(update={"publish_seconds": 0.0})
        not_due = trainer.settings.model_copy(update={"publish_seconds": NEVER})
        last, busy, cut, credit = 0.0, False, False, FIRST_STEPS

        def timed_publish() -> None:
            nonlocal cut
            cut = True
            publish()

        def timed_teach(block: Block) -> None:
            nonlocal last, busy, cut, credit
            teach(block)
            now, was, busy = time.perf_counter(), busy or cut, trainer.publisher.busy
            beside, cut = was or busy, False
            if last:
                (self.beside if beside else self.alone).append(now - last)
            last = now
            credit += 1 if beside else -1
            watched.settings = due if credit < 0 else not_due

        watched.publish, watched.teacher.teach = timed_publish, timed_teach

    @property
    def ratio(self) -> float:
        """p99 beside a version over p99 alone."""
        if min(len(self.beside), len(self.alone)) < FEWEST:
            raise CheckFailed(
                f"{len(self.beside)} steps beside a version and {len(self.alone)} alone are too few"
            )
        return float(np.quantile(self.beside, 0.99) / np.quantile(self.alone, 0.99))


def step_p99(world: World, actions: int, runs: int) -> Iterator[Figure]:
    """One figure for deltas, one for bases, each of which is followed by a delta."""
    for kind, every in (("delta", 1_000_000), ("base, delta", 1)):
        found = [_run(world, actions, every) for _ in range(runs)]
        yield Figure.of(
            "versions.step_p99_ratio", "", [steps.ratio for steps in found], making=kind,
            rows=world.rows, block_records=BLOCK_RECORDS,
            steps_beside=sum(len(steps.beside) for steps in found),
            steps_alone=sum(len(steps.alone) for steps in found),
            p99_alone_seconds=_p99([s for steps in found for s in steps.alone]),
            p99_beside_seconds=_p99([s for steps in found for s in steps.beside]),
        )  # fmt: skip


def _run(world: World, actions: int, base_every: int) -> Steps:
    world.click(actions)
    steps = Steps()
    with world.training(
        publish_clock="wall", block_records=BLOCK_RECORDS, base_every=base_every, keep_versions=3,
    ) as trainer:  # fmt: skip
        steps.watch(trainer)
        trainer.run(threading.Event(), lambda: True)
    progress(f"{len(steps.beside)} steps beside versions, {len(steps.alone)} alone")
    return steps


def _p99(seconds: list[float]) -> float:
    return round(float(np.quantile(seconds, 0.99)), 5)
