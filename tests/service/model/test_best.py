"""The search in one pass finds what sorting every logit finds, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.crew import Crew
from service.actions import RESERVED_KEY
from service.model import best
from service.model.allowed import EVERYTHING, Allowed, allowed_rows
from service.model.categories import SLOTS, Categories
from service.model.items import ItemRows
from service.model.prior import COUNTS, Prior
from service.versions import SlotRows

PRECISIONS = ("int8", "int4", "fp16", "fp32")
PRIOR = Prior(0, np.ones(1, np.float32), np.ones(1, np.float32))
CREWS = (Crew(), Crew(3))
NONE = np.zeros(0, np.int64)


def slot_of(vectors: Tensor, precision: str, counts: Tensor | None = None) -> SlotRows:
    keys = torch.arange(len(vectors)) * 7
    keys[0] = RESERVED_KEY
    counts = torch.ones(len(vectors), 1) if counts is None else counts
    return SlotRows(keys, vectors, {COUNTS: counts}).quantized(precision)


def sorted_out(rows: ItemRows, user: Tensor, allowed: Allowed, excluded: Any, count: int) -> Any:
    """The rows and their logits by a stable sort of all."""
    logits, able = rows.logits_of_all(user).numpy(), np.empty(len(rows), np.bool_)
    allowed_rows(allowed, np.arange(len(rows)), able)
    able[0], able[excluded] = False, False
    able &= logits > -np.inf
    order = np.argsort(-logits, kind="stable")
    order = order[able[order]][:count]
    return order, logits[order]


def check(
    rows: ItemRows, user: Tensor, count: int, allowed: Allowed = EVERYTHING, excluded: Any = NONE
) -> None:
    expected = sorted_out(rows, user, allowed, excluded, count)
    for crew in CREWS:
        found = rows.best(user, count, allowed, excluded, crew)
        np.testing.assert_array_equal(found.rows_K, expected[0])
        np.testing.assert_array_equal(found.logit_K, expected[1])


def allowed_of(make: np.random.Generator, rows: int, share: float) -> Allowed:
    """What is known of about 7 of 8 rows; the last ones are unknown for having come later."""
    known = rows - min(rows // 8, 5)
    return Allowed(
        make.choice(5, known, p=[0.125, *[0.21875] * 4]).astype(np.int32),
        make.choice([99, 100, 101], known).astype(np.int64),
        make.integers(1, 3, 2 * known),
        make.random(4) < share,
        np.array([make.integers(0, 3), 0]),
        100,
        bool(make.integers(2)),
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.sampled_from(PRECISIONS), st.sampled_from([2, 14, 16, 64, 66]), st.integers(2, 9000),
    st.sampled_from([1, 2, 10, 100, 356]), st.integers(0, 2**32), st.sampled_from([0.1, 0.6, 1.0]),
)  # fmt: skip
def test_what_is_found_is_what_sorting_finds(
    precision: str, width: int, rows: int, count: int, seed: int, share: float
) -> None:
    make, random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, width, generator=random)
    vectors[rows // 2 :] = vectors[: rows - rows // 2].clone()  # each twice, far from each other
    counts = torch.randint(1, 3, (rows, 1), generator=random).float()
    held = ItemRows(slot_of(vectors, precision, counts), PRIOR)
    user = torch.randn(width, generator=random) * float(make.choice([0.01, 1, 30]))
    excluded = make.integers(0, rows, 40)
    check(held, user, count)
    check(held, user, count, allowed_of(make, rows, share), excluded)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_that_hardly_differ_are_told_apart(precision: str) -> None:
    """Their bounds overlap: what decides is the last bit."""
    random = torch.Generator().manual_seed(3)
    vectors = torch.randn(1, 64, generator=random).repeat(6000, 1)
    vectors[:, :2] += torch.rand(6000, 2, generator=random) * 1e-3
    counts = 1 + torch.randint(0, 4, (6000, 1), generator=random) * 2.0**-23
    check(ItemRows(slot_of(vectors, precision, counts), PRIOR), vectors[9] * 3, 50)


def test_of_equal_items_the_first_rows_are_found() -> None:
    rows = ItemRows(slot_of(torch.ones(7000, 8), "int8"), PRIOR)
    for user in (torch.zeros(8), torch.ones(8)):
        found = rows.best(user, 5, EVERYTHING, np.array([2]), CREWS[1])
        assert found.rows_K.tolist() == [1, 3, 4, 5, 6]


def test_items_with_categories_are_found_by_all_of_their_vector() -> None:
    random, categories = torch.Generator().manual_seed(3), Categories(6, 16)
    with torch.no_grad():
        categories.weight.copy_(torch.randn(8, 16, generator=random) * 2)
    slot = slot_of(torch.randn(5000, 16, generator=random), "int8")
    codes = torch.randint(0, 8, (5000, SLOTS), generator=random, dtype=torch.int16)
    rows = ItemRows(replace(slot, categories=codes), PRIOR, categories)
    check(rows, torch.randn(16, generator=random), 30)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.2])
def test_what_a_selective_filter_passes_is_found_wherever_it_lies(
    precision: str, share: float
) -> None:
    """Scattered, then all of a part, then scattered: both ways to search, and from one to other."""
    random, make, categories = torch.Generator().manual_seed(3), np.random.default_rng(3), 16
    count = 40_000
    slot = slot_of(torch.randn(count, 16, generator=random), precision)
    spoken = Categories(6, categories)
    with torch.no_grad():
        spoken.weight.copy_(torch.randn(8, categories, generator=random))
    codes = torch.randint(0, 8, (count, SLOTS), generator=random, dtype=torch.int16)
    sets = 1 + (make.random(count) < share).astype(np.int32)
    sets[15_000:20_000], sets[39_990:] = 2, 0
    allowed = Allowed(
        sets, np.full(count, 101), NONE, np.array([False, True]), NONE, 100, unknown=True
    )
    user, excluded = torch.randn(16, generator=random), np.sort(make.integers(0, count, 300))
    for rows in (ItemRows(slot, PRIOR), ItemRows(replace(slot, categories=codes), PRIOR, spoken)):
        for found in (1, 100):
            check(rows, user, found, allowed, excluded)


@pytest.mark.parametrize("width", [16, 100, 512])
def test_a_bound_is_above_the_logit_and_close(width: int) -> None:
    random = torch.Generator().manual_seed(width)
    vectors = torch.randn(200, width, generator=random) * torch.logspace(-3, 3, 200)[:, None]
    vectors += torch.randn(200, 1, generator=random)
    rows = ItemRows(slot_of(vectors, "int8"), PRIOR)
    user = torch.randn(width, generator=random) * 5
    table, inverse, prior, *_ = rows._columns(user)
    weights, bound, sums = (
        best._weights(user.numpy()),
        np.zeros(200, np.float32),
        np.zeros(208, np.int32),
    )
    at = np.uint64(table.data.ctypes.data)
    best._sum_block(table.kind, at, table.row_bytes, weights.whole, 200, sums)
    best._bound_block(
        sums[:200], np.zeros(200, np.float32), table.scale, table.bias, inverse, prior,
        *weights[1:], bound,
    )  # fmt: skip
    logits, length = rows.logits_of_all(user).numpy(), float(user.norm())
    assert (bound >= logits).all()
    far = vectors.mean(1).abs().numpy() > 4 * vectors.std(1).numpy()
    assert (bound - logits < np.where(far, 3e-2, 5e-3) * length).all()


def test_rows_that_were_freed_are_not_found() -> None:
    slot = slot_of(torch.randn(50, 8, generator=torch.Generator().manual_seed(3)), "int8")
    rows = ItemRows(slot, PRIOR)
    nothing = slot_of(torch.zeros(1, 8), "int8")
    rows.apply(rows.prepare(nothing, slot.keys_R[1:40], PRIOR))
    check(rows, torch.ones(8), 100)
    assert len(rows.best(torch.ones(8), 100, EVERYTHING, NONE, CREWS[0]).rows_K) == 10
