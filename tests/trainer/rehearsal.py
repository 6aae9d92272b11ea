"""A tiny trainer with its gate, fed with blocks by hand, without streams and files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from service.blocks import Block
from service.histories.local import Events
from service.histories.rings import Longs
from service.metrics import TrainerMetrics
from service.settings import Settings
from tests.trainer.workshop import START_MS, settings
from trainer.build import Plan
from trainer.fitting import Weights
from trainer.gate import Gate, Verdict
from trainer.gate_settings import GateSettings
from trainer.gathering import Trials
from trainer.inspection import Inspection
from trainer.teaching import Teacher
from trainer.user_cap import UserCap

GATE = GateSettings(
    quarantine_seconds=1_200, slices=4, trials_per_slice=24, events_per_trial=8, popular=16
)
BLOCK = 64
EVERY_MS = 120_000
ITEMS, USERS = 30, 40


@dataclass(frozen=True, eq=False)
class Clicks:
    """T clicks in order."""

    user_T: Longs
    item_T: Longs
    at_ms_T: Longs

    def flipped(self, first: int, last: int) -> "Clicks":
        """Clicks number first .. last go to the item across the ring and backwards."""
        item_T = self.item_T.copy()
        item_T[first:last] = 1 + (7 * item_T[first:last]) % ITEMS
        return replace(self, item_T=item_T)

    def flooded(self, first: int, last: int, bots: int) -> "Clicks":
        """After each of the clicks first .. last come five of bots, on three items."""
        draw, times = np.random.default_rng(1), np.ones(len(self.user_T), np.int64)
        times[first:last] = 6
        columns = [np.repeat(c, times) for c in (self.user_T, self.item_T, self.at_ms_T)]
        starts_T = np.cumsum(times) - times
        bot_T = np.ones(len(columns[0]), np.bool_)
        bot_T[starts_T] = False
        count = int(bot_T.sum())
        columns[0][bot_T] = 10_000 + draw.integers(bots, size=count)
        columns[1][bot_T] = 1 + draw.integers(3, size=count)
        return Clicks(*columns)

    def blocks(self) -> Iterator[Block]:
        none = np.zeros(BLOCK, np.int64)
        for first in range(0, len(self.user_T), BLOCK):
            part = slice(first, first + BLOCK)
            item_T = self.item_T[part]
            zeros = none[: len(item_T)]
            events = Events(self.user_T[part], item_T, zeros, self.at_ms_T[part], zeros)
            yield Block(
                events, [None] * len(item_T), item_T.tolist(), [], [], {},
                int(events.at_ms_T[-1]), len(item_T),
            )  # fmt: skip


def rings(events: int) -> Clicks:
    """Every user goes round the same ring of items, one click a second in all."""
    draw = np.random.default_rng(0)
    user_T = draw.integers(USERS, size=events)
    place, item_T = draw.integers(0, ITEMS, USERS), np.zeros(events, np.int64)
    for t, user in enumerate(user_T.tolist()):
        place[user] = (place[user] + 1) % ITEMS
        item_T[t] = 1 + place[user]
    return Clicks(user_T, item_T, START_MS + 1000 * np.arange(events))


class Rehearsal:
    """Teaches blocks and judges a version every two minutes of event time."""

    def __init__(self, gate: GateSettings = GATE, **sections: dict[str, object]) -> None:
        sections = {
            "trainer": {"learning_rate": 1e-2, "evaluate_rows": 0, "row_budget": 4_096},
            **sections,
        }
        plan, self.metrics = Plan(Settings(settings(**sections))), TrainerMetrics()
        self.state = plan.fresh_state()
        self.teacher = Teacher(
            self.state, plan.types, plan.trainer, self.metrics, Inspection(Path("/none")),
            UserCap(gate.user_floor, gate.user_share),
        )  # fmt: skip
        self.gate = Gate(gate, self.state.learner, len(plan.types.types), self.metrics)
        self.teacher.observers.append(self.gate.observe)
        self.verdicts: list[tuple[int, Verdict]] = []
        """By time of the cut."""
        self.trials: Trials | None = None
        self._cut_ms = START_MS

    @property
    def dense(self) -> dict[str, Tensor]:
        weights = self.state.learner.network.state_dict()
        return {name: weight.clone() for name, weight in weights.items()}

    def run(self, blocks: Iterator[Block], after: Callable[[int], None] = lambda _: None) -> None:
        for block in blocks:
            self.teacher.teach(block)
            self.teacher.segments.take()
            if block.watermark_ms - self._cut_ms >= EVERY_MS:
                self._cut_ms = block.watermark_ms
                self.judge(block.watermark_ms)
            after(block.watermark_ms)

    def judge(self, at_ms: int) -> Verdict:
        self.trials = self.gate.gather(self.state, at_ms)
        number = len(self.verdicts) + 1
        verdict = self.gate.judge(number, self.trials, Weights(self.dense), {"slots/item": "int8"})
        self.gate.committed(verdict)
        self.verdicts.append((at_ms, verdict))
        return verdict

    def held(self, first: int, last: int) -> list[str]:
        """First words of why versions were held that were cut between two clicks; '' if not."""
        span = range(START_MS + 1000 * first, START_MS + 1000 * last)
        return [verdict.reason or "" for at_ms, verdict in self.verdicts if at_ms in span]
