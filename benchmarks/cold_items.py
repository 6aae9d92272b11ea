"""Do categories help items that few have acted on? The same stream, learned with and without them.

Every event is scored before it is learned, against all items of the item file that the user has not
acted on: by how often its item had occurred before. `unseen`: among the items that nobody had acted
on, how far down the true one stands (0.5 is chance: without categories all are alike).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks import report
from service.actions import Action, key_of
from service.commands.action_rows import Columns
from service.commands.action_table import ActionTable, read_actions
from service.commands.item_table import ItemColumns, read_items
from service.items import Item
from service.settings import Settings
from service.streams import LocalStream
from service.versions import VersionDirectory
from trainer.build import build
from trainer.loop import Trainer
from trainer.places import Places
from trainer.seen import seen_mask
from trainer.teaching import Scoring

ACTION = "act"
BUCKETS = {"first": (0, 0), "2_to_5": (1, 4), "6_to_20": (5, 19), "later": (20, None)}
"""Occurrences of the true item before the event, by name of the figure."""
QUICK = 20_000
SCORED_EVERY = 4
"""One event of so many is scored."""
TOP = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options, columns = report.parser(__doc__), Columns()
    add = options.add_argument
    add("--data", type=Path, required=True, help="CSV (also .gz) of actions")
    add("--items", type=Path, required=True, help="CSV (also .gz) of items with categories")
    add("--categories-column", default="genres", help="of the item file, like a|b")
    add("--limit", type=int, metavar="N", help="only the first N rows of the file")
    add("--seeds", type=int, default=1, help="runs with as many seeds")
    add("--user-column", default=columns.user)
    add("--item-column", default=columns.item)
    add("--time-column", default=columns.time, help="seconds since the epoch")
    return options


@dataclass
class Answers:
    """What one run said of the scored events, one entry each."""

    before: list[int] = field(default_factory=list)
    reciprocal: list[float] = field(default_factory=list)
    hit: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)
    """Of events whose item nobody had acted on: its place among such items, 0 to 1."""


def check(options: argparse.Namespace) -> None:
    """Ranks by hand: ties count half."""
    scores = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5])
    if _rank(scores, 2, torch.ones(5).bool()) != 3.0:
        raise report.CheckFailed("a tie of three behind one better does not have rank 3")


def measure(options: argparse.Namespace) -> Iterator[report.Figure]:
    """Two runs per seed; figures of both, by bucket."""
    columns = Columns(options.user_column, options.item_column, options.time_column)
    table = read_actions(options.data, columns, QUICK if options.quick else options.limit)
    names = ItemColumns(options.item_column, options.categories_column)
    items = read_items(options.items, names, float(table.at_T[0])).items
    for way, told in (("with", items), ("without", [])):
        runs = []
        for seed in range(options.seeds):
            runs.append(run(table, [one.item for one in items], told, seed))
            report.progress(f"{way} categories, seed {seed}: {len(runs[-1].before)} events scored")
        settings = {
            "data": options.data.name, "events": len(table), "items": len(items),
            "scored": len(runs[0].before),
        }  # fmt: skip
        yield from _figures(way, runs, settings)


def run(table: ActionTable, ids: list[Any], told: list[Item], seed: int) -> Answers:
    """Learn the table, with what is known of items before it; ids: the candidates."""
    torch.set_num_threads(1)
    answers = Answers()
    with tempfile.TemporaryDirectory() as name, closing(LocalStream(Path(name) / "s")) as stream:
        _append(stream, table, told)
        settings = Settings(
            {
                "actions": {"types": {ACTION: {}}},
                "gate": {"user_share": 1.0},
                "histories": {"ttl_seconds": None},
                "intake": {"topics": ["actions", "items"], "max_late_seconds": 1e9},
                "trainer": {
                    "seed": seed, "publish_clock": "event", "publish_seconds": 1e9,
                    "evaluate_rows": 0, "row_budget": 1_000_000,
                },
            }
        )  # fmt: skip
        trainer = build(settings, stream, VersionDirectory(Path(name) / "v"), Path(name) / "skip")
        trainer.teacher.observers.append(_Watch(trainer, ids, answers))
        with closing(trainer.publisher):
            trainer.run(threading.Event(), lambda: True)
    return answers


class _Watch:
    """Scores some events of every batch, and counts items as they are learned."""

    def __init__(self, trainer: Trainer, ids: list[Any], answers: Answers) -> None:
        self._trainer, self._answers = trainer, answers
        self._keys_C = torch.tensor(sorted(key_of(one) for one in set(ids)))
        self._before_C = torch.zeros(len(self._keys_C), dtype=torch.int64)

    def __call__(self, scoring: Scoring) -> None:
        scored = scoring.scored
        truth_Q = torch.searchsorted(self._keys_C, scored.batch.truth_Q)
        truth_Q = truth_Q.clamp(max=len(self._keys_C) - 1)
        known_Q = self._keys_C[truth_Q] == scored.batch.truth_Q
        # By their place in the stream: both ways score the same events.
        place_Q = scored.batch.event_Q + self._trainer.teacher.state.counters["actions"]
        asked_N = ((place_Q % SCORED_EVERY == 0) & known_Q).nonzero().squeeze(1)
        if len(asked_N):
            scores_NC = self._scores(scoring, asked_N)
            for scores_C, truth in zip(scores_NC, truth_Q[asked_N].tolist(), strict=True):
                self._note(scores_C, truth)
        self._before_C.index_add_(0, truth_Q[known_Q], torch.ones(int(known_Q.sum())).long())

    @torch.no_grad()
    def _scores(self, scoring: Scoring, asked_N: torch.Tensor) -> torch.Tensor:
        """Next-item logits of every item; those in the history minus infinity."""
        learner, scored = self._trainer.teacher.state.learner, scoring.scored
        places = Places.of(self._keys_C, learner.items, learner.categories)
        # Items are admitted before they are learned; here they are what they were before that.
        place_C = torch.where((self._before_C == 0) & (places.place_N > 0), 0, places.place_N)
        codes_CK = learner.categories.codes(self._keys_C)
        network, row_C = learner.network, place_C.clamp(min=0)
        vectors_CD = network.items(learner.items.gather(row_C), codes_CK)
        prior_C = network.item_prior(learner.popularity.counts(row_C, scoring.now_ms))
        logits_NC = network.next_item(scored.users_QD[asked_N], vectors_CD) + prior_C
        rows_S, column_C = places.place_N.unique(return_inverse=True)
        seen_NS = seen_mask(scored.here, scored.item_E, rows_S, asked_N)
        return logits_NC.masked_fill(seen_NS[:, column_C] > 0, -torch.inf)

    def _note(self, scores_C: torch.Tensor, truth: int) -> None:
        answers, before_C = self._answers, self._before_C
        if not bool(scores_C[truth].isfinite()):
            return  # acted on again
        rank = _rank(scores_C, truth, torch.ones(len(scores_C), dtype=torch.bool))
        answers.before.append(int(before_C[truth]))
        answers.reciprocal.append(1 / rank)
        answers.hit.append(float(rank <= TOP))
        if before_C[truth] == 0 and int((before_C == 0).sum()) > 1:
            unseen = int((before_C == 0).sum())
            answers.unseen.append((_rank(scores_C, truth, before_C == 0) - 1) / (unseen - 1))


def _rank(scores_C: torch.Tensor, truth: int, among_C: torch.Tensor) -> float:
    """Place of the true item from 1 on; those that tie with it count half."""
    better = int(((scores_C > scores_C[truth]) & among_C).sum())
    alike = int(((scores_C == scores_C[truth]) & among_C).sum()) - 1
    return 1 + better + alike / 2


def _figures(way: str, runs: list[Answers], settings: dict[str, Any]) -> Iterator[report.Figure]:
    def figure(name: str, values: list[float], events: int) -> report.Figure:
        return report.Figure.of(
            f"cold_items.{way}.{name}", "1", values, scored_events=events, **settings
        )

    for bucket, (least, most) in {**BUCKETS, "all": (0, None)}.items():
        parts = []
        for one in runs:
            before = np.array(one.before)
            inside = (before >= least) & (before <= (most if most is not None else before.max()))
            parts.append((np.array(one.reciprocal)[inside], np.array(one.hit)[inside]))
        if all(len(reciprocal) for reciprocal, _ in parts):
            count = len(parts[0][0])
            yield figure(f"{bucket}.mrr", [float(r.mean()) for r, _ in parts], count)
            yield figure(f"{bucket}.hr_at_10", [float(h.mean()) for _, h in parts], count)
    yield figure("unseen.place", [float(np.mean(one.unseen)) for one in runs], len(runs[0].unseen))


def _append(stream: LocalStream, table: ActionTable, told: list[Item]) -> None:
    encode = msgspec.json.Encoder().encode
    at_ms = table.append_ms(0, len(table))
    if told:
        stream.append("items", 0, [encode(one) for one in told], at_ms[0])
    rows = zip(table.user_T.tolist(), table.item_T.tolist(), table.at_T.tolist(), strict=True)
    payloads = [
        encode(Action(user=table.users[user], item=table.items[item], action=ACTION, at=at))
        for user, item, at in rows
    ]
    stream.append("actions", 0, payloads, at_ms)


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), check, measure))
