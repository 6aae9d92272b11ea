"""A trainer and its gate without streams and files: what the gate does to a story's versions."""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.poison.stories import HOUR_MS, Story
from benchmarks.report import CheckFailed, progress
from service.blocks import Block
from service.metrics import TrainerMetrics
from service.settings import Settings
from trainer.build import Plan
from trainer.fitting import Weights
from trainer.gate import Gate
from trainer.gate_settings import GateSettings
from trainer.gathering import Trials
from trainer.inspection import Inspection
from trainer.snapshots import precisions
from trainer.teaching import Teacher
from trainer.user_cap import UserCap

TOP = 10
AFTER_MS = 3 * HOUR_MS
"""How long a poison is followed after its end."""
SECTIONS: dict[str, Any] = {
    "actions": {"types": {"click": {}, "hide": {"positive": False, "weight": -1.0}}},
    "model": {"window": 64},
    "histories": {"capacity": 128},
    "trainer": {"evaluate_rows": 0},
}


@dataclass
class Version:
    """One judged version."""

    at_ms: int
    held: str | None
    share: float
    """Of the flood's targets among the first TOP items of ordinary users."""
    judge_seconds: float
    gather_seconds: float
    metrics: dict[str, float]


@dataclass
class Course:
    """A story's versions in order."""

    story: Story
    versions: list[Version] = field(default_factory=list)
    capped: int = 0
    actions: int = 0

    def facts(self) -> dict[str, Any]:
        """All but the story, JSON-able."""
        return {
            "versions": [asdict(version) for version in self.versions],
            "capped": self.capped,
            "actions": self.actions,
        }

    def false_holds(self) -> float:
        """Share of versions held before any poison, or in all of a clean story."""
        first, last = self.story.poison_ms
        before = [v for v in self.versions if not last or v.at_ms < first]
        return float(np.mean([v.held is not None for v in before])) if before else 0.0

    def published_minutes(self) -> float:
        """Minutes of poison that versions had learned which were published while it lasted."""
        first, last = self.story.poison_ms
        learned = [v.at_ms - first for v in self.versions if not v.held and first < v.at_ms <= last]
        return max([0, *learned]) / 60_000

    def hold_minutes(self) -> float:
        """Minutes from the end of the poison to the first version published after it."""
        last = self.story.poison_ms[1]
        published = (v.at_ms for v in self.versions if not v.held and v.at_ms > last)
        return (next(published, self.versions[-1].at_ms) - last) / 60_000

    def served_share(self, guarded: bool) -> float:
        """The highest share of targets in what a server showed during and after the flood."""
        shares = [
            v.share
            for v in self.versions
            if v.at_ms > self.story.poison_ms[0] and not (guarded and v.held)
        ]
        return max(shares, default=0.0)


class Rehearsal:
    """Learns one clean story, and every poisoned one from the state in which its poison begins."""

    def __init__(self, clean: Story, every_seconds: float) -> None:
        """A version is judged every so many seconds of event time."""
        self._course, self._every_ms = Course(clean), every_seconds * 1000
        plan, metrics, gate = Plan(Settings(SECTIONS)), TrainerMetrics(), GateSettings()
        self._block = plan.trainer.block_records
        self._state = plan.fresh_state()
        cap = UserCap(gate.user_floor, gate.user_share)
        self._teacher = Teacher(
            self._state, plan.types, plan.trainer, metrics,
            Inspection(Path(tempfile.gettempdir()) / "poison"), cap,
        )  # fmt: skip
        self._gate = Gate(gate, self._state.learner, len(plan.types.types), metrics)
        self._precision = precisions(self._state.learner.network.state_dict(), "int8")
        self._teacher.observers.append(self._gate.observe)
        self._judged_ms = float(clean.at_ms_T[0])

    def courses(self, poisoned: Sequence[Story]) -> Iterator[Course]:
        """The course of every poisoned story, in order of time, and of the clean one at the end."""
        waiting = sorted(poisoned, key=lambda story: story.poison_ms)
        for number, block in enumerate(self._course.story.blocks(self._block)):
            while waiting and block.watermark_ms >= waiting[0].poison_ms[0]:
                yield self._apart(waiting.pop(0), number)
            self._learn(block)
        yield self._told()

    def _apart(self, story: Story, number: int) -> Course:
        """The course of a story that was the clean one up to this block, in a child process: what
        it learns is forgotten."""
        progress(f"{story.name} at hour {story.hour:g}")
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            status = 1
            try:
                with os.fdopen(writing, "w") as answer:
                    json.dump(self._followed(story, number).facts(), answer)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        if os.waitpid(child, 0)[1]:
            raise CheckFailed(f"{story.name} at hour {story.hour:g} ended with an error")
        told = json.loads(text)
        versions = [Version(**version) for version in told.pop("versions")]
        return Course(story, versions, **told)

    def _followed(self, story: Story, number: int) -> Course:
        self._course.story = story
        for block in itertools.islice(story.blocks(self._block), number, None):
            self._learn(block)
            if block.watermark_ms > story.poison_ms[1] + AFTER_MS:
                break
        return self._told()

    def _told(self) -> Course:
        counters = self._state.counters
        return replace(self._course, capped=counters["capped"], actions=counters["actions"])

    def _learn(self, block: Block) -> None:
        self._teacher.teach(block)
        self._teacher.segments.take()
        if block.watermark_ms - self._judged_ms >= self._every_ms:
            self._judged_ms = block.watermark_ms
            self._judge(block.watermark_ms)

    def _judge(self, at_ms: int) -> None:
        network = self._state.learner.network
        began = time.perf_counter()
        trials = self._gate.gather(self._state, at_ms)
        dense = {name: weight.clone() for name, weight in network.state_dict().items()}
        gathered = time.perf_counter()
        number = len(self._course.versions) + 1
        verdict = self._gate.judge(number, trials, Weights(dense), self._precision)
        judged = time.perf_counter()
        self._gate.committed(verdict)
        self._course.versions.append(
            Version(at_ms, verdict.held, self._share(trials, at_ms), judged - gathered,
                    gathered - began, verdict.metrics)
        )  # fmt: skip

    @torch.inference_mode()
    def _share(self, trials: Trials, at_ms: int) -> float:
        """Of the targets among the first items of the users of recent trials."""
        story, learner = self._course.story, self._state.learner
        if not story.targets or at_ms < story.poison_ms[0]:
            return 0.0
        rows_R = learner.items.live_rows()
        prior_R = learner.network.item_prior(learner.popularity.counts(rows_R, at_ms))
        asking_N = np.concatenate([one.trials["user"] for one in trials.recent.slices])
        users_ND = self._gate.users(trials)[torch.from_numpy(asking_N < story.first_bot)]
        best = (learner.network.next_item(users_ND, learner.items.gather(rows_R)) + prior_R).topk(
            TOP
        )
        keys = learner.items.keys_of(rows_R)[best.indices]
        return float(torch.isin(keys, torch.tensor(story.targets)).float().mean())
