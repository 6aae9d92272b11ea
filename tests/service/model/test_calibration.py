"""Maps from log odds to served chances: monotone whatever their knots, and what servers apply."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.action_types import ActionTypes
from service.errors import ModelMismatch
from service.model.calibration import CALIBRATION, Calibration
from service.model.ranker import Ranker
from tests.service.model.conftest import NOW_MS, HistoryOf, SnapshotOf

NAMES = list(ActionTypes().types)
logits = st.floats(-60, 60, width=32)


@st.composite
def maps(draw: st.DrawFn) -> Calibration:
    """One action type's, with knots anywhere."""
    knots = st.floats(-30, 30).map(lambda x: round(x, 4))
    at = sorted(draw(st.sets(knots, max_size=9)))
    to = sorted(draw(st.lists(st.floats(-30, 30), min_size=len(at), max_size=len(at))))
    return Calibration(*torch.tensor([[at], [to]], dtype=torch.float64).view(2, 1, -1))


def plain(calibration: Calibration, x: float) -> float:
    """The map as its definition reads."""
    at, to = calibration.at_AK[0].tolist(), calibration.to_AK[0].tolist()
    if not at:
        return x
    if x < at[0] or x >= at[-1]:
        end = 0 if x < at[0] else -1
        return to[end] + x - at[end]
    return float(np.interp(x, at, to))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(maps(), st.lists(logits, min_size=1, max_size=30))
def test_a_map_never_falls_and_is_linear_between_its_knots(
    calibration: Calibration, points: list[float]
) -> None:
    knots = calibration.at_AK[0].float()
    near = torch.cat([knots, *(torch.nextafter(knots, knots + way) for way in (-1.0, 1.0))])
    x_N = torch.cat([torch.tensor(points), near]).sort().values
    y_N = calibration(x_N[:, None])[:, 0]
    assert bool((y_N.diff() >= 0).all())
    expected = [plain(calibration, x) for x in x_N.tolist()]
    np.testing.assert_allclose(y_N, expected, rtol=1e-5, atol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(maps())
def test_a_map_reads_its_own_description(calibration: Calibration) -> None:
    again = Calibration.of_description(calibration.described(["click"]), ["click"])
    assert torch.equal(again.at_AK, calibration.at_AK)
    assert torch.equal(again.to_AK, calibration.to_AK)


def test_knots_on_the_line_change_no_bit() -> None:
    at_AK = torch.arange(-11.75, 8, 0.5, dtype=torch.float64)[None]
    x_N1 = torch.linspace(-40, 40, 99_991)[:, None]
    assert torch.equal(Calibration(at_AK, at_AK)(x_N1), x_N1)
    assert torch.equal(Calibration.none(1)(x_N1), x_N1)


def test_what_is_not_a_number_stays_so() -> None:
    calibration = Calibration(*torch.tensor([[[-1.0, 1.0]], [[0.0, 0.0]]], dtype=torch.float64))
    found = calibration(torch.tensor([[torch.nan], [torch.inf], [-torch.inf]]))[:, 0]
    assert found.isnan().tolist() == [True, False, False]
    assert found[1:].tolist() == [torch.inf, -torch.inf]


def bent(snapshot: Any, **changes: Any) -> Any:
    """The snapshot with a map that flattens chances and doubles their odds."""
    knots = {"at": [-2.0, 0.0, 0.5, 3.0], "to": [-1.0, 0.7, 0.7, 3.5]}
    described = dict.fromkeys(NAMES, knots) | changes
    return replace(snapshot, model=snapshot.model | {CALIBRATION: described})


def test_servers_apply_the_map_to_chances_and_to_no_score(
    snapshot_of: SnapshotOf, history_of: HistoryOf
) -> None:
    flat = {"at": [-2.0, 0.0, 0.5, 3.0], "to": [-9.0, -9.0, -9.0, -9.0]}
    raw, mapped = snapshot_of(), bent(snapshot_of(), hide=flat)
    history, keys = history_of(30), np.arange(98, 141)
    before, after = (Ranker(one).rank(history, keys, NOW_MS) for one in (raw, mapped))
    assert torch.equal(after.score_C, before.score_C)
    assert torch.equal(after.next_item_C, before.next_item_C)
    assert before.actions is not None
    assert after.actions is not None
    maps = mapped.model[CALIBRATION]
    for name in NAMES:
        logits_C = torch.logit(before.actions[name].double()).numpy()
        inside = np.interp(logits_C, maps[name]["at"], maps[name]["to"])
        inside += np.minimum(logits_C + 2, 0) + np.maximum(logits_C - 3, 0)
        np.testing.assert_allclose(after.actions[name], 1 / (1 + np.exp(-inside)), rtol=1e-4)
    assert not torch.equal(after.actions["click"], before.actions["click"])


BROKEN = {
    "fewer knots than images": {"at": [0.0], "to": [0.0, 1.0]},
    "knots that stand still": {"at": [0.0, 0.0, 1.0, 2.0], "to": [0.0, 0.0, 1.0, 2.0]},
    "images that fall": {"at": [0.0, 1.0, 2.0, 3.0], "to": [0.0, 1.0, 0.5, 2.0]},
    "an infinite image": {"at": [0.0, 1.0, 2.0, 3.0], "to": [0.0, 1.0, 2.0, float("inf")]},
    "an infinite slope": {"at": [0.0, 5e-324, 2.0, 3.0], "to": [0.0, 1.0, 2.0, 3.0]},
    "words": {"at": ["a", "b", "c", "d"], "to": [0.0, 1.0, 2.0, 3.0]},
    "no images": {"at": [0.0, 1.0, 2.0, 3.0]},
}


@pytest.mark.parametrize("knots", BROKEN.values(), ids=BROKEN)
def test_what_is_no_map_is_refused(snapshot_of: SnapshotOf, knots: dict[str, Any]) -> None:
    with pytest.raises(ModelMismatch, match=r"version 7 does not fit .* its calibration cannot be"):
        Ranker(bent(snapshot_of(), hide=knots))


def test_a_map_for_every_action_type_is_expected(snapshot_of: SnapshotOf) -> None:
    snapshot = bent(snapshot_of())
    del snapshot.model[CALIBRATION]["buy"]
    with pytest.raises(ModelMismatch, match="'buy'"):
        Ranker(snapshot)
