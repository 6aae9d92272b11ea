"""Moments of layer inputs: of which rows, of which steps, and where they are kept."""

import pytest
import torch
from torch import Tensor, nn

from service.model.network import Network
from service.model.watching import watching
from service.settings import Settings
from tests.trainer.test_learner import batch, bits, fresh, poison_row, targets
from tests.trainer.workshop import START_MS, Workshop, settings, told
from trainer.build import Plan
from trainer.moments import DECAY, SAMPLE, Moments
from trainer.state import State

FITTED = {"trainer": {"dense": "int4"}}
NAMES = {"hstu.layers.0.project.weight", "hstu.layers.0.output.weight"}
CPU = torch.device("cpu")


def moments(state: State) -> dict[str, Tensor]:
    assert state.learner.moments is not None
    return state.learner.moments.state()


def normed(state: State) -> list[Tensor]:
    """What the first norm makes of rows, call after call, while this list lives."""
    seen: list[Tensor] = []
    norm = state.learner.network.hstu.layers[0].before
    assert isinstance(norm, nn.LayerNorm)
    norm.register_forward_hook(lambda _module, _inputs, out: seen.append(out.detach().clone()))
    return seen


def test_each_step_adds_what_entered_and_the_sum_before_fades() -> None:
    state = fresh(**FITTED)
    seen, expected = normed(state), torch.zeros(16, 16)
    for step in (0, 1):
        seen.clear()
        assert state.learner.learn(batch(), (step,), START_MS).trained
        assert len(seen) == 2  # histories and those who ask
        expected = expected * DECAY + sum(x.T @ x / len(x) for x in seen)
        found = moments(state)
        assert found.keys() == NAMES
        assert torch.allclose(found["hstu.layers.0.project.weight"], expected, atol=1e-5)
    seen.clear()
    assert state.learner.learn_actions(targets()).trained
    expected = expected * DECAY + sum(x.T @ x / len(x) for x in seen)
    assert torch.allclose(moments(state)["hstu.layers.0.project.weight"], expected, atol=1e-5)
    assert moments(state)["hstu.layers.0.output.weight"].shape == (8, 8)
    assert moments(state)["hstu.layers.0.output.weight"].diagonal().min() > 0


def test_recomputing_counts_nothing_twice() -> None:
    plain, again = fresh(**FITTED), fresh(trainer={"dense": "int4", "recompute": True})
    for state in (plain, again):
        assert state.learner.learn(batch(), (0,), START_MS).trained
    assert bits(plain) == bits(again)


def test_a_step_that_is_skipped_leaves_none() -> None:
    state = fresh(**FITTED)
    assert state.learner.learn(batch(), (0,), START_MS).trained
    before = moments(state)
    poison_row(state, float("nan"))
    assert not state.learner.learn(batch(), (1,), START_MS).trained
    assert not state.learner.learn_actions(targets()).trained
    assert all(torch.equal(sum_II, before[name]) for name, sum_II in moments(state).items())


def test_sums_stay_finite() -> None:
    state = fresh(**FITTED)
    kept = state.learner.moments
    assert kept is not None
    before = kept.state()
    sample = kept.sample()
    sample(state.learner.network.hstu.layers[0].project, torch.full((2, 16), 1e30))
    kept.add([sample])
    assert kept.state().keys() == NAMES
    assert all(torch.equal(sum_II, before[name]) for name, sum_II in kept.state().items())


@pytest.mark.parametrize("rows", [0, 1, SAMPLE - 1, SAMPLE, 10 * SAMPLE + 5])
def test_rows_are_evenly_spaced_and_few(rows: int) -> None:
    network = Network(Plan(Settings(settings())).model, 2)
    kept, project = Moments(network, CPU), network.hstu.layers[0].project
    assert isinstance(project, nn.Linear)
    x_RI = torch.zeros(rows, 16)
    x_RI[:, 0] = torch.arange(rows)
    sample = kept.sample()
    sample(project, x_RI)
    found = sample.found["hstu.layers.0.project.weight"]
    taken = torch.arange(rows)[:: max(1, rows // SAMPLE)]
    assert len(taken) < 2 * SAMPLE
    assert [float(one[0, 0]) for one in found] == pytest.approx(
        [float((taken.double() ** 2).mean())] if rows else []
    )


def test_only_the_thread_that_asked_is_watched() -> None:
    told_of: list[nn.Linear] = []
    state = fresh(trainer={"dense": "int8"})
    assert state.learner.moments is None
    with watching(lambda matrix, _: told_of.append(matrix)):
        with watching(None):
            assert state.learner.learn(batch(), (0,), START_MS).trained
        assert told_of == []
        state.learner.network.hstu.layers[0].keys_values(torch.zeros(3, 16))
    layer = state.learner.network.hstu.layers[0]
    assert told_of == [layer.project]
    layer.keys_values(torch.zeros(3, 16))
    assert told_of == [layer.project]


def test_checkpoints_have_them_only_if_they_are_asked_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert not [name for name in fresh().tensors() if name.startswith("moments/")]
    workshop = Workshop(tmp_path, settings())
    workshop.tell(told(300))
    workshop.train(stop_after=3)
    later = Workshop(tmp_path, settings(**FITTED))
    found = moments(later.restored().teacher.state)
    assert not any(sum_II.any() for sum_II in found.values())
    found = moments(later.train().teacher.state)
    assert all(sum_II.any() for sum_II in found.values())
    kept = moments(later.restored().teacher.state)
    assert all(torch.equal(kept[name], found[name]) for name in NAMES)
