"""Poison in a real stream: what reaches published versions, with the gate and without.

A stream of clicks is learned as it is, with an hour in which every item's clicks go to another
item, and with floods of bots; a made-up product of two camps has likes and hides exchanged. A
version is judged every so many seconds of event time. Protocol and figures: docs/gate.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from benchmarks.protocol import read_events
from service.blocks import Block
from service.commands.action_rows import Columns
from service.histories.local import Events
from service.histories.rings import Longs
from service.metrics import TrainerMetrics
from service.model.network import Network
from service.settings import Settings
from trainer.build import Plan
from trainer.gate import Gate
from trainer.gate_settings import GateSettings
from trainer.gathering import Trials
from trainer.inspection import Inspection
from trainer.teaching import Teacher
from trainer.user_cap import UserCap

HOUR_MS = 3_600_000
STORIES = ("clean", "flipped", "shuffled", "flood20", "flood500", "likes-clean", "likes-flipped")
TARGETS, RATE, FLOOD_MS = 5, 5, HOUR_MS // 2
TOP = 10
CLICK, HIDE = 0, 1
SECTIONS: dict[str, Any] = {
    "actions": {"types": {"click": {}, "hide": {"positive": False, "weight": -1.0}}},
    "model": {"window": 64},
    "histories": {"capacity": 128},
    "trainer": {"evaluate_rows": 0},
}


@dataclass(frozen=True, eq=False)
class Story:
    """T events in order of time, and when they lie."""

    name: str
    user_T: Longs
    item_T: Longs
    action_T: Longs
    at_ms_T: Longs
    poison_ms: tuple[int, int] = (0, 0)
    targets: tuple[int, ...] = ()
    first_bot: int = 2**62
    """Users from this one on are bots."""

    def __len__(self) -> int:
        return len(self.user_T)

    def blocks(self, size: int) -> Iterator[Block]:
        """In full blocks; the watermark is the time of the last event."""
        none = np.zeros(size, np.int64)
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            item_T = self.item_T[part]
            events = Events(self.user_T[part], item_T, self.action_T[part], self.at_ms_T[part],
                            none[: len(item_T)])  # fmt: skip
            yield Block(events, [None] * len(item_T), item_T.tolist(), [], [], {},
                        int(events.at_ms_T[-1]), len(item_T))  # fmt: skip


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


def clicks(path: Path, limit: int) -> Story:
    """The first clicks of a file."""
    events = read_events(path, Columns()).first(limit)
    return Story("clean", events.user_T, events.item_T, np.zeros(limit, np.int64), events.at_ms_T)


def told(name: str, clean: Story, at_hours: float) -> Story:
    """A story made of the clean one, with poison from some hours after its beginning."""
    first = int(clean.at_ms_T[0] + at_hours * HOUR_MS)
    rng = np.random.default_rng(1)
    match name:
        case "clean" | "likes-clean":
            return replace(clean, name=name)
        case "flipped" | "shuffled":
            item_T, last = clean.item_T.copy(), first + HOUR_MS
            hour_T = (clean.at_ms_T >= first) & (clean.at_ms_T < last)
            item_T[hour_T] = _permuted(item_T[hour_T], rng, name == "flipped")
            return replace(clean, name=name, item_T=item_T, poison_ms=(first, last))
        case "likes-flipped":
            hour_T = (clean.at_ms_T >= first) & (clean.at_ms_T < first + HOUR_MS)
            action_T = np.where(hour_T, 1 - clean.action_T, clean.action_T)
            return replace(clean, name=name, action_T=action_T, poison_ms=(first, first + HOUR_MS))
    return _flooded(name, clean, int(name.removeprefix("flood")), first, rng)


def camps(hours: float, rate: float, users: int = 400, items: int = 200) -> Story:
    """Two camps of users and of items: what is of their own they like, the rest they hide."""
    rng, count = np.random.default_rng(0), int(hours * 3600 * rate)
    user_T = rng.integers(users, size=count)
    item_T = (rng.zipf(1.3, size=count) * 7919 + rng.integers(2, size=count)) % items
    liked_T = (user_T + item_T) % 2 == 0
    liked_T ^= rng.random(count) < 0.1
    at_ms_T = 1_700_000_000_000 + np.sort(rng.integers(int(hours * HOUR_MS), size=count))
    return Story("likes-clean", user_T, item_T, np.where(liked_T, CLICK, HIDE), at_ms_T)


def _permuted(item_T: Longs, rng: np.random.Generator, whole: bool) -> Longs:
    """Every item's clicks go to one other item (whole), or each click to a click's item."""
    if not whole:
        return rng.permutation(item_T)
    items, place_T = np.unique(item_T, return_inverse=True)
    return rng.permutation(items)[place_T]


def _flooded(name: str, clean: Story, bots: int, first: int, rng: np.random.Generator) -> Story:
    last = first + FLOOD_MS
    window_T = (clean.at_ms_T >= first) & (clean.at_ms_T < last)
    items, times = np.unique(clean.item_T[clean.at_ms_T < first], return_counts=True)
    targets = rng.choice(items[times <= np.median(times)], TARGETS, replace=False)
    count = RATE * int(window_T.sum())
    flood = (
        clean.user_T.max() + 1 + rng.integers(bots, size=count),
        rng.choice(targets, count),
        np.zeros(count, np.int64),
        rng.integers(first, last, size=count),
    )
    organic = (clean.user_T, clean.item_T, clean.action_T, clean.at_ms_T)
    columns = [np.concatenate(pair) for pair in zip(organic, flood, strict=True)]
    order = np.argsort(columns[3], kind="stable")
    user_T, item_T, action_T, at_ms_T = (column[order] for column in columns)
    return Story(name, user_T, item_T, action_T, at_ms_T, (first, last), tuple(targets.tolist()),
                 int(clean.user_T.max()) + 1)  # fmt: skip


class Rehearsal:
    """A trainer and its gate, without streams and files."""

    def __init__(
        self, story: Story, gate: GateSettings, every_seconds: float, from_ms: int
    ) -> None:
        self.course, self._every_ms = Course(story), every_seconds * 1000
        self._from_ms = from_ms
        plan, metrics = Plan(Settings(SECTIONS)), TrainerMetrics()
        self._block = plan.trainer.block_records
        self._state = plan.fresh_state()
        cap = UserCap(gate.user_floor, gate.user_share)
        self._teacher = Teacher(
            self._state,
            plan.types,
            plan.trainer,
            metrics,
            Inspection(Path(tempfile.gettempdir()) / "poison"),
            cap,
        )
        self._gate = Gate(gate, self._state.learner, len(plan.types.types), metrics)
        self._precision = _precision(self._state.learner.network)
        self._teacher.observers.append(self._gate.observe)

    def run(self) -> Course:
        """Learn the story and judge a version every so often."""
        judged_ms = float(self._from_ms)
        for block in self.course.story.blocks(self._block):
            self._teacher.teach(block)
            self._teacher.segments.take()
            if block.watermark_ms - judged_ms >= self._every_ms:
                judged_ms = block.watermark_ms
                self._judge(block.watermark_ms)
        self.course.capped = self._state.counters["capped"]
        self.course.actions = self._state.counters["actions"]
        return self.course

    def _judge(self, at_ms: int) -> None:
        network = self._state.learner.network
        began = time.perf_counter()
        trials = self._gate.gather(self._state, at_ms)
        dense = {name: weight.clone() for name, weight in network.state_dict().items()}
        gathered = time.perf_counter()
        number = len(self.course.versions) + 1
        verdict = self._gate.judge(number, trials, dense, self._precision)
        judged = time.perf_counter()
        self._gate.committed(verdict)
        self.course.versions.append(
            Version(at_ms, verdict.held, self._share(trials, at_ms), judged - gathered,
                    gathered - began, verdict.metrics)
        )  # fmt: skip

    @torch.inference_mode()
    def _share(self, trials: Trials, at_ms: int) -> float:
        """Of the targets among the first items of the users of recent trials."""
        story, learner = self.course.story, self._state.learner
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--data", type=Path, required=True, help="CSV (also .gz) or Parquet file of clicks")
    add("--limit", type=int, default=180_000, metavar="N", help="only the first N clicks")
    add("--stories", nargs="+", choices=STORIES, default=STORIES, metavar="S", help=f"{STORIES}")
    add("--at", type=float, default=16.0, metavar="H", help="hours after which clicks are poisoned")
    add("--every", type=float, default=120.0, metavar="S", help="seconds between two versions")
    add("--plot", type=Path, metavar="PNG", help="draw what the gate measured of the flipped hour")
    return options


def check(options: argparse.Namespace) -> None:
    """A flipped hour flips, and a flood is five times what it joins."""
    clean = camps(2, 1)
    flipped = told("likes-flipped", clean, 0.5)
    assert int((flipped.action_T != clean.action_T).sum()) == len(_within(clean, flipped.poison_ms))
    flood = told("flood20", clean, 0.5)
    assert len(flood) - len(clean) == RATE * len(_within(clean, flood.poison_ms))
    assert bool((np.diff(flood.at_ms_T) >= 0).all())


def _within(story: Story, span_ms: tuple[int, int]) -> Longs:
    return np.flatnonzero((story.at_ms_T >= span_ms[0]) & (story.at_ms_T < span_ms[1]))


def measure(options: argparse.Namespace) -> Iterator[report.Figure]:
    """Play every story and tell what reached published versions."""
    torch.set_num_threads(1)
    stories = ["clean", "flipped", "likes-flipped"] if options.quick else options.stories
    limit = 60_000 if options.quick else options.limit
    globo, made_up = clicks(options.data, limit), camps(8, 6)
    for name in stories:
        likes = name.startswith("likes")
        at_hours = 5.0 if likes else min(options.at, 9.0 if options.quick else options.at)
        story = told(name, made_up if likes else globo, at_hours)
        course = Rehearsal(story, GateSettings(), options.every, int(story.at_ms_T[0])).run()
        yield from _figures(course, options.every)
        if options.plot and name == "flipped":
            draw(options.plot, course)


def _figures(course: Course, every: float) -> Iterator[report.Figure]:
    story, name = course.story, f"poison.{course.story.name}"
    values: dict[str, tuple[str, float]] = {
        "held_wrongly": ("1", course.false_holds()),
        "capped": ("1", course.capped / course.actions),
    }
    if story.poison_ms[1]:
        values["published_minutes"] = ("min", course.published_minutes())
        values["hold_ends_after"] = ("min", course.hold_minutes())
    if story.targets:
        values["targets_share"] = ("1", course.served_share(guarded=True))
        values["targets_share_unguarded"] = ("1", course.served_share(guarded=False))
    settings = {"actions": len(story), "versions": len(course.versions), "every_seconds": every}
    for what, (unit, value) in values.items():
        yield report.Figure.of(f"{name}.{what}", unit, [value], **settings)
    for part in ("judge", "gather"):
        seconds = [getattr(version, f"{part}_seconds") for version in course.versions]
        yield report.Figure.of(f"{name}.{part}_seconds", "s", seconds, **settings)


def draw(path: Path, course: Course) -> None:
    """What the gate measured of every version around the poison, which is shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first, last = course.story.poison_ms
    near = [v for v in course.versions if first - 3 * HOUR_MS < v.at_ms < last + 4 * HOUR_MS]
    hours = [(v.at_ms - first) / HOUR_MS for v in near]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True)
    lines = ((above, ("crowd", "taste")), (below, ("surprise", "edge")))
    for axes, names in lines:
        for name in names:
            axes.plot(hours, [v.metrics.get(f"gate.{name}", np.nan) for v in near], label=name)
        axes.axvspan(0, (last - first) / HOUR_MS, color="tab:red", alpha=0.15, label="poison")
        held = [v.held is not None for v in near]
        axes.fill_between(hours, 0, 0.04, where=held, transform=axes.get_xaxis_transform(),
                          color="black", label="held")  # fmt: skip
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.legend(loc="upper left", fontsize=8)
        axes.set_ylabel("nats")
    above.set_title("Loss on old trials: this version less the one published a quarantine ago")
    below.set_title("New events before they are learned: less what is usual")
    below.set_xlabel("hours since the flip began")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _precision(network: Network) -> dict[str, str]:
    matrices = [name for name, weight in network.state_dict().items() if weight.dim() == 2]
    return {name: "int8" for name in [*matrices, "slots/item"] if name != "actions.weight"}


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), check, measure))
