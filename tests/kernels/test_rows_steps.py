"""Optimizer steps: against formulas written out in float64, and the backends among each other."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.rows import Adagrad, Adam, Decay, FrequencySgd, Optimizer, RowTable, Sgd, row_table

BACKENDS = ("reference", "numba")
WIDTHS = [1, 3, 16, 17, 64, 100]
OPTIMIZERS = [Adagrad(0.05), Adam(0.03, 0.8, 0.99), Sgd(0.1), FrequencySgd(0.1)]
# float32 sums in another order: a few units in the last place of numbers near 1.
TOLERANCE = {"rtol": 1e-5, "atol": 3e-6}
DECAY = Decay(1000, 0, 9000)
ROWS = 40


def a_table(backend: str, width: int, rows: int = ROWS, threads: int = 1) -> RowTable:
    """Random vectors, some occurrences, no steps yet."""
    generator = torch.Generator().manual_seed(width)
    table = row_table(width, True, backend, Crew(threads))
    table.extend(rows)
    vectors = torch.randn(rows, width, generator=generator)
    table.put(torch.arange(rows), {"vectors": vectors})
    seen = torch.randint(rows, (200,), generator=generator)
    table.touch(seen, torch.randint(9000, (200,), generator=generator), DECAY)
    return table


def a_batch(count: int, width: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    chosen = torch.randint(rows, (count,), generator=generator)
    return chosen, torch.randn(count, width, generator=generator)


def plain_step(rows: dict[str, Any], batch: Any, grads: Any, optimizer: Optimizer) -> None:
    """In float64, one distinct row after another."""
    for row in sorted(set(batch.tolist())):
        g = grads[batch == row].sum(axis=0)
        mean = (g**2).mean()
        rows["steps"][row] += 1
        t = rows["steps"][row]
        old = rows["gradient_norm"][row]
        rows["gradient_norm"][row] = mean**0.5 if t == 1 else 0.9 * old + 0.1 * mean**0.5
        rate, direction = optimizer.learning_rate, g
        if isinstance(optimizer, Adagrad):
            rows["square"][row] += mean
            rate /= rows["square"][row] ** 0.5 + optimizer.eps
        elif isinstance(optimizer, Adam):
            b1, b2 = optimizer.beta1, optimizer.beta2
            rows["moments"][row] = b1 * rows["moments"][row] + (1 - b1) * g
            rows["square"][row] = b2 * rows["square"][row] + (1 - b2) * mean
            direction = rows["moments"][row] / (1 - b1**t)
            rate /= (rows["square"][row] / (1 - b2**t)) ** 0.5 + optimizer.eps
        elif isinstance(optimizer, FrequencySgd):
            count = rows["weight"][row] / 2 ** (DECAY.now_ms / 1000)
            rate /= max(1, count) ** 0.5
        rows["vectors"][row] -= rate * direction


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("width", WIDTHS)
def test_steps_follow_the_formulas(backend: str, optimizer: Optimizer, width: int) -> None:
    table = a_table(backend, width)
    exact = {name: c.double().numpy() for name, c in table.take(torch.arange(ROWS)).items()}
    for count in (0, 1, 2, 63, 1000, 1000):
        rows, grads = a_batch(count, width)
        table.step(rows, grads, optimizer, DECAY)
        plain_step(exact, rows.numpy(), grads.double().numpy(), optimizer)
    exact["marks"][:] = 1
    for name, column in table.take(torch.arange(ROWS)).items():
        torch.testing.assert_close(
            column.double(), torch.from_numpy(exact[name]), msg=lambda m, n=name: n + m, **TOLERANCE
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_large_batches_agree_with_the_reference(optimizer: Optimizer) -> None:
    """Thousands of rows, a few of them in every tenth position; rows that lie a power of two apart
    meet in a hash table; scratch grows between the steps."""
    tables = [a_table(backend, 5, 70_000, threads=2) for backend in BACKENDS]
    generator = torch.Generator().manual_seed(3)
    for count in (5000, 20_000):
        rows = torch.randint(1024, (count,), generator=generator) * 64
        hot = torch.rand(count, generator=generator) < 0.1
        rows[hot] = torch.randint(3, (int(hot.sum()),), generator=generator)
        grads = torch.randn(count, 5, generator=generator)
        for table in tables:
            table.step(rows, grads, optimizer, DECAY)
    expected, found = (table.take(torch.arange(70_000)) for table in tables)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_many_small_batches_agree_with_the_reference() -> None:
    """63 positions fill the hash table of a batch as far as it goes, its last slot included."""
    tables = [a_table(backend, 1, 200) for backend in BACKENDS]
    generator = torch.Generator().manual_seed(5)
    for _ in range(300):
        rows = torch.randint(200, (63,), generator=generator)
        grads = torch.randn(63, 1, generator=generator)
        for table in tables:
            table.step(rows, grads, Sgd(0.01), DECAY)
    expected, found = (table.take(torch.arange(200)) for table in tables)
    assert torch.equal(found["steps"], expected["steps"])
    torch.testing.assert_close(found["vectors"], expected["vectors"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_of_a_row_are_summed_in_batch_order(backend: str, threads: int) -> None:
    rows, grads = a_batch(30_000, 3, rows=7)
    table = row_table(3, False, backend, Crew(threads))
    table.extend(7)
    table.step(rows, grads, Sgd(1.0), DECAY)
    sums = np.zeros((7, 3), np.float32)
    for row, grad in zip(rows.tolist(), grads.numpy(), strict=True):
        sums[row] += grad
    assert np.array_equal(table.column("vectors").numpy(), -sums)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", [Adagrad(0.1), Adam(0.1)], ids=["Adagrad", "Adam"])
def test_a_new_rows_first_step_has_full_size(backend: str, optimizer: Optimizer) -> None:
    """Whatever the size of its gradient, and however many steps other rows have taken."""
    table = row_table(4, True, backend)
    table.extend(3)
    for _ in range(50):
        table.step(torch.tensor([2]), torch.ones(1, 4), optimizer, DECAY)
    table.step(torch.tensor([1, 1]), torch.full((2, 4), -500.0), optimizer, DECAY)
    torch.testing.assert_close(table.column("vectors")[1], torch.full((4,), 0.1))
    assert table.column("steps").tolist() == [0, 1, 50]
    assert table.column("gradient_norm").tolist() == pytest.approx([0, 1000, 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_a_zero_gradient_on_a_new_row_moves_nothing(backend: str, optimizer: Optimizer) -> None:
    table = row_table(4, True, backend)
    table.extend(2)
    table.put(torch.tensor([1]), {"vectors": torch.ones(1, 4)})
    table.step(torch.tensor([1, 1]), torch.zeros(2, 4), optimizer, DECAY)
    assert torch.equal(table.column("vectors")[1], torch.ones(4))
    assert table.column("steps").tolist() == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_frequent_rows_take_smaller_steps_until_their_counts_decay(backend: str) -> None:
    table = row_table(1, False, backend)
    table.extend(3)
    rows = torch.tensor([1] * 16 + [2])
    table.touch(rows, torch.full((17,), 5000), DECAY)
    moves = []
    for now_ms in (5000, 7000, 50_000):
        before = table.column("vectors").clone()
        decay = Decay(1000, 0, now_ms)
        table.step(torch.arange(3), torch.ones(3, 1), FrequencySgd(1.0), decay)
        moves.append((before - table.column("vectors")).flatten().tolist())
    assert moves[0] == pytest.approx([1, 1 / 4, 1])
    assert moves[1] == pytest.approx([1, 1 / 2, 1])
    assert moves[2] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_gradients_and_rows_are_read_as_they_look(backend: str) -> None:
    rows, grads = a_batch(40, 8)
    table, other = a_table(backend, 8), a_table(backend, 8)
    table.step(rows[::2], grads[::2], Adagrad(0.1), DECAY)
    other.step(rows[::2].clone(), grads[::2].clone(), Adagrad(0.1), DECAY)
    assert torch.equal(table.column("vectors"), other.column("vectors"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_may_come_from_autograd(backend: str) -> None:
    table = a_table(backend, 4)
    rows, _ = a_batch(6, 4)
    leaf = table.gather(rows).requires_grad_()
    leaf.square().sum().backward()
    before = table.column("vectors").clone()
    table.step(rows, leaf.grad if leaf.grad is not None else leaf, Sgd(0.01), DECAY)
    moved = (table.column("vectors") - before).abs().sum(dim=1) > 0
    assert torch.equal(torch.nonzero(moved).flatten(), rows.unique())
