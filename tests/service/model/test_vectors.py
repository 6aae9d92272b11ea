"""Vectors in the precision of a snapshot: their bytes, and that nothing is rounded again."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.reserved import page_bytes
from kernels.row_codes import Codes, decode, encode
from service.model import vectors
from service.model.vectors import Vectors

PRECISIONS = ("int8", "int4", "fp16", "fp32")
BYTES = {"int8": (64, 2, 2), "int4": (32, 2, 2), "fp16": (128,), "fp32": (256,)}
"""Of a row of width 64: its numbers, and of codes scale and bias."""
NONE = np.zeros(0, np.int64)


def rows_in(precision: str, rows: int, seed: int = 1, width: int = 64) -> Codes | Tensor:
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    if precision.startswith("int"):
        return encode(values, int(precision[3:]))
    return values.half() if precision == "fp16" else values


def decoded(codes: Codes | Tensor) -> Tensor:
    return codes.float() if isinstance(codes, Tensor) else decode(codes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_takes_the_bytes_of_its_precision(precision: str) -> None:
    rows, page = 150_000, page_bytes()
    held = Vectors(rows_in(precision, rows))
    assert held.nbytes == sum(-(-rows * each // page) * page for each in BYTES[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_gathered_as_they_decode(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHUNK_ROWS", 7)
    codes = rows_in(precision, 50, width=34)
    held, asked = Vectors(codes), torch.tensor([3, 0, 49, 3])
    assert (len(held), held.width) == (50, 34)
    assert torch.equal(held.gather(asked), decoded(codes)[asked])
    chunks = [(first, len(part)) for first, part in held.chunks()]
    assert chunks == [(first, min(7, 50 - first)) for first in range(0, 50, 7)]
    assert torch.equal(torch.cat([part for _, part in held.chunks()]), decoded(codes))
    with pytest.raises(IndexError):
        held.gather(torch.tensor([50]))


@pytest.mark.parametrize(("first", "second"), [*itertools.product(PRECISIONS, repeat=2)])
def test_rows_of_any_precision_are_written_beside_others_without_rounding(
    first: str, second: str
) -> None:
    before, new = rows_in(first, 20), rows_in(second, 3, seed=2)
    held = Vectors(before)
    fit = held.fit_for(new)
    assert (fit is held) == (fit.table.kind == held.table.kind)
    fit.apply(22, np.array([4, 5]), np.array([5, 20, 21]), fit.parts_of(new))
    expected = torch.cat([decoded(before), torch.zeros(2, 64)])
    expected[4] = 0
    expected[[5, 20, 21]] = decoded(new)
    assert torch.equal(fit.gather(torch.arange(22)), expected)
    if fit is not held:
        assert torch.equal(held.gather(torch.arange(20)), decoded(before))


def test_rows_stay_as_small_as_they_can() -> None:
    kinds = {
        (first, second): int(Vectors(rows_in(first, 2)).fit_for(rows_in(second, 1)).table.row_bytes)
        for first, second in itertools.product(PRECISIONS, repeat=2)
    }
    assert {pair for pair, size in kinds.items() if size == 32} == {("int4", "int4")}
    assert {pair for pair, size in kinds.items() if size == 64} == {
        ("int8", "int8"), ("int8", "int4"), ("int4", "int8"),
    }  # fmt: skip
    assert {pair for pair, size in kinds.items() if size == 128} == {("fp16", "fp16")}
    assert set(kinds.values()) == {32, 64, 128, 256}


def test_what_was_prepared_changes_nothing() -> None:
    codes = rows_in("int8", 10)
    held = Vectors(codes)
    held.parts_of(rows_in("int4", 5, seed=2))
    held.fit_for(rows_in("fp32", 5, seed=2))
    assert len(held) == 10
    assert torch.equal(held.gather(torch.arange(10)), decoded(codes))
    held.apply(10, NONE, NONE, held.parts_of(rows_in("int8", 0)))
    assert torch.equal(held.gather(torch.arange(10)), decoded(codes))
