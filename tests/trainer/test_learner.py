"""One step: what it moves, and that nothing moves when anything is not finite."""

import numpy as np
import pytest
import torch

from service.histories.local import Events, LocalHistories
from service.histories.settings import HistorySettings
from service.settings import Settings
from tests.trainer.workshop import START_MS, settings
from trainer.build import Plan
from trainer.examples import Batch, batches
from trainer.joining import Shown
from trainer.learner import Scored
from trainer.objective import FEWEST_TERMS, action_loss
from trainer.sampling import Sampling
from trainer.settings import TrainerSettings
from trainer.state import State
from trainer.targets import TargetBatch, Targets, target_batch

ITEMS = range(1, 7)


def fresh(**changes: dict[str, object]) -> State:
    """A state whose table knows items 1 to 6."""
    state = Plan(Settings(settings(**changes))).fresh_state()
    keys = torch.tensor(ITEMS)
    state.items.admit(keys, torch.full_like(keys, START_MS))
    return state


def events() -> Events:
    """Three users, four events each, a second apart."""
    at = np.arange(12)
    zeros = np.zeros(12, np.int64)
    return Events(at % 3 + 1, at % 6 + 1, zeros, START_MS + at * 1000, zeros)


def batch(threads: int = 1) -> list[Batch]:
    new, histories = events(), LocalHistories(HistorySettings(capacity=64))
    context = histories.read(np.array([1, 2, 3]), 17)
    accepted = histories.append(new, START_MS)
    (made,) = batches(context, new.user_T - 1, accepted, np.ones(12, np.bool_), 16, 1000, threads)
    return made


def targets() -> TargetBatch:
    histories = LocalHistories(HistorySettings(capacity=64))
    histories.append(events(), START_MS)
    closed = [Shown(START_MS + 9000, user, [1, 2, 6], 2, {2: 1}) for user in (1, 3)]
    made = target_batch(closed, histories, 16, 5)
    assert made is not None
    return made


def bits(state: State) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.tensors().items()}


def row_of(state: State, key: int) -> int:
    return int(state.items.lookup(torch.tensor([key])))


def poison_row(state: State, value: float) -> None:
    state.items.vectors_RD[row_of(state, 3)] = value


def poison_weight(state: State, value: float) -> None:
    with torch.no_grad():
        state.learner.network.hstu.layers[0].project.weight[0, 0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("poison", [poison_row, poison_weight])
def test_a_non_finite_loss_moves_nothing(poison, value: float) -> None:  # type: ignore[no-untyped-def]
    state = fresh()
    for _ in range(2):  # so that the optimizers have something to lose
        assert state.learner.learn(batch(), (0,), START_MS).trained
        assert state.learner.learn_actions(targets()).trained
    poison(state, value)
    before = bits(state)
    steps = [state.learner.learn(batch(), (0,), START_MS), state.learner.learn_actions(targets())]
    assert [step.trained for step in steps] == [False, False]
    assert bits(state) == before


def test_a_finite_loss_with_a_gradient_that_is_not_moves_nothing() -> None:
    state = fresh()
    assert state.learner.learn_actions(targets()).trained
    with torch.no_grad():  # logits of 1e30: their loss is finite, the norm of its gradient is not
        state.learner.network.actions.weight.fill_(1e30)
    before = bits(state)
    step = state.learner.learn_actions(targets())
    assert np.isfinite(step.loss)
    assert not step.trained
    assert bits(state) == before


def test_training_goes_on_after_a_skipped_batch_as_if_it_had_not_been() -> None:
    state, other = fresh(), fresh()
    poison_row(state, float("nan"))
    state.learner.learn(batch(), (0,), START_MS)
    state.items.vectors_RD[row_of(state, 3)] = other.items.vectors_RD[row_of(other, 3)]
    for one in (state, other):
        assert one.learner.learn(batch(), (1,), START_MS).trained
    assert bits(state) == bits(other)


def test_a_step_moves_the_rows_it_read_and_no_other() -> None:
    state = fresh()
    state.items.admit(torch.tensor([50]), torch.tensor([START_MS]))
    before = state.items.vectors_RD.clone()
    state.learner.learn(batch(), (0,), START_MS)
    moved = (state.items.vectors_RD != before).any(1).nonzero().flatten().tolist()
    assert moved == sorted(row_of(state, item) for item in ITEMS)


def test_an_item_without_a_row_moves_the_unknown_row() -> None:
    state = Plan(Settings(settings())).fresh_state()
    state.items.admit(torch.tensor([1, 2, 3]), torch.full((3,), START_MS))
    before = state.items.vectors_RD[0].clone()
    assert state.learner.learn(batch(), (0,), START_MS).trained
    assert not torch.equal(state.items.vectors_RD[0], before)
    assert len(state.items) == 3


@pytest.mark.parametrize("head", ["query", "history"])
def test_repeating_a_batch_brings_its_loss_down(head: str) -> None:
    state = fresh(model={"next_item_from": head})
    losses = [state.learner.learn(batch(), (0,), START_MS).loss for _ in range(60)]
    assert losses[-1] < losses[0] / 2
    losses = [state.learner.learn_actions(targets()).loss for _ in range(60)]
    assert losses[-1] < losses[0] / 2


def test_the_watch_is_told_before_anything_moves() -> None:
    state = fresh()
    before, told = bits(state), []

    def watch(scored: Scored) -> None:
        assert bits(state) == before
        assert not scored.users_QD.requires_grad
        told.append(scored.users_QD)

    state.learner.learn(batch(), (0,), START_MS, watch)
    assert len(told) == 1
    assert bits(state) != before


def test_scores_are_those_that_the_loss_was_made_of() -> None:
    state = fresh()
    state.learner.observe(np.array([1, 1, 2, 5]), START_MS)
    heard: list[torch.Tensor] = []
    rows = np.array([1, 2, 5])

    def watch(scored: Scored) -> None:
        every = state.learner.scores(scored, np.arange(12), rows, START_MS)
        some = state.learner.scores(scored, np.array([4, 11]), rows, START_MS)
        torch.testing.assert_close(some, every[[4, 11]])
        heard.append(every)

    state.learner.learn(batch(), (0,), START_MS, watch)
    assert heard[0].shape == (12, 3)


def test_threads_share_a_batch_and_learn_what_one_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.examples.PART_ROWS", 4)
    assert [len(batch(threads)) for threads in (1, 2, 9)] == [1, 2, 3]
    states = [fresh() for _ in range(3)]
    losses = [
        state.learner.learn(batch(threads), (0,), START_MS).loss
        for state, threads in zip(states, (1, 9, 9), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert bits(states[1]) == bits(states[2])
    pairs = zip(*(state.learner.network.parameters() for state in states[:2]), strict=True)
    for one, three in pairs:
        # Adam divides by the gradient's size: where that is rounding noise, so is the step.
        torch.testing.assert_close(one, three, atol=2 * TrainerSettings().learning_rate, rtol=0)
    vectors = [state.items.vectors_RD for state in states[:2]]
    torch.testing.assert_close(*vectors, atol=1e-4, rtol=1e-3)


def test_a_freed_row_is_forgotten_by_counts_and_pool() -> None:
    learner = fresh().learner
    learner.observe(np.array([1, 2, 2]), START_MS)
    learner.forget(np.array([2]))
    assert learner.popularity.counts(torch.tensor([2]), START_MS).max() == 0
    assert learner.pool.state()["rows"].tolist() == [1]


def loss_beside(pool: list[int], **trainer: object) -> float:
    """Of the first step, when those rows are the recent positives and none of them is drawn."""
    state = fresh(trainer={"pool_draws": 0} | trainer)
    state.learner.pool.push(np.array(pool))
    return state.learner.learn(batch(), (0,), START_MS).loss


def test_without_log_q_it_does_not_matter_how_often_an_item_is_expected() -> None:
    rare, often = [1, 2, 3, 4, 5, 6], [1] * 5 + [2]
    assert loss_beside(rare) != pytest.approx(loss_beside(often), rel=1e-3)
    assert loss_beside(rare, log_q=False) == loss_beside(often, log_q=False)
    # Where all items are expected alike, the correction changes nothing.
    assert loss_beside(rare, log_q=False) == pytest.approx(loss_beside(rare), rel=1e-5)


def test_recomputing_learns_the_same_bits_and_bfloat16_nearly_the_same() -> None:
    plain, again = fresh(), fresh(trainer={"recompute": True})
    narrow = fresh(trainer={"precision": "bfloat16"})
    assert again.learner.network.hstu.recompute
    losses = [state.learner.learn(batch(), (0,), START_MS).loss for state in (plain, again, narrow)]
    assert bits(plain) == bits(again)
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-2)
    assert bits(narrow) != bits(plain)
    assert narrow.tensors().keys() == plain.tensors().keys()


def test_a_step_on_the_cpu_starts_no_copy() -> None:
    scored: list[Scored] = []
    given = batch()
    fresh().learner.learn(given, (0,), START_MS, scored.append)
    assert scored[0].batch is scored[0].here is given[0]


def late_steps(state: State, shown: list[Shown], keep: float = 1.0) -> None:
    histories = LocalHistories(HistorySettings(capacity=64))
    histories.append(events(), START_MS)
    for batch in Targets(16, 5, Sampling(keep)).batches(shown, histories)[0]:
        assert state.learner.learn_actions(batch).trained


def gradients(shown: list[Shown], keep: float = 1.0) -> torch.Tensor:
    """Of the heads' weights and biases by the sum of the loss's terms."""
    state = fresh(trainer={"keep_negatives": keep})
    histories = LocalHistories(HistorySettings(capacity=64))
    histories.append(events(), START_MS)
    network, found = state.learner.network, []
    with torch.no_grad():
        network.actions.bias.fill_(0.3)
    for batch in Targets(16, 5, Sampling(keep)).batches(shown, histories)[0]:
        terms = int((batch.counted_RA + batch.label_RA > 0).sum())
        divisor = max(terms, FEWEST_TERMS) if batch.shown_P.sum() == 0 else terms
        logits_RA = state.learner._served(batch).logits_RA
        logits_RA = logits_RA - np.log(keep)
        none = batch.shown_P.sum() == 0
        loss = action_loss(logits_RA, batch.label_RA, batch.counted_RA, none) * divisor
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(
            loss, [network.actions.weight, network.actions.bias])]))  # fmt: skip
    return torch.stack(found).sum(0)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_correction_makes_of_a_negative_the_positive_that_it_was(keep: float) -> None:
    """Whether or not the negative had been learned: `loss(1) - loss(0)`, or `loss(1)`."""
    at_ms, items = START_MS + 9000, [1, 2, 4, 6]
    kept_R = Sampling(keep).kept(8, np.array(items))
    assert kept_R.all() or (kept_R[1:3] != kept_R[2]).any()
    acted = {2: 1, 4: 2}
    in_time = [Shown(at_ms, 1, items, 2, acted, 8)]
    negative = [Shown(at_ms, 1, items, 2, {}, 8)]
    correction = [Shown(at_ms, 1, [2, 4], 2, acted, 8, late=True)]
    together = gradients(negative, keep) + gradients(correction, keep)
    torch.testing.assert_close(gradients(in_time, keep), together, atol=1e-5, rtol=1e-4)


def test_a_late_positive_raises_the_chance_of_its_item() -> None:
    state, at_ms = fresh(trainer={"learning_rate": 0.01}), START_MS + 9000
    late_steps(state, [Shown(at_ms, 1, [1, 2, 6], 2)] * 3)
    asked = targets()
    before = state.learner.chances(asked)
    for _ in range(5):
        late_steps(state, [Shown(at_ms, 1, [2], 2, {2: 1}, late=True)])
    after = state.learner.chances(asked)
    assert (after[1::3, 0] > before[1::3, 0]).all()


def test_heads_begin_at_the_rates_of_their_first_targets() -> None:
    state = fresh()
    histories = LocalHistories(HistorySettings(capacity=64))
    histories.append(events(), START_MS)
    acted = dict.fromkeys((1, 2), 1)
    shown = [Shown(START_MS + 9000, 1, [1, 2, 3, 4, 5, 6], 2, acted)] * 20
    ((batch,), _) = Targets(16, 5).batches(shown, histories)
    state.learner.learn_actions(batch)
    chances = state.learner.chances(batch).mean(0)
    assert chances[0] == pytest.approx(1 / 3, abs=0.02)
    assert (chances[1:] < 0.01).all()
