"""The servers' half of a version, made of what the trainer has changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from service.model.prior import COUNTS, COUNTS_ORIGIN
from service.model.ranker import ITEM_SLOT
from service.versions import SlotRows, Snapshot
from service.versions.dense import Dense
from trainer import popularity
from trainer.information import factor_of
from trainer.state import State, StateDelta, Tensors

Precision = Literal["fp32", "fp16", "int8", "int4"]

EXACT = ("actions.weight",)
"""Matrices that make scores directly: kept in full precision."""


def snapshot_of_delta(
    delta: StateDelta,
    number: int,
    parent: int | None,
    at_ms: int,
    model: dict[str, Any],
    dense: Mapping[str, Dense],
) -> Snapshot:
    """A version's snapshot, its rows in full precision, as what follows `parent` (None: a base).

    model: as `service.model.ranker.described` has it, with the origin of counts. Raises ValueError
    for what no server could use: numbers that are not finite.
    """
    changes = delta.items.changes
    counts_MP = popularity.sums(delta.popularity, model[COUNTS_ORIGIN])
    codes_MK = delta.codes_MK.short() if bool(delta.codes_MK.any()) else None
    rows = SlotRows(
        changes.keys_M, delta.items.columns["vectors"], {COUNTS: counts_MP}, delta.ids, codes_MK
    )
    removed = {} if parent is None else {ITEM_SLOT: changes.removed_keys_T}
    return Snapshot(number, model, dict(dense), {ITEM_SLOT: rows}, parent, removed, at_ms)


def snapshot_of(state: State, number: int, at_ms: int, model: dict[str, Any]) -> Snapshot:
    """The servers' half of the state as it is now, in full precision. Takes what has changed."""
    delta = state.cut(whole=True)
    prior = state.learner.settings.exploration_prior
    dense = delta.parts["network"] | factor_of(delta.parts["information"], prior)
    described = {**model, COUNTS_ORIGIN: at_ms}
    return snapshot_of_delta(delta, number, None, at_ms, described, dense)


def with_origin(base: Snapshot, origin_ms: int) -> Snapshot:
    """The same snapshot with the sums of its counts taken from another origin."""
    if (shift_ms := base.model[COUNTS_ORIGIN] - origin_ms) == 0:
        return base
    half_lives_ms = torch.tensor(base.model["model"]["priors"], dtype=torch.float64) * 1000
    rows = base.slots[ITEM_SLOT]
    counts_RP = (rows.extra[COUNTS] * (shift_ms / half_lives_ms).exp2()).float()
    slot = replace(rows, extra={**rows.extra, COUNTS: counts_RP})
    return replace(
        base, model={**base.model, COUNTS_ORIGIN: origin_ms},
        slots={**base.slots, ITEM_SLOT: slot},
    )  # fmt: skip


def precisions(
    dense: Tensors, rows: Precision, matrices: Precision | None = None
) -> dict[str, str]:
    """The precision of every tensor that is not kept exactly: matrices (None: as rows) and the
    items' rows."""
    names = [name for name, weight in dense.items() if weight.ndim == 2 and name not in EXACT]
    wanted = dict.fromkeys(names, matrices or rows) | {f"slots/{ITEM_SLOT}": rows}
    return {name: precision for name, precision in wanted.items() if precision != "fp32"}
