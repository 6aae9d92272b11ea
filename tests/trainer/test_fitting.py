"""4-bit dense weights: fitted to the inputs, warm from the version before, judged as served."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.quantease import GridCodes, fitted, nearest, output_error
from service.histories.local import Histories
from service.model.dense import Model
from service.model.ranker import Ranker
from service.versions import ChannelCodes, Checkpoint, Manifest, Snapshot
from tests.trainer.rehearsal import Rehearsal, rings
from tests.trainer.test_moments import NAMES
from tests.trainer.workshop import START_MS, Workshop, settings, told
from trainer.fitting import WARM, Weights
from trainer.folding import folded
from trainer.quantization import coded, difference
from trainer.snapshots import precisions
from trainer.state import Tensors, part_of

OPEN = {"quantized_loss": 99.0, "quantized_calibration": 99.0, "quantized_score": 999.0}
FITTED = settings(
    trainer={
        "dense": "int4", "publish_seconds": 20, "dense_seconds": 50, "keep_versions": 64,
        "base_every": 5,
    },
    gate=OPEN,
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Versions of three trainers, one after another."""
    made = Workshop(tmp_path_factory.mktemp("fitted"), FITTED)
    made.tell(told(900))
    for blocks in (5, 4, None):
        made.train(stop_after=blocks)
    return made


def manifests(workshop: Workshop) -> list[Manifest]:
    return [workshop.versions.manifest(number) for number in workshop.versions.numbers()]


def links(workshop: Workshop) -> Iterator[tuple[Manifest, Snapshot, Tensors]]:
    """Every version, what its own file says, and what was trained."""
    for manifest in manifests(workshop):
        written = Snapshot.read_file(workshop.versions, manifest, manifest.snapshot[-1])
        if manifest.step:
            written = Snapshot.read_file(workshop.versions, manifest, manifest.step)
        yield manifest, written, folded(Checkpoint.chain(workshop.versions, manifest))


def test_layers_are_on_a_grid_and_the_other_matrices_are_rounded(workshop: Workshop) -> None:
    snapshot = Snapshot.read(workshop.versions, workshop.versions.numbers()[-1])
    kinds = {name: type(weight) for name, weight in snapshot.dense.items()}
    assert {name for name, kind in kinds.items() if kind is GridCodes} == NAMES
    rounded = {name for name, kind in kinds.items() if kind is ChannelCodes}
    assert rounded == {n for n, p in snapshot.precision.items() if p == "int4"} - NAMES != set()
    assert snapshot.precision["slots/item"] == "int8"
    assert manifests(workshop)[-1].precision == snapshot.precision


def test_every_version_is_fitted_warm_from_the_one_before_across_restarts(
    workshop: Workshop,
) -> None:
    before, checked, waited = Weights({}), 0, 0
    for manifest, written, state in links(workshop):
        if not written.dense:
            waited += 1
            continue
        fresh = Weights(part_of(state, "network"))
        expected = fresh.fit_to(part_of(state, "moments"), manifest.precision, before)
        for name in NAMES:
            found, wanted = written.dense[name], expected.fitted[name]
            assert isinstance(found, GridCodes)
            assert torch.equal(found.codes_OI, wanted.codes_OI)
            assert torch.equal(found.decode(), wanted.decode())
            moments_II = part_of(state, "moments")[name]
            errors = [
                output_error(fresh.full[name], moments_II, codes.decode()).sum()
                for codes in (found, nearest(fresh.full[name]))
            ]
            assert errors[0] < 0.9 * errors[1]
            if name in before.fitted:
                warm = fitted(fresh.full[name], moments_II, before.fitted[name], passes=WARM)
                checked += torch.equal(found.codes_OI, warm.codes_OI)
        before = Weights.of(written)
    assert checked > 8
    assert waited > 3


def test_a_server_scores_with_exactly_what_the_codes_stand_for(workshop: Workshop) -> None:
    snapshot = Snapshot.read(workshop.versions, workshop.versions.numbers()[-1])
    offline = replace(snapshot, dense=dict(snapshot.weights()))
    for name, weight in offline.dense.items():
        written = snapshot.dense[name]
        if isinstance(written, GridCodes):
            by_hand = written.zero_O[:, None] + written.codes_OI * written.scale_O[:, None]
            by_hand.view(-1)[written.places_S.long()] = written.values_S
            assert torch.allclose(by_hand, torch.as_tensor(weight), atol=1e-7)
            offline.dense[name] = by_hand
    keys = snapshot.slots["item"].keys_R[1:30].numpy()
    at_ms = START_MS + 1000 * np.arange(12)
    history = Histories(np.array([0, 12]), keys[:12], np.zeros(12, np.int64), at_ms, np.array([12]))
    now_ms = START_MS + 60_000
    served, plain = (Ranker(one).rank(history, keys, now_ms) for one in (snapshot, offline))
    assert (served.score_C - plain.score_C).abs().max() <= 1e-5
    assert served.score_C.std() > 0.01
    for name in NAMES:
        parameter = Model.of(snapshot).network.get_parameter(name)
        assert torch.equal(parameter, snapshot.weights()[name])


def test_a_setting_that_changes_begins_with_a_base(workshop: Workshop) -> None:
    later = Workshop(workshop.root, settings(trainer={**FITTED["trainer"], "dense": None}))
    later.tell(told(300, seed=5))
    before = len(workshop.versions.numbers())
    later.train()
    made = manifests(later)[before:]
    assert len(made[0].snapshot) == 1
    assert {made[0].precision[name] for name in NAMES} == {"int8"}


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    made = Rehearsal(trainer={"learning_rate": 1e-2, "evaluate_rows": 0, "dense": "int4"})
    made.run(rings(4_000).blocks())
    return made


def weights_of(rehearsal: Rehearsal) -> Weights:
    moments = rehearsal.state.learner.moments
    assert moments is not None
    plain = Weights(rehearsal.dense)
    return plain.fit_to(moments.state(), dict.fromkeys(NAMES, "int4"), plain)


def test_the_gate_answers_with_what_servers_decode(rehearsal: Rehearsal) -> None:
    assert rehearsal.trials is not None
    weights, recent = weights_of(rehearsal), rehearsal.trials.recent
    name = "hstu.layers.0.project.weight"
    served = coded(recent, weights, {name: "int4"})
    assert torch.equal(served.dense[name], weights.fitted[name].decode())
    assert torch.equal(served.dense["hstu.layers.0.output.weight"],
                       weights.full["hstu.layers.0.output.weight"])  # fmt: skip
    eight = coded(recent, weights, {name: "int8"})
    assert torch.equal(eight.dense[name], ChannelCodes.encode(weights.full[name]).decode())


def test_scores_move_less_than_with_rounded_weights(rehearsal: Rehearsal) -> None:
    assert rehearsal.trials is not None
    weights, scorer = weights_of(rehearsal), rehearsal.gate._scorer
    recent, precision = rehearsal.trials.recent, dict.fromkeys(NAMES, "int4")
    full = scorer.answer(recent, weights.full)
    moved = []
    for one in (weights, Weights(weights.full)):
        served = coded(recent, one, precision)
        answers = scorer.answer(served.questions, served.dense)
        moved.append(
            torch.cat(
                [
                    (b - a)[a.isfinite()].square()
                    for a, b in zip(full.scores, answers.scores, strict=True)
                ]
            ).mean()
        )
        assert difference(full, answers).largest > 0
    assert moved[0] < 0.5 * moved[1]


def test_what_the_gate_raises_is_not_published_as_codes(rehearsal: Rehearsal) -> None:
    assert rehearsal.trials is not None
    strict = Rehearsal(rehearsal.gate.settings.model_copy(update={"quantized_score": 1e-3})).gate
    weights = weights_of(rehearsal)
    verdict = strict.judge(1, rehearsal.trials, weights, dict.fromkeys(NAMES, "int4"))
    assert set(verdict.precision.values()) == {"fp16"}
    assert weights.published(verdict.precision).fitted == {}
    assert weights.at(verdict.precision).keys() == weights.full.keys()
    assert not any(isinstance(w, GridCodes) for w in weights.at(verdict.precision).values())


def test_weights_that_are_not_finite_are_left_to_the_gate(rehearsal: Rehearsal) -> None:
    full = dict(rehearsal.dense)
    name = "hstu.layers.0.project.weight"
    full[name] = torch.full_like(full[name], torch.nan)
    moments = rehearsal.state.learner.moments
    assert moments is not None
    weights = Weights(full).fit_to(moments.state(), dict.fromkeys(NAMES, "int4"), Weights(full))
    assert weights.fitted.keys() == NAMES - {name}
    assert rehearsal.trials is not None
    verdict = rehearsal.gate.judge(99, rehearsal.trials, weights, dict.fromkeys(NAMES, "int4"))
    assert verdict.reason == "broken"
    assert name in (verdict.held or "")


def test_odd_matrices_are_rounded() -> None:
    full = {"a": torch.randn(4, 3), "b": torch.randn(4, 4)}
    moments = {"a": torch.eye(3), "b": torch.eye(4)}
    weights = Weights(full).fit_to(moments, {"a": "int4", "b": "int4"}, Weights(full))
    assert weights.fitted.keys() == {"b"}


def test_precisions_of_rows_and_dense_weights_are_apart() -> None:
    dense = {"m": torch.ones(2, 2), "v": torch.ones(2), "actions.weight": torch.ones(2, 2)}
    assert precisions(dense, "int8") == {"m": "int8", "slots/item": "int8"}
    assert precisions(dense, "int8", "int4") == {"m": "int4", "slots/item": "int8"}
    assert precisions(dense, "fp32", "int8") == {"m": "int8"}
    assert precisions(dense, "fp16", "fp32") == {"slots/item": "fp16"}
    assert precisions(dense, "fp32") == {}
