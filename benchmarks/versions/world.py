"""A Freshet with a full item table, and clicks that touch one hundredth of it.

The rows are made through the store's own `admit` and `update`; everything after them is the real
trainer on a real stream, so that real processes can go on from the folder.
"""

import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import CheckFailed, progress
from benchmarks.visits import append
from service.actions import Action, key_of
from service.commands.folder import DataFolder
from service.commands.settings_file import overlay, write_settings
from service.settings import Settings
from service.streams import LocalStream
from service.versions import Manifest, VersionDirectory
from trainer.__main__ import SWITCH_SECONDS
from trainer.build import build
from trainer.loop import Trainer
from trainer.state import State

DIM = 64
TOUCHED = 100
"""One row in so many is touched between two versions."""
USERS = 2_000
CHUNK = 100_000
START = 1_732_096_800.0
NEVER = 1e12
"""Seconds."""
ROUND_SECONDS, SPREAD_SECONDS, PUBLISH_SECONDS = 100.0, 50.0, 60.0
"""Event time: of a round of clicks, of all its clicks but the last, and between two versions. So
that the last click of a round, and it alone, makes the next version due."""

SECTIONS: dict[str, Any] = {
    "model": {"dim": DIM, "layers": 2, "window": 256},
    "actions": {"types": {"click": {"positive": True, "weight": 1.0}}},
    "intake": {"topics": ["actions"]},
    "histories": {"ttl_seconds": None},
    "trainer": {
        "publish_clock": "event", "publish_seconds": PUBLISH_SECONDS, "block_ms": 100,
        "keep_versions": 100,
    },
}  # fmt: skip


@dataclass
class World:
    """A data folder whose newest version holds `rows` item rows."""

    folder: DataFolder
    rows: int
    sections: dict[str, Any]
    rounds: int = 0
    _rng: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def versions(self) -> VersionDirectory:
        """Its versions."""
        return VersionDirectory(self.folder.root / "versions")

    @property
    def number(self) -> int:
        """The newest version's number."""
        return self.versions.numbers()[-1]

    @property
    def newest(self) -> Manifest:
        """The manifest of the newest version."""
        return self.versions.manifest(self.number)

    @property
    def touched(self) -> list[str]:
        """The items that all clicks go to."""
        return [_name(number) for number in range(0, self.rows, TOUCHED)]

    def click(self, count: int | None = None) -> None:
        """Append a round: one click on each touched item, or `count` on some; the last one makes a
        version due."""
        items = self.touched
        self._rng.shuffle(items)
        items = items * (1 + (count or 0) // len(items))
        items = items[: count or self.rows // TOUCHED]
        first = START + self.rounds * ROUND_SECONDS
        at = [first + SPREAD_SECONDS * n / len(items) for n in range(len(items))]
        at[-1] = first + ROUND_SECONDS - 1
        self.rounds += 1
        with closing(LocalStream(self.folder.stream)) as stream:
            append(stream, [self._click(*one) for one in zip(items, at, strict=True)])

    def _click(self, item: str, at: float) -> Action:
        return Action(user=f"user-{self._rng.randrange(USERS)}", item=item, action="click", at=at)

    @contextmanager
    def training(self, **trainer: Any) -> Iterator[Trainer]:
        """A trainer in this process, set up as `python -m trainer` does, with some keys of section
        [trainer] changed."""
        sys.setswitchinterval(SWITCH_SECONDS)
        torch.set_num_threads(1)
        sections = overlay(self.sections, {"trainer": trainer})
        with closing(LocalStream(self.folder.stream)) as stream:
            made = build(Settings(sections), stream, self.versions, self.folder.root / "skipped")
            with closing(made.publisher):
                yield made

    def train(self, **trainer: Any) -> None:
        """Learn what was clicked, in this process, and publish it."""
        with self.training(**trainer) as made:
            made.run(threading.Event(), lambda: True)


@contextmanager
def made(rows: int, **sections: Any) -> Iterator[World]:
    """A temporary folder: `rows` rows, one round of clicks, and version 1, a base."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as root:
        folder = DataFolder(Path(root))
        world = World(folder, rows, overlay(SECTIONS, sections))
        write_settings(folder.settings, world.sections)
        progress(f"making {rows:,} rows")
        world.click()
        with world.training(publish_seconds=NEVER) as trainer:
            _fill(trainer.teacher.state, rows)
            trainer.run(threading.Event(), lambda: True)
        if len(world.newest.snapshot) != 1 or len(trainer.teacher.state.items) != rows:
            raise CheckFailed(f"version 1 is no base of {rows} rows: {world.newest.snapshot}")
        yield world


def _fill(state: State, rows: int) -> None:
    """Ids, vectors that were learned once, optimizer state and counts of every row."""
    make = torch.Generator().manual_seed(0)
    at_ms = round(START * 1000)
    for first in range(0, rows, CHUNK):
        names = [_name(number) for number in range(first, min(first + CHUNK, rows))]
        keys_N = torch.tensor([key_of(name) for name in names])
        rows_N = state.items.admit(keys_N, torch.full((len(names),), at_ms)).rows_N
        state.ids.put(keys_N, names)
        state.items.update(rows_N, torch.randn(len(names), DIM, generator=make))
        state.learner.popularity.add(np.asarray(rows_N), at_ms)


def _name(number: int) -> str:
    return f"item-{number}"
