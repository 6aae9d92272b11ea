"""The model's side of the prequential benchmark: the product's own path, watched as it learns.

Events are appended to a LocalStream; a trainer reads them, learns them and publishes versions. The
`online` method answers with the weights of the moment, just before they learn the event. Every
other method answers as a server would that loads a version only every so often: by a `Ranker` on
a quantized snapshot, its history always fresh.

Shapes: T events of the stream, B sampled events of a block, C candidates, R rows of a snapshot.
"""

import math
import os
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from rich.progress import Progress

from benchmarks.protocol.evaluation import Evaluation, Questions
from benchmarks.protocol.events import Events, Ints
from service.actions import Action
from service.histories.local import Histories
from service.model.ranker import Ranker, described
from service.settings import Settings
from service.streams import LocalStream
from service.versions import Snapshot, VersionDirectory
from trainer.build import build
from trainer.loop import Trainer
from trainer.snapshots import precisions, snapshot_of
from trainer.teaching import Scoring

REFRESH_SECONDS = {"online_10min": 600, "online_1h": 3_600, "online_5h": 18_000}
FROZEN = "frozen"
METHODS = ("online", *REFRESH_SECONDS, FROZEN)
ACTION = "click"
APPEND = 10_000

Floats = npt.NDArray[np.float32]
Sections = dict[str, Any]

SETTINGS: Sections = {
    "actions": {"types": {ACTION: {}}},
    "gate": {"user_share": 1.0},  # every positive is learned, however many of them are one user's
    "intake": {"topics": ["actions"], "max_late_seconds": 1e9},
    "model": {"window": 52},
    "histories": {"capacity": 128, "ttl_seconds": None},
    "trainer": {
        "publish_clock": "event",
        "publish_seconds": 3_600,
        "evaluate_rows": 0,
        "threads": len(os.sched_getaffinity(0)),
        # One batch per block: all of it is scored before any of it is learned.
        "row_budget": 1_000_000,
    },
}


@dataclass
class Served:
    """A server that takes a new version only at the first block boundary after its time."""

    method: str
    next_ms: float
    every_ms: float
    ranker: Ranker | None = None


@dataclass(frozen=True)
class Outcome:
    """How the run went: figures about speed, and the settings that it ran with."""

    actions_per_second: float
    cpu_seconds_per_action: float
    versions: int
    settings: dict[str, object] = field(default_factory=dict)


def run_model(
    events: Events, evaluation: Evaluation, methods: list[str], settings: Sections
) -> Outcome:
    """Let the product learn the stream and answer the evaluation's questions, `methods` of METHODS.

    settings: sections laid over SETTINGS. The time spent on answering is not counted in the speed.
    """
    torch.set_num_threads(1)
    merged = _merged(SETTINGS, settings)
    with tempfile.TemporaryDirectory() as name, closing(LocalStream(Path(name) / "s")) as stream:
        versions = VersionDirectory(Path(name) / "versions")
        _append(stream, events)
        trainer = build(Settings(merged), stream, versions, Path(name) / "skipped")
        watcher = _Watcher(trainer, events, evaluation, methods)
        with Progress(disable=not sys.stderr.isatty()) as progress, closing(trainer.publisher):
            watcher.task = (progress, progress.add_task("learning", total=len(events)))
            began, cpu = time.perf_counter(), time.process_time()
            trainer.run(threading.Event(), lambda: True)
            seconds = time.perf_counter() - began - watcher.seconds
            cpu = time.process_time() - cpu - watcher.cpu_seconds
        trained = trainer.teacher.state.counters["positives_trained"]
        if trained != len(events):
            raise AssertionError(f"{trained} of {len(events)} events were trained")
        numbers = versions.numbers()
        Ranker(Snapshot.read(versions, numbers[-1])).warm()
        return Outcome(len(events) / seconds, cpu / len(events), numbers[-1], merged)


class _Watcher:
    """Answers the questions of each block as its batches pass by."""

    def __init__(
        self, trainer: Trainer, events: Events, evaluation: Evaluation, methods: list[str]
    ) -> None:
        self._trainer, self._events, self._evaluation = trainer, events, evaluation
        first_ms = int(events.at_ms_T[0])
        self._served = [
            Served(name, first_ms + every * 1000, every * 1000)
            for name, every in REFRESH_SECONDS.items()
            if name in methods
        ]
        if FROZEN in methods:
            half_ms = int(events.at_ms_T[len(events) // 2])
            self._served.append(Served(FROZEN, half_ms, math.inf))
        self._ordinal_T = _ordinals(events.previous_T)
        self._first = -1
        self._questions: Questions | None = None
        self._scores = np.zeros((0, 0), np.float32)
        self.seconds = self.cpu_seconds = 0.0
        self.task: tuple[Progress, object] | None = None
        trainer.teacher.observers.append(self._watch)

    def _watch(self, scoring: Scoring) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        first = self._trainer.teacher.state.counters["actions"]
        if first != self._first:
            self._open(first, len(scoring.accepted.events), scoring.now_ms)
        questions = self._questions
        assert questions is not None
        if len(questions):
            self._answer_online(questions, scoring)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu

    def _open(self, first: int, size: int, now_ms: int) -> None:
        """A new block: refresh who is due, ask the served methods, prepare the online answer."""
        self._first, questions = first, self._evaluation.questions(first, first + size)
        self._questions = questions
        self._scores = np.zeros((len(questions), len(questions.candidates_C)), np.float32)
        self._waiting = len(questions)
        due = [served for served in self._served if now_ms >= served.next_ms]
        if due:
            ranker = self._load()
            for served in due:
                served.ranker = ranker
                passed = (now_ms - served.next_ms) // served.every_ms
                served.next_ms += served.every_ms * (1 + passed)
        for served in self._served if len(questions) else ():
            if served.ranker is not None:
                answer = self._answer(served.ranker, questions)
                self._evaluation.record(served.method, questions, answer)
        if self.task:
            progress, task = self.task
            progress.update(task, completed=first)

    def _load(self) -> Ranker:
        """What a server would load now: the snapshot of the state, quantized as it is published."""
        state = self._trainer.teacher.state
        settings = state.learner.network.settings
        model = described(settings, self._trainer.teacher.types, action_heads=False)
        watermark_ms = self._trainer.position.watermark_ms
        full = snapshot_of(state, state.block, watermark_ms, model)
        return Ranker(full.quantized(precisions(full.weights(), "int8")))

    def _answer_online(self, questions: Questions, scoring: Scoring) -> None:
        """Scores of this batch's sampled events; a block may have several batches."""
        learner = self._trainer.teacher.state.learner
        position_Q = self._first + scoring.scored.batch.event_Q.numpy()
        order = np.argsort(position_Q)
        place_B = np.minimum(
            np.searchsorted(position_Q, questions.events_B, sorter=order), len(order) - 1
        )
        here_B = position_Q[order[place_B]] == questions.events_B
        if here_B.any():
            rows_C = learner.items.lookup(torch.from_numpy(questions.candidates_C)).numpy()
            rows_S, column_C = np.unique(rows_C, return_inverse=True)
            asked_N = order[place_B[here_B]]
            scores_NS = learner.scores(scoring.scored, asked_N, rows_S, scoring.now_ms)
            self._scores[here_B] = scores_NS.numpy()[:, column_C]
            self._waiting -= len(asked_N)
        if not self._waiting:
            self._evaluation.record("online", questions, self._scores)
            # Before its first version a method is the online one: "frozen" is, until half.
            for served in self._served:
                if served.ranker is None:
                    self._evaluation.record(served.method, questions, self._scores)

    def _answer(self, ranker: Ranker, questions: Questions) -> Floats:
        rows_C = ranker.rows(questions.candidates_C)
        answers = [
            ranker.next_items(self._history(event), int(self._events.at_ms_T[event]))[rows_C]
            for event in questions.events_B
        ]
        scores: Floats = torch.stack(answers).numpy()
        return scores

    def _history(self, event: int) -> Histories:
        """The last events of the user before an event of the stream."""
        most = self._trainer.teacher.state.learner.network.settings.window + 1
        events_E = _chain(self._events.previous_T, event, most)
        return Histories(
            np.array([0, len(events_E)]), self._events.item_T[events_E],
            np.zeros(len(events_E), np.int64), self._events.at_ms_T[events_E],
            self._ordinal_T[event : event + 1],
        )  # fmt: skip


def _append(stream: LocalStream, events: Events) -> None:
    encode = msgspec.json.Encoder().encode
    for start in range(0, len(events), APPEND):
        part = slice(start, start + APPEND)
        columns = (events.user_T[part], events.item_T[part], events.at_ms_T[part])
        payloads = [
            encode(Action(user=user, item=item, action=ACTION, at=at_ms / 1000))
            for user, item, at_ms in zip(*(c.tolist() for c in columns), strict=True)
        ]
        stream.append("actions", 0, payloads, events.at_ms_T[part].tolist())


def _merged(below: Sections, above: Sections) -> Sections:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


@njit(cache=True)
def _ordinals(previous_T: Ints) -> Ints:
    """How many events each event's user had before it."""
    ordinal_T = np.zeros(len(previous_T), np.int64)
    for event in range(len(previous_T)):
        if previous_T[event] >= 0:
            ordinal_T[event] = ordinal_T[previous_T[event]] + 1
    return ordinal_T


@njit(cache=True)
def _chain(previous_T: Ints, event: int, most: int) -> Ints:
    """The last `most` events of the same user before an event, oldest first."""
    found = np.empty(most, np.int64)
    length = 0
    earlier = previous_T[event]
    while earlier >= 0 and length < most:
        found[length] = earlier
        length += 1
        earlier = previous_T[earlier]
    return found[:length][::-1].copy()
