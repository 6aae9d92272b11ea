"""What int8 does to the loss: a server's log loss of next items, quantized and in full precision.

The product learns the first events of a file; then the next events' users are asked for their next
item among all items, by a `Ranker` on the same state's snapshot in either precision. The seed noise
is how far the full-precision losses of equal runs with other seeds lie apart.
"""

import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.protocol.events import Events, read_events
from benchmarks.report import CheckFailed, Figure, progress
from service.actions import Action
from service.commands.action_rows import Columns
from service.commands.feed import World as Feed
from service.model.ranker import Ranker, described
from service.settings import Settings
from service.streams import LocalStream
from service.versions import VersionDirectory
from trainer.build import build
from trainer.loop import Trainer
from trainer.snapshots import precisions, snapshot_of
from trainer.state import State

FEED = "simulated feed"
FEED_SECONDS = 0.1
"""Event time between two actions of the simulated feed."""
SECTIONS: dict[str, Any] = {
    "actions": {"types": {"click": {}}},
    "intake": {"topics": ["actions"], "max_late_seconds": 1e9},
    "model": {"window": 52},
    "histories": {"capacity": 128, "ttl_seconds": None},
    "trainer": {"publish_clock": "event", "publish_seconds": 1e9, "evaluate_rows": 0},
}


@dataclass(frozen=True)
class Losses:
    """Mean log loss in nats over the same events."""

    full: float
    quantized: float

    @property
    def change(self) -> float:
        """How much int8 adds."""
        return self.quantized - self.full


def int8_loss(data: Path | None, learned: int, asked: int, seeds: int) -> Iterator[Figure]:
    """The change, one run per seed. data: a file of actions; the simulated feed if None."""
    events = events_of(data, learned + 4 * asked)
    found = [_run(events, learned, asked, seed) for seed in range(seeds)]
    noise = statistics.stdev(one.full for one in found) if seeds > 1 else 0.0
    yield Figure.of(
        "versions.int8_loss_change", "nats", [one.change for one in found],
        data=FEED if data is None else data.name, learned=learned, asked=asked,
        loss=round(statistics.mean(one.full for one in found), 4), seed_noise=round(noise, 5),
    )  # fmt: skip


def events_of(data: Path | None, count: int) -> Events:
    if data is not None:
        return read_events(data, Columns()).first(count)
    users, items = zip(*Feed().draw(count), strict=True)
    at_ms_T = (1_732_096_800_000 + 1000 * FEED_SECONDS * np.arange(count)).astype(np.int64)
    numbered = (np.unique(column, return_inverse=True)[1] for column in (users, items))
    return Events.of(*numbered, at_ms_T)


def _run(events: Events, learned: int, asked: int, seed: int) -> Losses:
    sections = {**SECTIONS, "trainer": {**SECTIONS["trainer"], "seed": seed}}
    with tempfile.TemporaryDirectory() as name, closing(LocalStream(Path(name) / "s")) as stream:
        append(stream, events.first(learned))
        trainer = build(
            Settings(sections), stream, VersionDirectory(Path(name) / "v"), Path(name) / "skipped"
        )
        with closing(trainer.publisher):
            trainer.run(threading.Event(), lambda: True)
        losses = _losses(trainer, events, questions_of(trainer, events, learned, asked))
    progress(f"seed {seed}: loss {losses.full:.4f}, int8 {losses.change:+.5f}")
    return losses


def questions_of(trainer: Trainer, events: Events, learned: int, asked: int) -> list[int]:
    """The next events of users whose history ends with what was learned, of items with a row."""
    items = set(trainer.teacher.state.items.live_keys().tolist())
    chosen = [
        event
        for event in range(learned, len(events))
        if events.previous_T[event] < learned and int(events.item_T[event]) in items
    ][:asked]
    if len(chosen) < asked:
        raise CheckFailed(f"only {len(chosen)} of {asked} events after the first {learned} can ask")
    return chosen


def _losses(trainer: Trainer, events: Events, asked: list[int]) -> Losses:
    """Both rankers' losses on the same questions."""
    state, watermark_ms = trainer.teacher.state, trainer.position.watermark_ms
    model = described(state.learner.network.settings, trainer.teacher.types, action_heads=False)
    full = snapshot_of(state, 1, watermark_ms, model)
    quantized = full.quantized(precisions(full.weights(), "int8"))
    rankers = [Ranker(one) for one in (full, quantized)]
    loss_NM = np.array([[loss_of(ranker, state, events, e) for ranker in rankers] for e in asked])
    return Losses(*loss_NM.mean(0).tolist())


def loss_of(ranker: Ranker, state: State, events: Events, event: int) -> float:
    """Of one event's item among all items, after what its user had."""
    capacity = state.histories.settings.capacity
    history = state.histories.read(events.user_T[event : event + 1], capacity)
    logits_R = ranker.next_items(history, int(events.at_ms_T[event]))[1:]  # 0 is no item
    (row,) = ranker.rows(events.item_T[event : event + 1]).tolist()
    return float(logits_R.logsumexp(0) - logits_R[row - 1])


def append(stream: LocalStream, events: Events) -> None:
    encode = msgspec.json.Encoder().encode
    columns = (events.user_T.tolist(), events.item_T.tolist(), events.at_ms_T.tolist())
    actions = [
        encode(Action(user=user, item=item, action="click", at=at_ms / 1000))
        for user, item, at_ms in zip(*columns, strict=True)
    ]
    stream.append("actions", 0, actions, events.at_ms_T.tolist())
