"""The CPU's attention: edges of tiles, threads, other tables, numbers far from 0."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention
from kernels.attention.buckets import distance_bucket, time_bucket
from kernels.attention.cpu import Pairs, attend

HEADS, WIDTH, VALUES = 2, 8, 5
N = 64
ALPHA = 0.4
NOW_MS = 1_732_096_800_000


class Call:
    """Random inputs of users with these many events; history rows, or rows with given limits."""

    def __init__(self, lengths: list[int], limits: list[list[int]] | None = None) -> None:
        make = np.random.default_rng(len(lengths) + sum(lengths))
        limits = limits or [list(range(1, n + 1)) for n in lengths]
        limit = torch.tensor([one for user in limits for one in user], dtype=torch.int64)
        events = sum(lengths)
        at_ms = torch.from_numpy(np.sort(NOW_MS - make.integers(0, 10**9, events)))
        asked_ms = torch.from_numpy(NOW_MS + make.integers(0, 10**9, len(limit)))
        ends = [torch.tensor([0, *np.cumsum(c)]) for c in ([len(u) for u in limits], lengths)]
        self.rows = Rows(ends[0], (limit - 1).clamp(min=0), limit, asked_ms)
        self.events = Events(ends[1], at_ms)
        shapes = (
            (len(limit), HEADS, WIDTH), (events, HEADS, WIDTH), (events, HEADS, VALUES),
            (DISTANCE_BUCKETS,), (TIME_BUCKETS,), (len(limit), HEADS, VALUES),
        )  # fmt: skip
        *self.learned, self.grad_out = (torch.from_numpy(make.standard_normal(s)) for s in shapes)

    def results(self, backend: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The output and all gradients."""
        learned = [t.to(dtype).clone().requires_grad_() for t in self.learned]
        q, k, v, *tables = learned
        out = attention(q, k, v, self.rows, self.events, *tables, N, ALPHA, backend)
        return [out.detach(), *torch.autograd.grad(out, learned, self.grad_out.to(dtype))]

    def of_rows(self, chosen: slice) -> Tensor:
        """The output of some rows of the only user, asked for alone."""
        q, k, v, *tables = (t.float() for t in self.learned)
        r = self.rows
        columns = (r.position[chosen], r.limit[chosen], r.at_ms[chosen])
        rows = Rows(torch.tensor([0, len(columns[0])]), *columns)
        return attention(q[chosen], k, v, rows, self.events, *tables, N, ALPHA, "cpu")


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative to the largest number of each tensor."""
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=tolerance * max(scale, 1e-6))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_history_of_every_edge_has_the_gradients_of_float64(length: int) -> None:
    call = Call([3, length, 2])
    assert_close(call.results("cpu"), call.results("reference", torch.float64), 2e-6)


def test_rows_in_any_order_of_limits_give_the_gradients_of_float64() -> None:
    make = np.random.default_rng(5)
    limits = [make.integers(0, 100, 77).tolist(), [90, 1, 0, 200, 15], list(range(99, 0, -1))]
    limits.append([30] * 20)  # alike but for their times
    call = Call([100, 90, 99, 40], limits)
    assert_close(call.results("cpu"), call.results("reference", torch.float64), 2e-6)


def test_candidates_of_a_request_are_bit_for_bit_the_same_in_chunks_of_any_size() -> None:
    call = Call([100], [[100] * 60 + [12] * 7 + [0, 40]])
    call.rows = replace(call.rows, at_ms=torch.full((69,), NOW_MS))
    whole = call.of_rows(slice(0, 69))
    for size in (1, 3, 8, 64):
        chunks = [call.of_rows(slice(r, min(r + size, 69))) for r in range(0, 69, size)]
        assert torch.equal(torch.cat(chunks), whole)


def test_bits_depend_neither_on_the_number_of_threads_nor_on_who_calls_at_once() -> None:
    call = Call([150] * 8)  # enough pairs to be shared, in several parts
    expected = call.results("cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        assert all(map(torch.equal, call.results("cpu"), expected))
    finally:
        torch.set_num_threads(before)
    found: list[list[Tensor]] = []
    callers = [
        threading.Thread(target=lambda: found.extend(call.results("cpu") for _ in range(5)))
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 10
    assert all(torch.equal(a, b) for result in found for a, b in zip(result, expected, strict=True))


def test_bfloat16_is_computed_in_float32_and_rounded_at_the_end() -> None:
    call = Call([40, 3])
    call.learned = [t.bfloat16().double() for t in call.learned]
    call.grad_out = call.grad_out.bfloat16().double()
    rounded, exact = call.results("cpu", torch.bfloat16), call.results("cpu")
    assert [t.dtype for t in rounded] == [torch.bfloat16] * 6
    for a, b in zip(rounded, exact, strict=True):
        assert torch.equal(a, b.bfloat16())


def test_logits_far_from_0_stay_exact() -> None:
    call = Call([20])
    call.learned[0] *= 100
    assert_close(call.results("cpu"), call.results("reference", torch.float64), 2e-5)
    call.learned[0] *= 1e6
    assert all(bool(t.isfinite().all()) for t in call.results("cpu"))


def test_tables_of_any_kind_are_read_as_pairs_say() -> None:
    call = Call([30, 20])
    q, k, v, distance, time = (t.float() for t in call.learned)
    reversed_entry = DISTANCE_BUCKETS - 1 - distance_bucket(torch.arange(30))
    pairs = Pairs(call.rows, call.events, reversed_entry, lambda gap: 5 + time_bucket(gap))
    shifted = torch.cat([torch.full((5,), torch.nan), time])
    found = attend(q, k, v, pairs, distance.flip(0), shifted, N, ALPHA)
    assert torch.equal(found, attention(q, k, v, call.rows, call.events, distance, time, N, ALPHA))


def test_without_a_table_its_bias_is_0() -> None:
    call = Call([30, 20])
    q, k, v, distance, time = (t.float() for t in call.learned)
    for tables in ((distance, None), (None, time), (None, None)):
        found, expected = (
            attention(q, k, v, call.rows, call.events, *tables, N, ALPHA, backend)
            for backend in ("cpu", "reference")
        )
        assert_close([found], [expected], 2e-6)


def test_tables_too_small_for_the_pairs_are_refused() -> None:
    call = Call([3])
    q, k, v, distance, time = (t.float() for t in call.learned)
    for tables, told in (
        ((distance[:63], time), "the distance table has 63 entries; pairs read 64"),
        ((distance, time[:10]), "the time table has 10 entries; pairs read 64"),
    ):
        with pytest.raises(ValueError, match=told):
            attention(q, k, v, call.rows, call.events, *tables, N, ALPHA, "cpu")
    with pytest.raises(ValueError, match=r"time_entry gave -1 \.\. 0; entries are numbers 0"):
        Pairs(
            call.rows, call.events, torch.zeros(1, dtype=torch.int64), lambda gap: -(gap > 0).long()
        )


def test_what_does_not_fit_is_refused_before_memory_is_read() -> None:
    call = Call([3, 4])
    q, k, v, *tables = (t.float() for t in call.learned)
    rows, events = call.rows, call.events

    def asked(q=q, k=k, v=v, rows=rows, events=events):
        return attention(q, k, v, rows, events, *tables, N, ALPHA, "cpu")

    asked()
    for wrong, said in (
        ({"k": k[..., :4]}, "keys are"),
        ({"k": k[:5]}, "keys are"),
        ({"v": v[:, :1]}, "values are"),
        ({"q": q[:-1]}, "queries are"),
        ({"rows": replace(rows, limit=rows.limit.int())}, "rows.limit is torch.int32"),
        ({"events": replace(events, at_ms=events.at_ms[:-1])}, "events.offsets must end with 6"),
        ({"rows": replace(rows, position=rows.position[1:])}, "rows.position has 6"),
        ({"rows": replace(rows, offsets=rows.offsets[1:])}, "rows.offsets has 2"),
    ):
        with pytest.raises(ValueError, match=said):
            asked(**wrong)
    untimed = Pairs(rows, events, distance_bucket(torch.arange(9)), None)
    with pytest.raises(ValueError, match="without times"):
        attend(q, k, v, untimed, None, tables[1], N, ALPHA)
