"""The Triton attention against the reference in fp64, with every gradient.

Run by test_interpreted.py in Triton's interpreter, by `python -m benchmarks.gpu` on a GPU.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention
from kernels.attention.buckets import time_bucket
from kernels.attention.gpu.plan import Plan, Seen
from kernels.gpu import INTERPRETED
from tests.kernels.attention_gpu.inputs import (
    NOW_MS,
    Case,
    Inputs,
    ends,
    inputs_of,
    with_gradients,
)
from tests.kernels.attention_gpu.poison import poison_empty_memory

DEVICE = "cpu" if INTERPRETED else "cuda"
DAY_MS = 86_400_000
NAMES = ("out", *"qkv", "distance", "time")

RELATIVE = {
    # Norm of the error over the norm of the result. fp32: sums of up to 70 rows and events, and a
    # GPU's exponential good to 2^-22, leave a few units of 2^-22.
    torch.float32: 1e-5,
    # Weights and gradients are rounded to 8 bits before they enter a product: 2^-8 for each term.
    torch.bfloat16: 1e-2,
}


@pytest.fixture(autouse=True)
def _empty_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_empty_memory(monkeypatch)


def scattered() -> Inputs:
    """Empty users, users without rows, limits of 0 and far beyond the length, in no order; events
    in no order of time; several heads, values wider than keys."""
    inputs = inputs_of(Case((7, 0, 40, 5), (3, 2, 9, 0), heads=2, k=5, v=33))
    limit = inputs.rows.limit.clone()
    limit[[2, 9, 12]] = torch.tensor([0, 1_000, 2**40])
    return replace(inputs, rows=replace(inputs.rows, limit=limit))


def in_order() -> Inputs:
    """Histories that ask of themselves (many buckets in a tile), of 40 events asked later (a few),
    of 35 events asked ages later (one); two late events; keys wider than values."""
    lengths, asked = (70, 40, 35), (70, 40, 3)
    inputs = inputs_of(Case(lengths, asked, heads=1, k=40, v=8), seed=1)
    make = np.random.default_rng(2)
    gap = make.exponential(40_000, sum(lengths)) * 10 ** make.uniform(-1.5, 1.5, sum(lengths))
    at_ms = NOW_MS + np.cumsum(gap.astype(np.int64))
    at_ms[[105, 130]] -= 7_000_000
    position = np.r_[np.arange(70), np.arange(40) + 300, 20_000 + np.arange(3)]
    limit = np.r_[np.arange(70) + 1, np.arange(40) + 1, 35, 33, 35]
    asked_ms = np.r_[at_ms[:70], at_ms[70:110] + DAY_MS // 24, NOW_MS + np.arange(3) + 900 * DAY_MS]
    rows = Rows(ends(asked), *map(torch.from_numpy, (position, limit, asked_ms)))
    return replace(inputs, rows=rows, events=Events(ends(lengths), torch.from_numpy(at_ms)))


CASES = {
    "scattered": scattered,
    "in order": in_order,
    "wide heads": lambda: inputs_of(Case((20, 3), (5, 1), heads=1, k=200, v=130)),
    "one candidate": lambda: inputs_of(Case((63,), (1,), heads=2)),
    "nobody has events": lambda: inputs_of(Case((0, 0), (1, 3))),
    "no rows at all": lambda: inputs_of(Case((4, 2), (0, 0))),
    "no users": lambda: inputs_of(Case((), ())),
}


def on_device(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Queries, keys and values in a type, tables in fp32, everything on the device."""
    q, k, v, *tables = (t.to(DEVICE) for t in inputs.learned)
    layout = [
        type(part)(*(column.to(DEVICE) for column in vars(part).values()))
        for part in (inputs.rows, inputs.events)
    ]
    return Inputs(
        (q.to(dtype), k.to(dtype), v.to(dtype), *(t.float() for t in tables)),
        *layout, inputs.grad_out.to(DEVICE, dtype),
    )  # fmt: skip


def expected_of(inputs: Inputs) -> list[Tensor]:
    """What the reference makes of the very same numbers in fp64, on the CPU."""
    numbers = [t.cpu().double() for t in (*inputs.learned, inputs.grad_out)]
    layout = [
        type(part)(*(column.cpu() for column in vars(part).values()))
        for part in (inputs.rows, inputs.events)
    ]
    return with_gradients(Inputs(tuple(numbers[:5]), *layout, numbers[5]), "reference")


def assert_near(found: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for name, a, b in zip(NAMES, found, expected, strict=False):
        assert a.shape == b.shape
        error = (a.cpu().double() - b).norm()
        assert error <= relative * b.norm(), f"{name}: {error / b.norm():.1e}"


@pytest.mark.parametrize("case", CASES)
def test_output_and_every_gradient_are_the_references(case: str) -> None:
    inputs = on_device(CASES[case](), torch.float32)
    assert_near(with_gradients(inputs, "triton"), expected_of(inputs), RELATIVE[torch.float32])


@pytest.mark.parametrize("case", ["in order", "wide heads"])
def test_bfloat16_differs_by_its_rounding_alone(case: str) -> None:
    inputs = on_device(CASES[case](), torch.bfloat16)
    found = with_gradients(inputs, "triton")
    assert [t.dtype for t in found] == [torch.bfloat16] * 4 + [torch.float32] * 2
    assert_near(found, expected_of(inputs), RELATIVE[torch.bfloat16])


def test_tf32_is_asked_for_by_name() -> None:
    inputs = on_device(CASES["one candidate"](), torch.float32)
    assert_near([inputs.call("triton-tf32")], expected_of(inputs)[:1], 2e-3)


@pytest.mark.parametrize("tables", [(True, False), (False, True), (False, False)])
def test_a_table_that_is_none_counts_as_zero(tables: tuple[bool, bool]) -> None:
    inputs = on_device(inputs_of(Case((20, 3), (4, 2), heads=1)), torch.float32)
    learned = [t.clone().requires_grad_() for t in inputs.learned]
    given = [t if used else None for t, used in zip(learned[3:], tables, strict=True)]
    out = attention(*learned[:3], inputs.rows, inputs.events, *given, 16, 0.4, "triton")
    out.backward(inputs.grad_out)
    zeroed = [t * used for t, used in zip(inputs.learned[3:], tables, strict=True)]
    expected = expected_of(replace(inputs, learned=(*inputs.learned[:3], *zeroed)))
    for number, used in enumerate((True, True, True, *tables)):
        if used:
            assert_near([learned[number].grad], [expected[number + 1]], RELATIVE[torch.float32])
        else:
            assert learned[number].grad is None


def test_two_runs_are_bit_identical_and_strides_change_nothing() -> None:
    inputs = on_device(inputs_of(Case((33,), (5,), heads=2, k=6, v=4)), torch.float32)
    strided = tuple(torch.stack([t, t + 1], -1)[..., 0] for t in inputs.learned)
    first = with_gradients(inputs, "triton")
    other = replace(inputs, learned=strided, grad_out=inputs.grad_out.mT.contiguous().mT)
    for found in (with_gradients(inputs, "triton"), with_gradients(other, "triton")):
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))


def test_a_row_is_the_same_whoever_shares_the_call() -> None:
    inputs = on_device(in_order(), torch.float32)
    together = inputs.call("triton")
    q, k, v, *tables = inputs.learned
    rows, events = inputs.rows, inputs.events
    for r in (41, 79):
        user = slice(0, 70) if r < 70 else slice(70, 110)
        alone = attention(
            q[r : r + 1], k[user], v[user],
            Rows(
                torch.tensor([0, 1], device=DEVICE),
                rows.position[r, None], rows.limit[r, None], rows.at_ms[r, None],
            ),
            Events(torch.tensor([0, user.stop - user.start], device=DEVICE), events.at_ms[user]),
            *tables, 16, 0.4, "triton",
        )  # fmt: skip
        if INTERPRETED:
            assert torch.equal(alone[0], together[r])
        else:  # one tile may fuse a product and a sum that another, with more buckets, does not
            torch.testing.assert_close(alone[0], together[r], rtol=1e-6, atol=1e-7)


def test_what_lies_at_or_above_every_limit_changes_nothing() -> None:
    inputs = on_device(inputs_of(Case((9,), (4,), heads=1)), torch.float32)
    limit = torch.tensor([3, 0, 6, 1], device=DEVICE)
    inputs = replace(inputs, rows=replace(inputs.rows, limit=limit))
    q, k, v, *tables = (t.clone() for t in inputs.learned)
    k[6:], v[6:] = 20.0, -1e6
    other = with_gradients(replace(inputs, learned=(q, k, v, *tables)), "triton")
    for name, found, expected in zip(NAMES, other, with_gradients(inputs, "triton"), strict=True):
        assert torch.equal(found, expected), name
    assert not other[2][6:].any()
    assert not other[3][6:].any()


def each_gap() -> Iterator[int]:
    """A millisecond around the edges of all buckets, and both ends of the range."""
    for power in range(33):
        for half in (2, 3):
            edge = 2**power * 1000 * half // 2 - 1000
            yield from (edge - 1, edge, edge + 1)
    yield from (-(2**61), -1, 2**61)


def test_reach_counts_the_events_in_a_bucket_or_above_it() -> None:
    gaps = list(each_gap())
    order = np.random.default_rng(0).permutation(len(gaps))
    event_ms = torch.tensor([NOW_MS - gaps[i] for i in order] + [NOW_MS - 5_000])
    row_ms = torch.tensor([NOW_MS, NOW_MS + 499, NOW_MS])
    zeros = torch.zeros(3, dtype=torch.int64)
    rows = Rows(ends((2, 1)), zeros, zeros, row_ms)
    plan = Plan(
        Rows(*(column.to(DEVICE) for column in vars(rows).values())),
        Seen(Events(ends((len(gaps), 1)).to(DEVICE), event_ms.to(DEVICE))),
    )
    users = event_ms[:-1], event_ms[:-1], event_ms[-1:]
    for r, events_ms in enumerate(users):
        buckets = time_bucket(row_ms[r] - events_ms)
        counts = [int((buckets >= bucket).sum()) for bucket in range(TIME_BUCKETS)]
        assert plan.reach_SR[:, r].tolist() == counts


def test_every_row_and_event_lies_in_one_tile_and_most_work_comes_first() -> None:
    inputs = on_device(scattered(), torch.float32)
    plan = Plan(inputs.rows, Seen(inputs.events))
    for tiles, ends_B in (
        (plan.row_tiles(4), inputs.rows.offsets.tolist()),
        (plan.key_tiles(4), inputs.events.offsets.tolist()),
    ):
        cut = [(user, first) for user, first, *_ in tiles.tolist() if user < plan.users]
        base = ends_B if tiles.shape[1] == 2 else [0] * len(ends_B)
        expected = {
            (user, base[user] + start)
            for user in range(plan.users)
            for start in range(0, ends_B[user + 1] - ends_B[user], 4)
        }
        assert set(cut) == expected
        assert len(cut) == len(expected)
    limits = plan.limit_R.tolist()
    work = [
        max(limits[first : min(first + 4, inputs.rows.offsets[user + 1])])
        for user, first in plan.row_tiles(4).tolist()
        if user < plan.users
    ]
    assert work == sorted(work, reverse=True)


def test_tables_have_the_sizes_that_the_kernels_were_written_for() -> None:
    assert DISTANCE_BUCKETS == TIME_BUCKETS == 64


def test_what_the_kernels_cannot_take_is_refused() -> None:
    inputs = on_device(inputs_of(Case((2,), (1,))), torch.float32)
    q, k, v, *tables = inputs.learned
    with pytest.raises(ValueError, match=r"queries, keys and values are torch\.bfloat16"):
        replace(inputs, learned=(q.bfloat16(), k, v, *tables)).call("triton")
    wide = torch.zeros(2, 1, 257, device=DEVICE)
    with pytest.raises(ValueError, match="a head of width 257 is too wide"):
        replace(inputs, learned=(wide[:1], wide, wide, *tables)).call("triton")
