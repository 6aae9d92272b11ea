"""Tables of rows: what is written is read again, growth, clearing, marks, and refused input."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.reserved import HUGE_BYTES
from kernels.rows import (
    CHANGED,
    KNOWN,
    NEVER_MS,
    Adagrad,
    Adam,
    Decay,
    RowTable,
    Sgd,
    row_bytes,
    row_table,
)
from kernels.rows.columns import DTYPES, EMPTY, RECORD_OFFSETS, names_of, shape_of
from kernels.rows.cpu import NumbaRows
from kernels.rows.ownership import own_positions

BACKENDS = ("reference", "numba")
WIDTHS = [1, 3, 16, 17, 64, 100]
NO_DECAY = Decay(None)


def rows_of(*rows: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def filled(backend: str, rows: int, width: int = 3, moments: bool = True) -> RowTable:
    """A table of random columns."""
    table = row_table(width, moments, backend, Crew(2))
    table.extend(rows)
    table.put(torch.arange(rows), random_columns(rows, width, moments))
    return table


def random_columns(rows: int, width: int, moments: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows * width)
    columns = {
        name: torch.randint(1, 2**30, shape_of(name, rows, width), generator=generator)
        for name in names_of(moments)
    }
    columns["marks"] %= 4
    return {name: column.to(DTYPES[name]) for name, column in columns.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        assert torch.equal(found[name], column), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_table_has_no_rows_and_new_rows_are_empty(backend: str) -> None:
    table = row_table(3, True, backend)
    assert (table.width, table.end, table.nbytes) == (3, 0, 0)
    assert not len(table.changed())
    table.extend(5)
    table.extend(2)
    assert table.end == 5
    for name, column in table.take(torch.arange(5)).items():
        assert torch.equal(column, torch.full_like(column, EMPTY[name]))
    assert table.column("last_seen_ms").tolist() == [NEVER_MS] * 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("moments", [False, True])
def test_bytes_are_those_of_the_rows_up_to_a_page_a_column(backend: str, moments: bool) -> None:
    assert row_bytes(64, moments) == 4 * 64 * (2 if moments else 1) + 33
    table = row_table(64, moments, backend)
    table.extend(200_000)
    exact = 200_000 * row_bytes(64, moments)
    assert exact <= table.nbytes <= exact + len(names_of(moments)) * HUGE_BYTES


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_columns_that_were_put_are_taken_again(backend: str, width: int) -> None:
    table = filled(backend, 50, width)
    columns = random_columns(50, width)
    assert_same(table.take(torch.arange(50)), columns)
    some = rows_of(49, 0, 7, 7)
    assert_same(table.take(some), {name: column[some] for name, column in columns.items()})
    assert_same(table.take(some[:0], ["steps"]), {"steps": torch.zeros(0, dtype=torch.int32)})
    for name, column in columns.items():
        assert torch.equal(table.column(name), column)
        assert torch.equal(table.column(name, 3, 9), column[3:9])


@pytest.mark.parametrize("backend", BACKENDS)
def test_put_writes_the_named_columns_of_its_rows_alone(backend: str) -> None:
    table = filled(backend, 20)
    before = table.take(torch.arange(20))
    weights = torch.tensor([1.5, 2.5])
    table.put(rows_of(11, 4), {"weight": weights})
    before["weight"][rows_of(11, 4)] = weights
    assert_same(table.take(torch.arange(20)), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_taken_is_a_copy_and_what_is_put_is_copied(backend: str) -> None:
    table = filled(backend, 9)
    before = table.take(torch.arange(9))
    for column in table.take(torch.arange(9)).values():
        column += 1
    vectors = before["vectors"].clone()
    table.put(torch.arange(9), {"vectors": vectors})
    vectors += 1
    table.gather(torch.arange(9)).add_(1)
    assert_same(table.take(torch.arange(9)), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_stay_true_while_the_table_grows(backend: str) -> None:
    table = row_table(4, False, backend)
    table.extend(2)
    views = {name: table.column(name) for name in names_of(False)}
    table.extend(200_000)
    columns = random_columns(2, 4, moments=False)
    table.put(torch.arange(2), columns)
    assert_same(views, columns)
    views["weight"][1] = 0.5
    assert table.column("weight", 1, 3).tolist() == [0.5, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_growth_leaves_rows_as_they_are(backend: str) -> None:
    table = filled(backend, 5)
    before = table.take(torch.arange(5))
    table.extend(1000)
    assert_same(table.take(torch.arange(5)), before)
    for name, column in table.take(torch.arange(5, 1000)).items():
        assert torch.equal(column, torch.full_like(column, EMPTY[name]))


def test_a_record_is_32_bytes_and_its_columns_are_views_of_them() -> None:
    table = filled("numba", 6, moments=False)
    first = table.column("last_seen_ms")
    for name, offset in RECORD_OFFSETS.items():
        column = table.column(name)
        assert column.stride(0) * column.element_size() == 32
        assert column.data_ptr() == first.data_ptr() + offset
    assert first.data_ptr() % 64 == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 2, 63, 5000])
def test_gather_copies_the_vectors(backend: str, width: int, count: int) -> None:
    table = filled(backend, 300, width)
    rows = torch.randint(300, (2 * count,), generator=torch.Generator().manual_seed(count))[::2]
    expected = table.column("vectors")[rows]
    assert torch.equal(table.gather(rows), expected)
    out = torch.full((count, width), torch.nan)
    assert table.gather(rows, out) is out
    assert torch.equal(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_touch_keeps_the_latest_time_and_counts_each_occurrence(backend: str) -> None:
    table = row_table(2, False, backend)
    table.extend(5)
    table.put(rows_of(1, 2, 3), {"last_seen_ms": rows_of(100, 5, 7)})
    rows, at_ms = rows_of(0, 1, 2, 2, 0, 2, 4), rows_of(50, 60, 70, 90, 99, 80, 3)
    table.touch(rows, at_ms, NO_DECAY)
    assert table.column("last_seen_ms").tolist() == [NEVER_MS, 100, 90, 7, NEVER_MS]
    assert table.column("weight").tolist() == [0, 1, 3, 0, 1]
    assert table.column("marks").tolist() == [0, CHANGED, CHANGED, 0, CHANGED]


@pytest.mark.parametrize("backend", BACKENDS)
def test_touch_and_step_add_to_a_mark_and_leave_the_rest_of_it(backend: str) -> None:
    table = row_table(2, False, backend)
    table.extend(5)
    table.put(rows_of(1, 2, 3), {"marks": torch.full((3,), KNOWN, dtype=torch.uint8)})
    assert table.changed().tolist() == []
    table.touch(rows_of(1, 1), rows_of(1, 2), NO_DECAY)
    table.step(rows_of(2, 0), torch.ones(2, 2), Sgd(0.1), NO_DECAY)
    assert table.column("marks").tolist() == [1, 3, 3, 2, 0]
    assert table.changed().tolist() == [0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 50_003])
def test_changed_rows_are_found_in_order(backend: str, count: int) -> None:
    table = row_table(1, False, backend, Crew(3))
    table.extend(count)
    for share in (0.0, 0.001, 0.5, 1.0):
        generator = torch.Generator().manual_seed(count)
        changed = torch.rand(count, generator=generator) < share
        marks = changed * CHANGED + KNOWN * (torch.rand(count, generator=generator) < 0.5)
        table.put(torch.arange(count), {"marks": marks.to(torch.uint8)})
        assert torch.equal(table.changed(), torch.nonzero(changed).flatten())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cleared_row_starts_like_one_never_used(backend: str) -> None:
    """Re-entry: no optimizer state, count, step or mark of the last owner is left."""
    table, fresh = (row_table(17, True, backend) for _ in range(2))
    decay = Decay(1000, 0, 5000)
    rows = rows_of(3, 1, 3)
    at_ms, grads = rows_of(4000, 4500, 5000), torch.randn(3, 17)

    def use(used: RowTable) -> None:
        used.put(rows_of(3, 1), {"last_seen_ms": rows_of(1, 1)})
        used.touch(rows, at_ms, decay)
        for _ in range(3):
            used.step(rows, grads, Adam(0.1), decay)

    for used in (table, fresh):
        used.extend(5)
        use(used)
    table.clear(rows_of(3))
    for name, column in table.take(rows_of(3)).items():
        assert torch.equal(column, torch.full_like(column, EMPTY[name])), name
    assert_same(table.take(rows_of(1)), fresh.take(rows_of(1)))
    assert table.changed().tolist() == [1]
    table.clear(rows_of(1))
    use(table)
    assert_same(table.take(torch.arange(5)), fresh.take(torch.arange(5)))


@pytest.mark.parametrize("moments", [False, True])
def test_results_are_the_same_bits_for_any_number_of_threads(moments: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    decay = Decay(10_000, 0, 60_000)
    results = []
    batches = [
        (
            # Popular rows in low numbers, as in a real table.
            (torch.rand(20_000, generator=generator) ** 4 * 3000).long(),
            torch.randint(60_000, (20_000,), generator=generator),
            torch.randn(20_000, 17, generator=generator),
        )
        for _ in range(3)
    ]
    for threads in (1, 2, 3, 1):
        table = row_table(17, moments, "numba", Crew(threads))
        table.extend(3000)
        for rows, at_ms, grads in batches:
            table.touch(rows, at_ms, decay)
            table.step(rows, grads, Adam(0.1) if moments else Adagrad(0.1), decay)
        results.append(table.take(torch.arange(3000)))
    for result in results[1:]:
        assert_same(result, results[0])


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_position_has_one_owner_and_owners_have_like_shares(parts: int) -> None:
    rows = np.arange(40_000)
    unsigned = [np.uint64(n) for n in (parts, 0, len(rows), 0)]
    shares = []
    for part in range(parts):
        positions = np.empty(len(rows), np.uint64)
        found = own_positions(np.uint64(part), unsigned[0], rows, *unsigned[1:], positions)
        shares.append(positions[: int(found)])
    assert np.array_equal(np.sort(np.concatenate(shares)), rows)
    assert all(0.9 < len(share) * parts / len(rows) < 1.1 for share in shares)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outside", [-1, 5, 2**62, -(2**63)])
def test_a_row_outside_is_refused_before_anything_is_written(backend: str, outside: int) -> None:
    table = filled(backend, 5)
    before = table.take(torch.arange(5))
    rows, out = rows_of(1, outside), torch.zeros(2, 3)
    calls = [
        lambda: table.gather(rows, out),
        lambda: table.touch(rows, rows_of(1, 1), NO_DECAY),
        lambda: table.step(rows, torch.ones(2, 3), Adagrad(0.1), NO_DECAY),
        lambda: table.put(rows, {"weight": torch.ones(2)}),
        lambda: table.take(rows),
        lambda: table.clear(rows),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=rf"row {outside} is outside 0 \.\. 4"):
            call()
    assert_same(table.take(torch.arange(5)), before)
    assert not out.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_that_do_not_fit_are_refused(backend: str) -> None:
    table, rows = filled(backend, 5, moments=False), rows_of(1, 2)
    with pytest.raises(TypeError, match=r"row numbers are int32 \[2\]"):
        table.gather(rows.int())
    with pytest.raises(TypeError, match="one-dimensional"):
        table.clear(rows[None])
    with pytest.raises(ValueError, match=r"gradients are float32 \[2, 4\].* width 3"):
        table.step(rows, torch.ones(2, 4), Sgd(0.1), NO_DECAY)
    with pytest.raises(ValueError, match=r"gradients are float64"):
        table.step(rows, torch.ones(2, 3).double(), Sgd(0.1), NO_DECAY)
    with pytest.raises(ValueError, match=r"at_ms is int64 \[3\]"):
        table.touch(rows, rows_of(1, 2, 3), NO_DECAY)
    with pytest.raises(ValueError, match=r"out is float32 \[2, 3\].* contiguous"):
        table.gather(rows, torch.empty(3, 2).T)
    with pytest.raises(ValueError, match=r"weight is float64 \[2\].* need float32 \[2\]"):
        table.put(rows, {"weight": torch.ones(2).double()})
    with pytest.raises(ValueError, match=r"vectors is float32 \[2, 2\].* need float32 \[2, 3\]"):
        table.put(rows, {"vectors": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"'moments' is no column; columns are vectors, last_seen"):
        table.take(rows, ["moments"])
    with pytest.raises(ValueError, match=r"'counts' is no column"):
        table.column("counts")
    with pytest.raises(IndexError, match=r"rows 2 \.\. 6 are no range of the rows 0 \.\. 4"):
        table.column("weight", 2, 7)
    with pytest.raises(ValueError, match=r"Adam keeps a moment .* moments=True"):
        table.step(rows, torch.ones(2, 3), Adam(0.1), NO_DECAY)


def test_backends_are_named_and_run_on_the_cpu() -> None:
    assert isinstance(row_table(2, False), NumbaRows)
    with pytest.raises(ValueError, match="'cuda' is unknown; known are reference, numba, triton"):
        row_table(2, False, "cuda")
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="runs on the CPU alone"):
            row_table(2, False, backend, device="cuda")
