"""A small, fast Freshet to train: a seeded stream, tiny settings, and a digest of what came out."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.actions import Action, Impression
from service.histories.local import LocalHistories
from service.histories.segments import segments_of
from service.items import Item
from service.settings import Settings
from service.streams import Stream, open_stream
from service.versions import Checkpoint, VersionDirectory
from trainer.build import build
from trainer.loop import Trainer
from trainer.state import State
from trainer.teaching import Scoring

START_MS = 1_732_096_800_000

TINY: dict[str, dict[str, Any]] = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "qk_width": 8, "v_width": 8, "window": 16,
              "categories": 9},
    "histories": {"capacity": 64},
    "trainer": {
        "block_records": 64, "publish_clock": "event", "publish_seconds": 60, "row_budget": 256,
        "pool_window": 256, "pool_draws": 32, "evaluate_rows": 4, "join_seconds": 20,
        "keep_versions": 3,
    },
}  # fmt: skip


def settings(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tiny settings with some sections' keys changed."""
    return {name: TINY.get(name, {}) | changes.get(name, {}) for name in TINY | changes}


@dataclass
class Told:
    """What a stream was told, for the trainer's counters to be held against."""

    records: int = 0
    actions: int = 0
    positives: int = 0
    duplicates: int = 0
    impressions: int = 0
    described: int = 0
    rejected: int = 0
    payloads: dict[str, list[tuple[int, bytes]]] = field(
        default_factory=lambda: {"actions": [], "impressions": [], "items": []}
    )
    """(event time in ms, payload) by topic, in order."""

    def append(self, topic: str, at_ms: int, payload: bytes) -> None:
        self.payloads[topic].append((at_ms, payload))
        self.records += 1

    def to_stream(self, stream: Stream, first: int = 0, last: int | None = None) -> None:
        """Append payloads number `first` up to `last` of each topic, at their event times."""
        for topic, payloads in self.payloads.items():
            part = payloads[first:last]
            stream.append(topic, 0, [p for _, p in part], [at_ms for at_ms, _ in part])


def told(
    actions: int, seed: int = 0, users: int = 20, items: int = 40, described: bool = False
) -> Told:
    """A stream with everything in it: repeats, hides, impressions, malformed and late records;
    `described`: and items whose categories change, of more kinds than the model has."""
    draw, story, at_ms = np.random.default_rng(seed), Told(), START_MS
    seen: dict[int, list[str]] = {}
    for number in range(actions):
        at_ms += int(draw.integers(100, 900))
        user, item = int(draw.integers(users)), f"i{int(draw.integers(items))}"
        request = None
        if number % 7 == 0:
            request = f"r{number}"
            shown = Impression(
                request=request, user=user, at=(at_ms - 50) / 1000,
                items=[item, *(f"i{i}" for i in draw.integers(0, items, 3).tolist())],
            )  # fmt: skip
            story.append("impressions", at_ms - 50, msgspec.json.encode(shown))
            story.impressions += 1
        kind = "hide" if draw.random() < 0.2 else "click"
        again = number % 11 == 10 and bool(seen.get(user))
        name = seen[user][-1] if again else f"a{number}"
        seen.setdefault(user, []).append(name)
        action = Action(
            user=user, item=item, action=kind, at=at_ms / 1000, id=name, request=request
        )
        story.append("actions", at_ms, msgspec.json.encode(action))
        story.actions += 1
        story.duplicates += again
        story.positives += kind == "click" and not again
        if number % 97 == 50:
            story.append("actions", at_ms, b'{"user": 1, "item"')
            story.rejected += 1
        if described and number % 5 == 0:
            story.append("items", at_ms, msgspec.json.encode(_described(draw, items)))
            story.described += 1
    return story


def _described(draw: np.random.Generator, items: int) -> Item:
    """One item, of those that are acted on or not, as it is now; sometimes it is not any more."""
    of_item = draw.integers(0, 12, int(draw.integers(0, 4))).tolist()
    return Item(
        item=f"i{int(draw.integers(items + 10))}", categories=[f"c{c}" for c in of_item],
        deleted=bool(draw.random() < 0.1),
    )  # fmt: skip


class Crash(Exception):
    """Stands for the death of the process: nothing after it is published."""


@dataclass
class Workshop:
    """One data directory and as many trainers, one after another, as a test wants."""

    root: Path
    sections: dict[str, dict[str, Any]] = field(default_factory=settings)

    @property
    def versions(self) -> VersionDirectory:
        return VersionDirectory(self.root / "versions")

    def stream(self) -> Stream:
        return open_stream(Settings(self.sections), self.root)

    def tell(self, story: Told) -> None:
        with closing(self.stream()) as stream:
            story.to_stream(stream)

    def build(self, stream: Stream) -> Trainer:
        return build(Settings(self.sections), stream, self.versions, self.root / "skipped")

    @contextmanager
    def training(self) -> Iterator[Trainer]:
        """A trainer to run; afterwards everything is closed, as its main function closes it."""
        with closing(self.stream()) as stream:
            trainer = self.build(stream)
            with closing(trainer.publisher):
                yield trainer

    def train(self, stop_after: int | None = None, crash_after: int | None = None) -> Trainer:
        """Train to the end of the stream, or until so many more blocks are begun."""
        with self.training() as trainer:
            stop, first = threading.Event(), trainer.teacher.state.block

            def watch(_: Scoring) -> None:
                begun = trainer.teacher.state.block - first
                if begun == crash_after:
                    raise Crash
                if begun == stop_after:
                    stop.set()

            trainer.teacher.observers.append(watch)
            trainer.run(stop, lambda: True)
            return trainer

    def restored(self) -> Trainer:
        """What the newest version holds."""
        with self.training() as trainer:
            return trainer

    def users(self) -> list[int]:
        """Every user that the newest version has events of."""
        manifest = self.versions.manifest(self.versions.numbers()[-1])
        keys = [part.events.user_T for part in segments_of(self.versions, manifest)]
        return sorted(set(np.concatenate(keys).tolist()))

    def digest(self, trainer: Trainer | None = None) -> str:
        """SHA-256 over the state of a trainer, by default that of the newest version."""
        trainer = trainer or self.restored()
        return digest(trainer.teacher.state, self.users(), trainer.position.watermark_ms)

    def gate(self) -> dict[str, bytes]:
        """What the gate remembers in the newest version, by tensor."""
        manifest = self.versions.manifest(self.versions.numbers()[-1])
        tensors = Checkpoint.chain(self.versions, manifest)[-1].tensors
        gate = {name: t for name, t in tensors.items() if name.startswith("gate/")}
        return {name: t.contiguous().numpy().tobytes() for name, t in gate.items()}


def digest(state: State, users: list[int], watermark_ms: int) -> str:
    """SHA-256 over key-sorted live state: every tensor, counter, open impression and live history.

    A user whose time is over is gone, whether or not the sweep has been there.
    """
    sha = hashlib.sha256(repr((state.block, sorted(state.counters.items()))).encode())
    for name, tensor in sorted(state.tensors().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    sha.update(repr(state.joiner.waiting.contents()).encode())
    for columns in _live(state.histories, users, watermark_ms):
        sha.update(columns.tobytes())
    return sha.hexdigest()


def _live(
    histories: LocalHistories, users: list[int], watermark_ms: int
) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    for user in users:
        h = histories.read(np.array([user]), histories.settings.capacity)
        last_ms = int(h.at_ms_T.max(initial=-(2**62)))
        if watermark_ms - last_ms <= histories.settings.ttl_ms:
            yield np.concatenate([[user], h.count_B, h.item_T, h.action_T, h.at_ms_T])
