"""The Triton rows do what the reference does; run by test_interpreted.py and on a GPU.

Tolerance: float32 sums over a batch in another order, 1e-5 beside the numbers' own size of 1.
"""

import pytest
import torch

from kernels.rows import (
    CHANGED,
    KNOWN,
    NEVER_MS,
    Adagrad,
    Adam,
    Decay,
    FrequencySgd,
    Optimizer,
    RowTable,
    Sgd,
    row_table,
)  # fmt: skip
from kernels.rows.gpu import TritonRows
from kernels.slabs import SLAB_ROWS, Slabs
from tests.kernels.gpu.moving import DEVICE, Moved

HOUR_MS = 3_600_000
NOW_MS = 10**12
DECAY = Decay(HOUR_MS, Decay.landmark_for(HOUR_MS, NOW_MS), NOW_MS)
END = SLAB_ROWS + 100
"""Rows in two slabs."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(width: int, moments: bool, rows_M: torch.Tensor) -> tuple[RowTable, Moved]:
    """Reference and Triton with the same rows in use."""
    tables = row_table(width, moments, "reference"), Moved(TritonRows(width, moments, DEVICE))
    m = len(rows_M)
    for table in tables:
        table.extend(END)
        vectors_MD = torch.randn(m, width, generator=generator(1))
        seen_M = torch.full((m,), NOW_MS - HOUR_MS)
        table.put(rows_M, {"vectors": vectors_MD, "last_seen_ms": seen_M, "admitted_ms": seen_M})
    return tables


def batch(n: int, seed: int) -> torch.Tensor:
    """Rows of both slabs and the unknown row; one of them crosses many windows."""
    rows_N = (torch.rand(n, generator=generator(seed)) ** 4 * 90).long()
    rows_N[rows_N > 60] += SLAB_ROWS
    rows_N[torch.rand(n, generator=generator(seed + 1)) < 0.3] = 7
    return rows_N


def assert_same(reference: RowTable, rows: Moved, rows_M: torch.Tensor) -> None:
    expected, got = reference.take(rows_M), rows.take(rows_M)
    assert list(got) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("width", "optimizer"),
    [
        (1, Adam(0.05, 0.0)),
        (3, Adagrad(0.05)),
        (32, Adam(0.05, 0.8, 0.99)),
        (40, Adagrad(0.05, 1e-3)),
    ],
)
def test_touches_and_steps_agree_with_the_reference(width: int, optimizer: Optimizer) -> None:
    in_use = torch.unique(torch.cat([batch(n, n) for n in (200, 64, 1)]))
    reference, rows = filled(width, isinstance(optimizer, Adam), in_use)
    for n in (200, 64, 1):
        rows_N = batch(n, n)
        at_ms_N = NOW_MS + torch.randint(-(10**8), 10**8, (n,), generator=generator(2))
        grads_ND = torch.randn(n, width, generator=generator(3))
        for table in (reference, rows):
            table.touch(rows_N, at_ms_N, DECAY)
            table.step(rows_N, grads_ND, optimizer, DECAY)
    assert_same(reference, rows, in_use)
    assert torch.equal(rows.changed(), reference.changed())


def test_a_row_that_fills_more_windows_than_are_folded_at_once() -> None:
    rows_N = torch.full((2_400,), 3)
    rows_N[::100] = torch.arange(24) % 5
    reference, rows = filled(2, True, torch.arange(5))
    grads_ND = torch.randn(2_400, 2, generator=generator(4))
    at_ms_N = NOW_MS - torch.arange(2_400)
    for table in (reference, rows):
        table.touch(rows_N, at_ms_N, DECAY)
        table.step(rows_N, grads_ND, Adam(0.01), DECAY)
    expected, got = (table.take(torch.arange(5)) for table in (reference, rows))
    # Two float32 sums of 2,400 numbers, each in its own order.
    for name, values in expected.items():
        torch.testing.assert_close(got[name], values, rtol=1e-4, atol=1e-5, msg=name)


def test_adam_corrects_a_row_by_its_own_steps_however_many() -> None:
    steps = torch.tensor([0, 1, 2, 9, 100, 600, 5_000, 10**6], dtype=torch.int32)
    rows_N = torch.arange(1, 9)
    reference, rows = filled(4, True, rows_N)
    grads_ND = torch.randn(8, 4, generator=generator(5))
    for table in (reference, rows):
        table.put(rows_N, {"steps": steps, "square": torch.full((8,), 0.1)})
        table.put(rows_N, {"vectors": torch.zeros(8, 4)})
        table.step(rows_N, grads_ND, Adam(1.0, 0.9, 0.9999), DECAY)
    expected, got = (table.gather(rows_N) for table in (reference, rows))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("half_life_ms", [None, 1, HOUR_MS, 2**40])
def test_weights_of_single_occurrences_are_those_of_the_decay(half_life_ms: int | None) -> None:
    decay = Decay(half_life_ms, Decay.landmark_for(half_life_ms, NOW_MS), NOW_MS)
    at_ms_N = NOW_MS + torch.tensor([0, 1, -1, 10**6, -(10**6), 2**62, -(2**62), 10**9, -(10**9)])
    rows_N = torch.arange(1, 10)
    _, rows = filled(1, False, rows_N)
    rows.touch(rows_N, at_ms_N, decay)
    assert torch.equal(rows.take(rows_N)["weight"], decay.weights(at_ms_N))


def test_touch_passes_over_the_unknown_row_and_leaves_an_empty_row_never_seen() -> None:
    _, rows = filled(2, False, torch.arange(3))
    rows_N = torch.zeros(150, dtype=torch.int64)  # in three windows
    rows_N[9] = 50
    rows.touch(rows_N, torch.full((150,), NOW_MS), DECAY)
    assert rows.changed().tolist() == [50]
    assert rows.take(torch.tensor([0, 50]))["last_seen_ms"].tolist() == [NOW_MS - HOUR_MS, NEVER_MS]


def test_the_same_batch_gives_the_same_bits() -> None:
    rows_N = batch(150, 6)
    tables = [filled(8, True, torch.unique(rows_N))[1] for _ in range(2)]
    for table in tables:
        table.touch(rows_N, NOW_MS + torch.arange(150), DECAY)
        table.step(rows_N, torch.randn(150, 8, generator=generator(7)), Adam(0.1), DECAY)
    first, second = (table.take(torch.unique(rows_N)) for table in tables)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rows_of_one_window_are_summed_in_batch_order() -> None:
    rows_N = torch.tensor([4, 9, 4, 4, 9, 4])
    grads_ND = torch.tensor([1e8, 1.0, 1.0, -1e8, 1.0, 0.25]).unsqueeze(1)
    _, rows = filled(1, False, torch.arange(10))
    before_ND = rows.gather(torch.tensor([4, 9]))
    rows.step(rows_N, grads_ND, Adagrad(1.0), DECAY)
    assert rows.take(torch.tensor([4, 9]))["square"].tolist() == [0.0625, 4.0]
    moved_ND = rows.gather(torch.tensor([4, 9])) - before_ND
    torch.testing.assert_close(moved_ND, torch.tensor([[-1.0], [-1.0]]))


@pytest.mark.parametrize("moments", [True, False])
def test_columns_are_put_taken_shown_and_cleared_like_the_references(moments: bool) -> None:
    rows_M = torch.tensor([0, 9, SLAB_ROWS - 1, SLAB_ROWS, END - 1])
    reference, rows = filled(5, moments, rows_M)
    columns = reference.take(rows_M)
    for position, (name, values) in enumerate(columns.items()):
        columns[name] = torch.arange(values.numel()).add(position).view(values.shape).to(values)
    for table in (reference, rows):
        table.put(rows_M, columns)
        table.clear(rows_M[:2])
    assert_same(reference, rows, rows_M)
    for name in columns:
        for first, end in ((0, END), (SLAB_ROWS - 2, SLAB_ROWS + 2), (9, 9), (SLAB_ROWS, END)):
            shown = rows.column(name, first, end)
            assert shown.is_contiguous()
            assert torch.equal(shown, reference.column(name, first, end))
    assert torch.equal(rows.column("marks"), reference.column("marks"))
    assert list(rows.take(rows_M, ["weight"])) == ["weight"]


@pytest.mark.parametrize(("moments", "row_bytes"), [(True, 73), (False, 53)])
def test_bytes_are_those_of_whole_slabs(moments: bool, row_bytes: int) -> None:
    rows = TritonRows(5, moments, DEVICE)
    tables_of_addresses = rows.nbytes
    rows.extend(1)
    assert rows.nbytes == tables_of_addresses + SLAB_ROWS * row_bytes


def test_gather_writes_where_it_is_told() -> None:
    rows_N = torch.tensor([3, 3, 1, SLAB_ROWS])
    reference, rows = filled(6, False, torch.tensor([1, 3, SLAB_ROWS]))
    out_ND = torch.full((4, 6), torch.nan, device=DEVICE)
    assert rows.table.gather(rows_N.to(DEVICE), out_ND) is out_ND
    assert torch.equal(out_ND.cpu(), reference.gather(rows_N))


def test_marks_keep_their_other_bits() -> None:
    _, rows = filled(2, False, torch.arange(4))
    rows.put(torch.tensor([2]), {"marks": torch.tensor([KNOWN], dtype=torch.uint8)})
    rows.step(torch.tensor([2]), torch.ones(1, 2), Adagrad(0.1), DECAY)
    assert rows.column("marks", 2, 3).tolist() == [KNOWN | CHANGED]


@pytest.mark.parametrize("row", [-1, END])
def test_a_row_out_of_range_is_refused_before_anything_is_written(row: int) -> None:
    _, rows = filled(2, True, torch.arange(4))
    rows_N = torch.tensor([1, row])
    before = rows.take(torch.arange(4))
    calls = [
        lambda: rows.gather(rows_N),
        lambda: rows.touch(rows_N, torch.full((2,), NOW_MS), DECAY),
        lambda: rows.step(rows_N, torch.ones(2, 2), Adam(0.1), DECAY),
        lambda: rows.put(rows_N, {"vectors": torch.ones(2, 2)}),
        lambda: rows.clear(rows_N),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=rf"row {row} is outside 0 \.\. {END - 1}"):
            call()
    after = rows.take(torch.arange(4))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_batch_that_was_written_to_is_looked_at_again() -> None:
    reference, rows = filled(2, False, torch.arange(4))
    on_device_N, ones_ND = torch.tensor([1, 2], device=DEVICE), torch.ones(2, 2, device=DEVICE)
    for row in (1, 3):
        on_device_N[0] = row
        rows.table.step(on_device_N, ones_ND, Adagrad(0.1), DECAY)
        reference.step(on_device_N.cpu(), ones_ND.cpu(), Adagrad(0.1), DECAY)
    assert_same(reference, rows, torch.arange(4))
    on_device_N[0] = END
    with pytest.raises(IndexError):
        rows.table.gather(on_device_N)


def test_an_empty_batch_changes_nothing() -> None:
    rows = Moved(TritonRows(3, True, DEVICE))
    none_N = torch.empty(0, dtype=torch.int64)
    rows.touch(none_N, none_N, DECAY)
    rows.step(none_N, torch.empty(0, 3), Adam(0.1), DECAY)
    assert rows.gather(none_N).shape == (0, 3)
    assert rows.changed().tolist() == rows.column("steps").tolist() == []


@pytest.mark.parametrize("optimizer", [Sgd(0.1), FrequencySgd(0.1)])
def test_optimizers_of_the_cpu_are_refused_by_name(optimizer: Optimizer) -> None:
    _, rows = filled(2, False, torch.arange(4))
    name = type(optimizer).__name__
    with pytest.raises(ValueError, match=f"{name} runs on the CPU alone; use Adagrad or Adam"):
        rows.step(torch.tensor([1]), torch.ones(1, 2), optimizer, DECAY)


def test_what_does_not_fit_is_refused() -> None:
    _, rows = filled(2, False, torch.arange(4))
    rows_N = torch.tensor([1])
    with pytest.raises(TypeError, match="one-dimensional int64"):
        rows.gather(rows_N.int())
    with pytest.raises(ValueError, match="int64 time for each"):
        rows.touch(rows_N, torch.zeros(2), DECAY)
    with pytest.raises(ValueError, match="float32 gradient"):
        rows.step(rows_N, torch.ones(1, 3), Adagrad(0.1), DECAY)
    with pytest.raises(ValueError, match="moments=True"):
        rows.step(rows_N, torch.ones(1, 2), Adam(0.1), DECAY)
    with pytest.raises(ValueError, match="'moments' is no column"):
        rows.take(rows_N, ["moments"])


def test_slabs_never_move() -> None:
    slabs = Slabs(torch.tensor([1, 2], device=DEVICE))
    slabs.extend(1)
    first = slabs.addresses[0].item()
    slabs.write(*(torch.tensor(x, device=DEVICE) for x in ([5], [[8, 9]])))
    slabs.extend(3 * SLAB_ROWS)
    assert slabs.addresses[0].item() == first
    assert len(slabs.addresses) == 3
    assert slabs.copy(5, 7).tolist() == [[8, 9], [1, 2]]
    assert slabs.nbytes == 3 * SLAB_ROWS * 16 + 3 * 8
