"""A thousand logged requests, scored again by the trainer's own code at the version they name.

A real server answers over HTTP while a trainer publishes full-precision versions from the same
stream. Afterwards each version's checkpoint becomes a trainer's state again, and its network, item
table and popularity counts score what the log says was shown, for the history it says was seen.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from service.actions import Impression, key_of
from service.histories.local import LocalHistories
from service.model.calibration import Calibration
from service.settings import Settings
from service.versions import Checkpoint, Snapshot, VersionDirectory
from tests.serving.conftest import Site, running
from tests.trainer.workshop import START_MS, Told, Workshop, settings, told
from trainer.build import Plan
from trainer.examples import Batch, asking, ends_of
from trainer.folding import folded
from trainer.joining import Shown
from trainer.learner import Scored
from trainer.state import State
from trainer.targets import TargetBatch, target_batch

VERSIONS, REQUESTS = 20, 50
CANDIDATES = 12
CLOSE = {"rtol": 0.0, "atol": 1e-5}
ITEMS = [*(f"i{number}" for number in range(40)), "never seen"]
SECTIONS = settings(
    histories={"capacity": 512},
    intake={"max_late_seconds": 1e9},  # what the server logs arrives long after the story
    store={"item": {"ttl_seconds": 150}},
    trainer={"snapshot": "fp32", "dense_seconds": 0, "base_every": 6, "keep_versions": 100},
)


@dataclass(frozen=True)
class Answer:
    """What the server answered: its version, and by item the score, next item and chances."""

    version: int
    rows: list[dict[str, Any]]


def parts(story: Told) -> Iterator[dict[str, list[tuple[int, bytes]]]]:
    """The story in as many parts of event time as there are versions."""
    last_ms = max(at_ms for payloads in story.payloads.values() for at_ms, _ in payloads)
    edges = np.linspace(START_MS, last_ms + 1, VERSIONS + 1)
    for first, end in pairwise(edges):
        yield {
            topic: [one for one in payloads if first <= one[0] < end]
            for topic, payloads in story.payloads.items()
        }


def ask(site: Site, draw: np.random.Generator, at: float) -> Iterator[tuple[str, Answer]]:
    """Rank and recommend for known and unknown users."""
    for _ in range(REQUESTS):
        user = int(draw.integers(22))
        if draw.random() < 0.2:
            answer = site.client.recommend(user, CANDIDATES, at=at, exclude_seen=False)
        else:
            items = draw.choice(ITEMS, CANDIDATES, replace=False).tolist()
            answer = site.client.rank(user, items, at=at)
        yield answer["request_id"], Answer(answer["version"], answer["items"])


def logged(workshop: Workshop, requests: set[str]) -> list[Impression]:
    """What the stream says about these requests."""
    with closing(workshop.stream()) as stream:
        records = stream.read("impressions", 0, 0, 100_000)
    shown = [msgspec.json.decode(record.payload, type=Impression) for record in records]
    return [one for one in shown if one.request in requests]


def state_at(plan: Plan, versions: VersionDirectory, number: int) -> State:
    """What the trainer was when it cut a version, but for its histories."""
    manifest = versions.manifest(number)
    state = plan.fresh_state()
    chain = Checkpoint.chain(versions, manifest)
    state.load(folded(chain), [], manifest.block, manifest.counters)
    return state


@torch.inference_mode()
def replayed(
    state: State, histories: LocalHistories, entries: Sequence[Shown], at_ms: int
) -> tuple[Tensor, Tensor]:
    """Next-item scores [R] and action logits [R, A] of everything shown, by the trainer's code."""
    network, items = state.learner.network, state.items
    batch = target_batch(entries, histories, network.settings.window, network.actions.out_features)
    assert batch is not None
    assert len(batch.targets.offsets) - 1 == len(entries)  # every one can be scored again
    keys = batch.seen.item_E, batch.item_R
    rows_E, rows_R = map(items.lookup, keys)
    vectors = torch.cat([items.gather(rows_E), items.gather(rows_R)])
    encoded = network.encode(batch.seen.window(torch.arange(len(rows_E))), vectors)
    place_R = len(rows_E) + torch.arange(len(rows_R))
    logits_RA = network.action_logits(encoded, place_R, vectors, batch.targets)
    asked = next_item_questions(batch, len(entries))
    scored = Scored(asked, asked, rows_E, network.users(encoded, asked.queries))
    rows_S, place_R = rows_R.unique(return_inverse=True)
    every = np.arange(len(entries))
    scores_BS = state.learner.scores(scored, every, rows_S.numpy(), at_ms)
    entry_R = torch.arange(len(entries)).repeat_interleave(batch.targets.offsets.diff())
    return scores_BS[entry_R, place_R], logits_RA


def next_item_questions(batch: TargetBatch, entries: int) -> Batch:
    """One query row per entry, at the limit and time of its target rows."""
    first = batch.targets.offsets[:-1]
    queries = asking(
        ends_of(np.ones(entries, np.int64)), batch.targets.limit[first].numpy(),
        batch.targets.at_ms[first].numpy(),
    )  # fmt: skip
    nobody = torch.zeros(entries, dtype=torch.int64)
    return Batch(batch.seen, queries, nobody, nobody)


def compare(
    plan: Plan, answers: Sequence[Answer], next_R: Tensor, logits_RA: Tensor,
    calibration: Calibration | None,
) -> None:  # fmt: skip
    """Every number that was answered is the one that was computed again; `calibration`: that of the
    trainer's state, None without action heads."""
    rows = [row for answer in answers for row in answer.rows]
    score_R = plan.types.next_item_weight * next_R
    if calibration is not None:
        weights_A = torch.tensor([kind.weight for kind in plan.types.types.values()])
        score_R = score_R + logits_RA @ weights_A
        chances = torch.tensor(
            [[row["actions"][name] for name in plan.types.types] for row in rows]
        )
        torch.testing.assert_close(chances, calibration.chances(logits_RA), **CLOSE)
    else:
        assert {row["actions"] for row in rows} == {None}
    found = torch.tensor([row["next_item"] for row in rows])
    torch.testing.assert_close(found, next_R, **CLOSE)
    torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), score_R, **CLOSE)


def test_a_thousand_logged_requests_score_the_same_in_the_trainer(tmp_path: Path) -> None:
    workshop, draw = Workshop(tmp_path, SECTIONS), np.random.default_rng(5)
    answers: dict[str, Answer] = {}
    serving = {"intake": SECTIONS["intake"], "histories": SECTIONS["histories"]}
    with running(tmp_path, **serving) as site:
        for part in parts(told(VERSIONS * 60, seed=2)):
            with closing(workshop.stream()) as stream:
                for topic, payloads in part.items():
                    stream.append(topic, 0, [p for _, p in payloads], [ms for ms, _ in payloads])
            workshop.train()
            site.until_version(workshop.versions.numbers()[-1])
            answers |= ask(site, draw, max(ms for ms, _ in part["actions"]) / 1000 + 1)
    requests = logged(workshop, set(answers))
    assert len(requests) == len(answers) == VERSIONS * REQUESTS

    plan, histories = Plan(Settings(SECTIONS)), workshop.restored().teacher.state.histories
    by_version: dict[int, list[Impression]] = defaultdict(list)
    for one in requests:
        by_version[answers[one.request].version].append(one)
    assert len(by_version) == VERSIONS
    with_heads = 0
    for number, shown in by_version.items():
        snapshot = Snapshot.read(workshop.versions, number)
        entries = [
            Shown(round(one.at * 1000), key_of(one.user), list(map(key_of, one.items)), one.history)
            for one in shown
        ]
        state = state_at(plan, workshop.versions, number)
        next_R, logits_RA = replayed(state, histories, entries, snapshot.at_ms)
        heads = bool(snapshot.model["action_heads"])
        calibration = state.learner.calibrator.fitted() if heads else None
        compare(plan, [answers[one.request] for one in shown], next_R, logits_RA, calibration)
        with_heads += heads
    assert with_heads > 0
    assert any(len(workshop.versions.manifest(number).snapshot) > 1 for number in by_version)
