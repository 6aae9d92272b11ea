"""Attention: the reference against a plain loop, the CPU's tiles against the reference, with every
gradient; and the buckets, one by one."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention
from kernels.attention.buckets import (
    distance_bucket,
    distance_bucket_of,
    time_bucket,
    time_bucket_of,
)

N = 16
ALPHA = 0.4
NOW_MS = 1_732_096_800_000

TOLERANCES = {
    # Same formula in another order of at most a few hundred additions: a few units of 2^-52.
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
    # Sums of up to 130 rows x 3 heads in another order.
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
}


@dataclass(frozen=True)
class Case:
    """Users' history lengths, how many rows each asks, and the widths."""

    lengths: tuple[int, ...]
    asked: tuple[int, ...]
    heads: int = 2
    k: int = 5
    v: int = 5


CASES = {
    "one event, one row": Case((1,), (1,)),
    "63 events, 63 rows": Case((63,), (63,)),
    "63 events, one row": Case((63,), (1,), heads=3),
    "empty users between others": Case((0, 7, 0, 1, 63, 0), (2, 3, 1, 1, 5, 0)),
    "users without rows": Case((5, 9, 3), (0, 4, 0)),
    "nobody has events": Case((0, 0), (1, 3)),
    "no rows at all": Case((4, 2), (0, 0)),
    "no users": Case((), ()),
    "edges of tiles and vectors": Case(
        (64, 65, 130, 16, 17), (8, 9, 130, 33, 1), heads=1, k=50, v=3
    ),
    "values wider than keys": Case((13, 2), (6, 2), heads=1, k=3, v=17),
    "keys wider than values": Case((13, 2), (6, 2), heads=3, k=16, v=1),
    "many vectors wide": Case((40,), (40,), heads=1, k=100, v=65),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call: the five that have gradients, and the layout."""

    learned: tuple[Tensor, ...]
    rows: Rows
    events: Events
    grad_out: Tensor

    def to(self, dtype: torch.dtype) -> "Inputs":
        learned = tuple(t.to(dtype) for t in self.learned)
        return replace(self, learned=learned, grad_out=self.grad_out.to(dtype))

    def call(self, backend: str) -> Tensor:
        q, k, v, *biases = self.learned
        return attention(q, k, v, self.rows, self.events, *biases, N, ALPHA, backend)


def ends(counts: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)


def inputs_of(case: Case, seed: int = 0) -> Inputs:
    """Random fp64 inputs; limits below, at and above positions, also 0."""
    make = np.random.default_rng(seed)
    limit = [make.integers(0, n + 1) for n, r in zip(case.lengths, case.asked, strict=True)
             for _ in range(r)]  # fmt: skip
    above = make.integers(-1, 3, len(limit))
    events = sum(case.lengths)
    seconds = 10 ** make.uniform(-1, 9, events)
    shapes = (
        (len(limit), case.heads, case.k), (events, case.heads, case.k),
        (events, case.heads, case.v), (DISTANCE_BUCKETS,), (TIME_BUCKETS,),
    )  # fmt: skip
    return Inputs(
        tuple(torch.from_numpy(make.standard_normal(shape)) for shape in shapes),
        Rows(
            ends(case.asked),
            torch.tensor(np.maximum(np.array(limit, np.int64) + above, 0)),
            torch.tensor(limit, dtype=torch.int64),
            torch.from_numpy(NOW_MS + make.integers(-1000, 10**7, len(limit))),
        ),
        Events(ends(case.lengths), torch.from_numpy(NOW_MS - (seconds * 1000).astype(np.int64))),
        torch.from_numpy(make.standard_normal((len(limit), case.heads, case.v))),
    )


def with_gradients(inputs: Inputs, backend: str) -> list[Tensor]:
    """The output and the gradients of q, k, v and both bias tables."""
    learned = tuple(t.clone().requires_grad_() for t in inputs.learned)
    out = replace(inputs, learned=learned).call(backend)
    if not out.requires_grad:  # nobody asks: autograd is not even entered
        return [out, *(torch.zeros_like(t) for t in learned)]
    out.backward(inputs.grad_out)
    return [out.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in learned)]


def plain_distance_bucket(distance: int) -> int:
    if distance < 32:
        return distance
    octave = distance.bit_length() - 1
    return min(32 + 4 * (octave - 5) + (distance >> (octave - 2) & 3), DISTANCE_BUCKETS - 1)


def plain_time_bucket(gap_ms: int) -> int:
    seconds = np.float32(max(gap_ms, 0) + 1000) * np.float32(0.001)
    mantissa, exponent = math.frexp(float(seconds))
    return min(max(2 * (exponent - 1) + (mantissa >= 0.75), 0), TIME_BUCKETS - 1)


def plain_loop(inputs: Inputs) -> list[Tensor]:
    """Output and gradients, one pair of row and event at a time."""
    q, k, v, distance_bias, time_bias = (t.numpy() for t in inputs.learned)
    rows, events, grad_out = inputs.rows, inputs.events, inputs.grad_out.numpy()
    out = np.zeros(grad_out.shape)
    grads = [np.zeros(t.shape) for t in inputs.learned]
    for b in range(len(rows.offsets) - 1):
        for r in range(int(rows.offsets[b]), int(rows.offsets[b + 1])):
            for j in range(int(rows.limit[r])):
                t = int(events.offsets[b]) + j
                near = plain_distance_bucket(max(int(rows.position[r]) - j, 0))
                when = plain_time_bucket(int(rows.at_ms[r] - events.at_ms[t]))
                for h in range(q.shape[1]):
                    x = ALPHA * (q[r, h] @ k[t, h]) + distance_bias[near] + time_bias[when]
                    gate = 1 / (1 + math.exp(-x))
                    out[r, h] += x * gate / N * v[t, h]
                    slope = gate * (1 + x * (1 - gate)) / N * (grad_out[r, h] @ v[t, h])
                    grads[0][r, h] += ALPHA * slope * k[t, h]
                    grads[1][t, h] += ALPHA * slope * q[r, h]
                    grads[2][t, h] += x * gate / N * grad_out[r, h]
                    grads[3][near] += slope
                    grads[4][when] += slope
    return [torch.from_numpy(a) for a in (out, *grads)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for name, a, b in zip(("out", *"qkv", "distance", "time"), found, expected, strict=True):
        torch.testing.assert_close(
            a, b, **TOLERANCES[a.dtype], msg=lambda text, name=name: f"{name}: {text}"
        )


@each_case
def test_the_reference_is_the_plain_loop_with_every_gradient(case: Case) -> None:
    inputs = inputs_of(case)
    assert_close(with_gradients(inputs, "reference"), plain_loop(inputs))


@each_case
def test_the_cpu_is_the_reference_with_every_gradient(case: Case) -> None:
    inputs = inputs_of(case, seed=1).to(torch.float32)
    assert_close(with_gradients(inputs, "cpu"), with_gradients(inputs, "reference"))


def test_the_references_gradients_are_those_of_finite_differences() -> None:
    inputs = inputs_of(Case((3, 0, 2), (2, 1, 1), heads=2, k=2, v=3))
    learned = [t.clone().requires_grad_() for t in inputs.learned]

    def call(*learned: Tensor) -> Tensor:
        return replace(inputs, learned=learned).call("reference")

    assert torch.autograd.gradcheck(call, learned)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_rows_that_see_nothing_are_exactly_zero(backend: str) -> None:
    inputs = inputs_of(Case((0, 9, 4), (3, 2, 2))).to(torch.float32)
    limit = torch.tensor([0, 0, 0, 0, 5, 4, 0])
    out = replace(inputs, rows=replace(inputs.rows, limit=limit)).call(backend)
    assert (out.abs().sum((1, 2)) == 0).tolist() == (limit == 0).tolist()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_lies_at_or_above_the_limit_changes_nothing(backend: str) -> None:
    inputs = inputs_of(Case((9,), (4,))).to(torch.float32)
    inputs = replace(inputs, rows=replace(inputs.rows, limit=torch.tensor([3, 0, 6, 1])))
    q, k, v, *biases = (t.clone() for t in inputs.learned)
    k[6:], v[6:] = 1e6, -1e6
    other = replace(inputs, learned=(q, k, v, *biases))
    assert torch.equal(other.call(backend), inputs.call(backend))
    _, _, grad_k, grad_v, _, _ = with_gradients(other, backend)
    assert not grad_k[6:].any()
    assert not grad_v[6:].any()


def test_a_limit_above_the_length_sees_all_of_its_own_user_and_no_other() -> None:
    inputs = inputs_of(Case((4, 5), (2, 2))).to(torch.float32)
    beyond = replace(inputs, rows=replace(inputs.rows, limit=torch.full((4,), 100)))
    whole = replace(inputs, rows=replace(inputs.rows, limit=torch.tensor([4, 4, 5, 5])))
    assert_close(with_gradients(beyond, "cpu"), with_gradients(whole, "cpu"))
    assert_close(with_gradients(beyond, "reference"), with_gradients(whole, "cpu"))


def test_a_row_is_the_same_bit_for_bit_whoever_shares_the_call() -> None:
    inputs = inputs_of(Case((6, 63, 2), (3, 4, 2))).to(torch.float32)
    together = inputs.call("cpu")
    q, k, v, *biases = inputs.learned
    rows, events = inputs.rows, inputs.events
    for r in range(3, 7):
        seen = slice(6, 69)
        alone = attention(
            q[r : r + 1], k[seen], v[seen],
            Rows(ends((1,)), rows.position[r, None], rows.limit[r, None], rows.at_ms[r, None]),
            Events(ends((63,)), events.at_ms[seen]), *biases, N, ALPHA, "cpu",
        )  # fmt: skip
        assert torch.equal(alone[0], together[r])


def test_strided_inputs_are_read_as_what_they_are() -> None:
    inputs = inputs_of(Case((7, 3), (4, 2), k=6, v=4)).to(torch.float32)
    strided = tuple(
        torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0] for t in inputs.learned
    )
    other = replace(inputs, learned=strided, grad_out=inputs.grad_out.mT.contiguous().mT)
    assert_close(with_gradients(other, "cpu"), with_gradients(inputs, "cpu"))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_two_runs_are_bit_identical(backend: str) -> None:
    inputs = inputs_of(CASES["empty users between others"]).to(torch.float32)
    first, second = with_gradients(inputs, backend), with_gradients(inputs, backend)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def _empty_memory_is_nan() -> Iterator[None]:
    """`torch.empty` gives NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_empty_memory_is_nan")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@each_case
def test_no_memory_is_read_before_it_was_written(case: Case, backend: str) -> None:
    found = with_gradients(inputs_of(case).to(torch.float32), backend)
    assert all(bool(t.isfinite().all()) for t in found)


def test_auto_is_the_cpu_for_float32_and_bfloat16_and_else_the_reference() -> None:
    inputs = inputs_of(CASES["empty users between others"])
    for dtype, backend in (
        (torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.float64, "reference"),
    ):  # fmt: skip
        given = inputs.to(dtype)
        assert torch.equal(given.call("auto"), given.call(backend))
        assert given.call("auto").dtype == dtype


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gpu' is unknown; known are reference, cpu"):
        inputs_of(CASES["one event, one row"]).call("gpu")


@njit
def _each(bucket_of: Any, numbers: Any) -> Any:
    return [bucket_of(number) for number in numbers]


def test_distance_buckets_agree_with_each_other_at_every_distance() -> None:
    distances = np.arange(10_001)
    plain = [plain_distance_bucket(int(d)) for d in distances]
    assert distance_bucket(torch.from_numpy(distances)).tolist() == plain
    assert _each(distance_bucket_of, distances) == plain
    assert plain[:33] == list(range(33))
    assert plain == sorted(plain)
    assert set(plain) == set(range(DISTANCE_BUCKETS))


def test_time_buckets_agree_with_each_other_at_every_edge() -> None:
    edges = [2**power * 1000 * half // 2 - 1000 for power in range(40) for half in (2, 3)]
    gaps = [edge + near for edge in edges for near in (-2, -1, 0, 1, 2)]
    gaps += [-1, -1000, -(2**40), -(2**62), 0, 1, 499, 500, 501, 2**62]
    gaps += np.random.default_rng(0).integers(0, 10**12, 10_000).tolist()
    numbers = np.array(sorted(gaps), np.int64)
    plain = [plain_time_bucket(int(gap)) for gap in numbers]
    assert time_bucket(torch.from_numpy(numbers)).tolist() == plain
    assert _each(time_bucket_of, numbers) == plain
    assert plain == sorted(plain)
    assert set(plain) == set(range(TIME_BUCKETS))


def test_time_buckets_are_two_per_octave_of_seconds_plus_one() -> None:
    seconds = torch.tensor([-9.0, 0, 0.499, 0.5, 0.999, 1, 1.999, 2, 3, 3600])
    found = time_bucket((seconds * 1000).long()).tolist()
    assert found == [0, 0, 0, 1, 1, 2, 2, 3, 4, 2 * 11 + 1]
