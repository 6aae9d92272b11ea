"""Gather, touch and the fused Adagrad step: against the reference, with repeats and odd widths."""

import numpy as np
import pytest
import torch

from kernels.row_update import adagrad, gather, touch

BACKENDS = ("reference", "numba")
# float32 sums in another order: a few units in the last place of numbers near 1.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}
BATCHES = [0, 1, 2, 63, 1000]
WIDTHS = [1, 7, 64, 65]


def batch(rows: int, width: int, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, width, generator=generator)
    chosen = torch.randint(rows, (count,), generator=generator)
    return table, chosen, torch.randn(count, width, generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize("width", WIDTHS)
def test_gather_copies_the_rows(backend: str, count: int, width: int) -> None:
    table, rows, _ = batch(50, width, count)
    found = gather(table, rows, backend)
    assert torch.equal(found, table[rows])
    found += 1
    assert torch.equal(table, batch(50, width, count)[0])


def plain_adagrad(table, squares, rows, grads, rate, eps):  # type: ignore[no-untyped-def]
    """In float64, one distinct row after another."""
    for row in sorted(set(rows.tolist())):
        total = grads[rows == row].sum(axis=0)
        squares[row] += (total**2).mean()
        table[row] -= rate * total / (np.sqrt(squares[row]) + eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize("width", WIDTHS)
def test_adagrad_sums_repeated_rows_and_steps_once(backend: str, count: int, width: int) -> None:
    table, rows, grads = batch(40, width, count)
    squares = torch.rand(40)
    exact = [t.double().numpy().copy() for t in (table, squares)]
    for _ in range(3):
        adagrad(table, squares, rows, grads, 0.05, backend=backend)
        plain_adagrad(*exact, rows.numpy(), grads.double().numpy(), 0.05, 1e-8)
    torch.testing.assert_close(table.double(), torch.from_numpy(exact[0]), **TOLERANCE)
    torch.testing.assert_close(squares.double(), torch.from_numpy(exact[1]), **TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_step_moves_by_the_learning_rate(backend: str) -> None:
    table, squares = torch.zeros(3, 4), torch.zeros(3)
    adagrad(table, squares, torch.tensor([1]), torch.full((1, 4), -5.0), 0.1, backend=backend)
    torch.testing.assert_close(table[1], torch.full((4,), 0.1))
    assert squares.tolist() == [0, 25, 0]
    assert not table[[0, 2]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_gradient_on_a_new_row_is_no_division_by_zero(backend: str) -> None:
    table, squares = torch.ones(2, 4), torch.zeros(2)
    adagrad(table, squares, torch.tensor([1, 1]), torch.zeros(2, 4), 0.1, backend=backend)
    assert torch.equal(table, torch.ones(2, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_are_bit_identical(backend: str) -> None:
    results = []
    for _ in range(3):
        table, rows, grads = batch(500, 64, 20_000)
        squares = torch.zeros(500)
        adagrad(table, squares, rows, grads, 0.05, backend=backend)
        results.append((table, squares))
    assert all(torch.equal(table, results[0][0]) for table, _ in results)
    assert all(torch.equal(squares, results[0][1]) for _, squares in results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_gradients_and_rows_are_read_as_they_look(backend: str) -> None:
    table, rows, grads = batch(30, 8, 40)
    other = table.clone()
    adagrad(table, torch.zeros(30), rows[::2], grads[::2], 0.1, backend=backend)
    adagrad(other, torch.zeros(30), rows[::2].clone(), grads[::2].clone(), 0.1, backend=backend)
    assert torch.equal(table, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_touch_counts_each_occurrence_and_keeps_the_latest_time(backend: str) -> None:
    last_seen, counts = torch.tensor([9, 100, 5, 7]), torch.zeros(4)
    rows, at_ms = torch.tensor([0, 1, 2, 2, 0, 2]), torch.tensor([50, 60, 70, 90, 99, 80])
    touch(last_seen, counts, rows, at_ms, backend)
    assert last_seen.tolist() == [9, 100, 90, 7]
    assert counts.tolist() == [0, 1, 3, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outside", [-1, 5, 2**62, -(2**63)])
def test_a_row_outside_the_table_is_refused_before_anything_is_written(
    backend: str, outside: int
) -> None:
    table, squares, counts = torch.ones(5, 2), torch.zeros(5), torch.zeros(5)
    rows = torch.tensor([1, outside])
    message = rf"row {outside} is outside 0 \.\. 4"
    with pytest.raises(IndexError, match=message):
        gather(table, rows, backend)
    with pytest.raises(IndexError, match=message):
        adagrad(table, squares, rows, torch.ones(2, 2), 0.1, backend=backend)
    with pytest.raises(IndexError, match=message):
        touch(torch.zeros(5, dtype=torch.int64), counts, rows, torch.ones(2).long(), backend)
    assert torch.equal(table, torch.ones(5, 2))
    assert not squares.any()
    assert not counts.any()


def test_tensors_that_do_not_fit_are_refused() -> None:
    table, squares, rows = torch.ones(5, 2), torch.zeros(5), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"gradients are float32 \[2, 3\]"):
        adagrad(table, squares, rows, torch.ones(2, 3), 0.1)
    with pytest.raises(ValueError, match="contiguous"):
        adagrad(table, squares[:4], rows, torch.ones(2, 2), 0.1)
    with pytest.raises(ValueError, match="contiguous"):
        gather(torch.ones(5, 4)[:, ::2], rows)
    with pytest.raises(TypeError, match="int64"):
        gather(table, rows.int())
    with pytest.raises(ValueError, match="at_ms"):
        touch(torch.zeros(5).long(), squares, rows, torch.ones(3).long())


def test_gradients_may_come_from_autograd() -> None:
    table, rows, _ = batch(10, 4, 6)
    leaf = gather(table, rows).requires_grad_()
    leaf.square().sum().backward()
    assert leaf.grad is not None
    adagrad(table, torch.zeros(10), rows, leaf.grad, 0.1)
