"""What the trainer thought before it learned is what a server answers from that very version.

The trainer works in blocks and batches of many users, the server on one user's history as it stood
at the request: the same function builds the model's input on both sides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.blocks import Block
from service.histories.local import Events, Histories, LocalHistories
from service.items import Item
from service.metrics import TrainerMetrics
from service.model.hstu import window_start
from service.model.ranker import CodesOf, Ranker, described
from service.settings import Settings
from trainer.build import Plan
from trainer.inspection import Inspection
from trainer.joining import Shown
from trainer.snapshots import snapshot_of
from trainer.state import State
from trainer.targets import TargetBatch, target_batch
from trainer.teaching import Scoring, Teacher

DAY_MS = 86_400_000
NOW_MS = 1_732_096_800_000
WINDOW = 16
# Logits of cosines / 0.05 in fp32: 20 * 2^-24 * 8 terms of rounding is 1e-5.
NOTHING = Histories(np.zeros(2, np.int64), *np.zeros((3, 0), np.int64), np.zeros(1, np.int64))
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As the trainer's main function sets it: so small a model on two threads waits for itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan_of(next_item_from: str = "query") -> Plan:
    """A small model; users pause for days, the time-to-live is never met within a block."""
    model = {"dim": 16, "layers": 2, "heads": 2, "qk_width": 8, "v_width": 8, "window": WINDOW}
    return Plan(
        Settings(
            {
                "model": model | {"next_item_from": next_item_from},
                "histories": {"capacity": 64, "ttl_seconds": 7.5 * 86_400},
                "store": {"item": {"init_scale": 0.5, "min_count": 3}},
                "trainer": {"row_budget": 64, "pool_window": 64, "pool_draws": 16},
            }
        )
    )


def alive(state: State) -> State:
    """Every dense weight random, so that each matters."""
    make = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in state.learner.network.parameters():
            parameter.normal_(0, 0.3, generator=make)
    return state


def blocks(count: int, size: int) -> list[Block]:
    """A block a day. Some users act all day, some pause for over a week; actions repeat."""
    make = np.random.default_rng(8)
    made = []
    for day in range(count):
        awake = [user for user in range(12) if user < 3 or (day + user) % (user + 1) < 2]
        user_T = make.choice(awake, size)
        late_T = np.where(make.random(size) < 0.1, 50_000, 0)
        at_ms_T = NOW_MS + day * DAY_MS + np.sort(make.integers(0, 3_000_000, size)) - late_T
        item_T = 500 + (make.random(size) ** 2 * 60).astype(np.int64)
        id_T = make.integers(0, 200, size)
        events = Events(user_T, item_T, make.integers(0, 5, size), at_ms_T, id_T)
        watermark_ms = int(at_ms_T.max())
        described = [
            Item(item=500 + int(item), categories=[f"c{c}" for c in make.integers(0, 9, day % 4)])
            for item in make.integers(0, 60, 12)
        ]
        made.append(
            Block(
                events, [None] * size, item_T.tolist(), [], [], {}, watermark_ms, size,
                described=described,
            )
        )  # fmt: skip
    return made


class Server:
    """Histories of a server that takes the stream event by event."""

    def __init__(self, plan: Plan) -> None:
        self.histories = LocalHistories(plan.histories)
        self.restarts = 0

    def follow(self, block: Block) -> list[Histories]:
        """Take the block; what each accepted event's user had just before it."""
        before = []
        for t in range(len(block.events)):
            one = block.events.where(np.arange(len(block.events)) == t)
            history = self.read(int(one.user_T[0]))
            accepted = self.histories.append(one, 0)
            if len(accepted.events):
                restarted = accepted.ordinal_T[0] == 0 and len(history.item_T) > 0
                self.restarts += restarted
                before.append(NOTHING if restarted else history)
        return before

    def read(self, user: int) -> Histories:
        return self.histories.read(np.array([user]), WINDOW + 1)


@pytest.mark.parametrize("next_item_from", ["query", "history"])
def test_a_server_scores_every_event_as_the_trainer_did(
    tmp_path: Path, next_item_from: str
) -> None:
    plan = plan_of(next_item_from)
    state, server = alive(plan.fresh_state()), Server(plan)
    teacher = Teacher(state, plan.types, plan.trainer, TrainerMetrics(), Inspection(tmp_path))
    compared: list[int] = []
    strange = 0

    def compare(scoring: Scoring) -> None:
        nonlocal strange
        strange += int((scoring.scored.item_E < 0).sum())
        now_ms, asked = scoring.now_ms, np.arange(len(scoring.truth_Q))
        rows = state.items.live_rows().numpy()
        trained = state.learner.scores(scoring.scored, asked, rows, now_ms)
        model = described(plan.model, plan.types, action_heads=True)
        ranker = Ranker(snapshot_of(state, 1, now_ms, model))
        events = scoring.accepted.events
        for q, t in enumerate(scoring.scored.batch.event_Q.tolist()):
            at_ms = int(events.at_ms_T[t])
            user_D = ranker.user(before[t], at_ms, codes_of(state))
            served = ranker.next_items(before[t], at_ms, user_D)
            torch.testing.assert_close(served[1:], trained[q], **CLOSE)
            compared.append(int(scoring.accepted.ordinal_T[t]))

    teacher.observers.append(compare)
    for block in blocks(count=20, size=60):
        before = server.follow(block)
        teacher.teach(block)
    assert state.counters["batches_skipped"] == 0
    assert strange > 10
    assert state.counters["duplicates"] > 50
    assert len(compared) == state.counters["positives_trained"] > 500
    assert len({window_start(ordinal - 1, WINDOW) for ordinal in compared}) > 10
    assert server.restarts >= 5
    assert compared.count(0) >= 12


def codes_of(state: State) -> CodesOf:
    """What the trainer knows of items, as a server may ask for it."""
    return lambda keys_N: state.learner.categories.codes(torch.from_numpy(keys_N))


def action_chances(state: State, batch: TargetBatch) -> Tensor:
    """Chance of each action on each shown item, as the trainer's step computes it."""
    network, items = state.learner.network, state.items
    keys = torch.cat([batch.seen.item_E, batch.item_R])
    events = len(batch.seen.item_E)
    window = batch.seen.window(torch.arange(events))
    item_R = torch.arange(events, events + len(batch.item_R))
    with torch.inference_mode():
        own = items.gather(items.lookup(keys))
        every = network.items(own, state.learner.categories.codes(keys))
        encoded = network.encode(window, every)
        return torch.sigmoid(network.action_logits(encoded, item_R, every, batch.targets))


def test_shown_items_are_learned_with_the_chances_that_a_server_gave_them(tmp_path: Path) -> None:
    plan = plan_of()
    state, server = alive(plan.fresh_state()), Server(plan)
    teacher = Teacher(state, plan.types, plan.trainer, TrainerMetrics(), Inspection(tmp_path))
    *earlier, last = blocks(count=15, size=60)
    for block in earlier:
        server.follow(block)
        teacher.teach(block)
    served: list[tuple[Shown, Histories]] = []
    for user in (*range(12), 999):
        history = server.read(user)
        shown = [501 + user, 502, 7, 502]
        saw = int(history.count_B[0])
        at_ms = last.watermark_ms - 3_000_000
        served.append((Shown(at_ms, user, shown, saw), history))
    restarts = server.restarts
    server.follow(last)  # later actions must not leak into what the scoring saw
    teacher.teach(last)
    assert server.restarts == restarts > 0

    model = described(plan.model, plan.types, action_heads=True)
    ranker = Ranker(snapshot_of(state, 1, NOW_MS + 15 * DAY_MS, model))
    usable = [
        (entry, history)
        for entry, history in served
        if target_batch([entry], state.histories, WINDOW, 5) is not None
    ]
    assert len(usable) > 8
    batch = target_batch([entry for entry, _ in usable], state.histories, WINDOW, 5)
    assert batch is not None
    trained = action_chances(state, batch).split([len(entry.items) for entry, _ in usable])
    for (entry, history), chances_RA in zip(usable, trained, strict=True):
        items, of = np.array(entry.items), codes_of(state)
        actions = ranker.rank(history, items, entry.at_ms, of).actions
        assert actions is not None
        columns: list[Any] = list(actions.values())
        torch.testing.assert_close(torch.stack(columns, 1), chances_RA, **CLOSE)
