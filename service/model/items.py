"""The item slot of a server: a million rows that change in place between two requests.

What changes is prepared on any thread, without a change, while the rows answer; `apply` then only
scatters what is ready and swaps references. Rows lie in memory that grows without moving. A row
that is freed becomes zero with a prior of minus infinity, so that no search finds it, until a new
key takes it.

Shapes: R rows ever used, row 0 being the unknown item; M written rows, T removed keys, C asked for;
D width, P half-lives.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from kernels.key_index import RESERVED_KEY, key_index
from kernels.reserved import Reserved
from service.actions import Id
from service.model.ids import IdStep, ItemIds
from service.model.prior import COUNTS, Floats, Prior
from service.versions import SlotRows

Longs = npt.NDArray[np.int64]

EPS = np.float32(1e-6)
"""Shortest vector that has a direction."""
CHUNK_ROWS = 1 << 14
"""Rows decoded at a time when all are: they stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class RowStep:
    """What `apply` writes: removed keys, then M rows, the unknown one first."""

    removed_T: Tensor
    keys_M: Tensor
    vectors: Floats
    inverse_M: Floats
    counts: Floats
    prior_M: Floats
    prior_R: Floats
    """Of all rows, with room for M more; those that are written follow from `prior_M`."""
    ids: IdStep
    precision: str


class ItemRows:
    """Vectors in full precision with the inverse of their lengths, counts, ids, and priors.

    One thread owns it: it alone reads while it applies, and applies while nobody reads.
    """

    def __init__(self, rows: SlotRows, prior: Prior) -> None:
        """Take over whole rows. Raises KeyError without counts, ValueError for a wrong width."""
        self.width, self.precision = rows.width, rows.precision
        counts = _counts(rows, prior)
        self._index = key_index("numba")
        self._index.load({"keys": rows.keys_R[1:], "free": rows.keys_R[:0]})
        self._vectors, self._inverse = Reserved(np.float32, rows.width), Reserved(np.float32)
        self._counts = Reserved(np.float32, len(prior.factor_P))
        vectors = self._vectors.extend(len(rows))
        for first in range(0, len(rows), CHUNK_ROWS):
            chunk_C = torch.arange(first, min(first + CHUNK_ROWS, len(rows)))
            part = _flat(rows.gather(chunk_C))
            vectors[first * rows.width : first * rows.width + len(part)] = part
        _inverses(vectors, np.uint64(rows.width), self._inverse.extend(len(rows)))
        self._counts.extend(len(rows))[:] = counts
        self._prior_R = prior(self._counts.flat)
        self._ids = ItemIds.of(rows.ids, len(rows))

    def __len__(self) -> int:
        """R: the rows that `logits_of_all` speaks of, freed ones among them."""
        return self._inverse.length

    def rows(self, keys_C: Longs) -> Tensor:
        """Row of each key, 0 (the unknown row) for items without one."""
        return self._index.lookup(torch.from_numpy(keys_C)) + 1

    def live_keys(self) -> Longs:
        """The keys that have a row, in the order of their rows."""
        keys_R = self._index.keys().numpy()
        live: Longs = keys_R[keys_R != RESERVED_KEY]
        return live

    def keys_of(self, rows_C: Tensor) -> Longs:
        """The keys of rows; none of them the unknown one."""
        keys_C: Longs = self._index.key_at(rows_C - 1).numpy()
        return keys_C

    def ids_of(self, rows_C: Tensor) -> list[Id]:
        """The original ids of rows; none of them the unknown one."""
        pairs = zip(rows_C.tolist(), self.keys_of(rows_C).tolist(), strict=True)
        return [self._ids.at(row, key) for row, key in pairs]

    def gather(self, rows_C: Tensor) -> Tensor:
        """The vectors of rows, [C, D]."""
        vectors_RD = torch.from_numpy(self._vectors.flat).view(-1, self.width)
        return vectors_RD.index_select(0, rows_C)

    def logits(self, user_D: Tensor, rows_C: Tensor) -> Tensor:
        """Cosine with `user_D`, times its length, plus the prior: of the rows asked for, [C]."""
        return self._logits(user_D, rows_C.numpy(), len(rows_C))

    def logits_of_all(self, user_D: Tensor) -> Tensor:
        """The same of every row, [R]; minus infinity for freed ones."""
        return self._logits(user_D, None, len(self))

    def _logits(self, user_D: Tensor, rows: Longs | None, count: int) -> Tensor:
        out = np.empty(count, np.float32)
        columns = self._vectors.flat, np.uint64(self.width), self._inverse.flat, self._prior_R
        if rows is None:
            _logits_of_all(*columns, user_D.numpy(), out)
        else:
            _logits_of(*columns, user_D.numpy(), rows, out)
        return torch.from_numpy(out)

    def prepare(self, rows: SlotRows, removed_T: Tensor, prior: Prior) -> RowStep:
        """What changes when these keys go and these rows come, and then the prior of every row.

        Changes nothing; reads rows that must not change meanwhile. Raises what the constructor
        does, and MemoryError when there is no room for the rows.
        """
        if rows.width != self.width:
            raise ValueError(f"rows are {rows.width} wide, those they change {self.width}")
        if (removed_T == RESERVED_KEY).any():
            raise ValueError("the unknown row is among those removed")
        counts = _counts(rows, prior)
        for column in (self._vectors, self._inverse, self._counts):
            column.ahead(len(self) + len(rows))
        vectors = _flat(rows.gather(torch.arange(len(rows))))
        inverse_M = np.empty(len(rows), np.float32)
        _inverses(vectors, np.uint64(self.width), inverse_M)
        prior_R = np.empty(len(self) + len(rows), np.float32)
        prior_R[: len(self)] = prior(self._counts.flat)
        prior_R[1 : len(self)][self._index.keys().numpy() == RESERVED_KEY] = -np.inf
        ids = self._ids.prepare(rows.ids, len(rows))
        return RowStep(
            removed_T, rows.keys_R[1:], vectors, inverse_M, counts, prior(counts), prior_R, ids,
            rows.precision,
        )  # fmt: skip

    def apply(self, step: RowStep) -> None:
        """Make a step's change; it was prepared for the rows as they are."""
        freed_T = self._index.remove(step.removed_T).numpy()
        freed_T = freed_T[freed_T >= 0] + 1
        rows_M = np.zeros(len(step.keys_M) + 1, np.int64)
        rows_M[1:] = self._index.insert(step.keys_M)[0].numpy() + 1
        end = self._index.rows_end + 1
        columns = self._vectors.extend(end), self._inverse.extend(end), self._counts.extend(end)
        step.prior_R[freed_T] = -np.inf
        step.prior_R[rows_M] = step.prior_M
        self._prior_R = step.prior_R[:end]
        _clear(*columns, np.uint64(self.width), freed_T)
        new = step.vectors, step.inverse_M, step.counts
        _write(*columns, np.uint64(self.width), rows_M, *new)
        self._ids.apply(step.ids, freed_T, rows_M, end)
        self.precision = step.precision

    def rehearse(self) -> None:
        """Prepare and apply a change of two rows elsewhere, so that the first real one pays for no
        compilation."""
        width, half_lives = self.width, self._counts.flat.size // len(self)
        one = SlotRows(
            torch.tensor([RESERVED_KEY, 1]), torch.zeros(2, width),
            {COUNTS: torch.zeros(2, half_lives)},
        )  # fmt: skip
        prior = Prior(0, *np.ones((2, half_lives), np.float32))
        rows = ItemRows(one, prior)
        rows.apply(rows.prepare(one, torch.tensor([1]), prior))


def _flat(rows_ND: Tensor) -> Floats:
    flat: Floats = rows_ND.contiguous().view(-1).numpy()
    return flat


def _counts(rows: SlotRows, prior: Prior) -> Floats:
    counts_RP = rows.extra[COUNTS]
    if list(counts_RP.shape) != [len(rows), len(prior.factor_P)]:
        raise ValueError(
            f"item counts are {list(counts_RP.shape)} where {len(rows)} rows have "
            f"{len(prior.factor_P)} half-lives"
        )
    return _flat(counts_RP)


@njit(cache=True, nogil=True)
def _inverses(vectors: Any, width: Any, inverse: Any) -> None:
    for r in range(len(inverse)):
        inverse[r] = _inverse_length(vectors, np.uint64(r) * width, width)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _inverse_length(vectors: Any, base: Any, width: Any) -> Any:
    total = np.float32(0)
    for d in range(width):
        total += vectors[base + d] * vectors[base + d]
    return np.float32(1) / max(np.sqrt(total), EPS)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(vectors: Any, base: Any, width: Any, user: Any) -> Any:
    """Sums in lanes, in an order that depends on the width alone."""
    total = np.float32(0)
    for d in range(width):
        total += vectors[base + d] * user[d]
    return total


@njit(cache=True, nogil=True)
def _logits_of_all(vectors: Any, width: Any, inverse: Any, prior: Any, user: Any, out: Any) -> None:
    for r in range(len(out)):
        out[r] = _dot(vectors, np.uint64(r) * width, width, user) * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def _logits_of(
    vectors: Any, width: Any, inverse: Any, prior: Any, user: Any, rows: Any, out: Any
) -> None:
    for i in range(len(out)):
        r = np.uint64(rows[i])
        out[i] = _dot(vectors, r * width, width, user) * inverse[r] + prior[r]


@njit(cache=True, nogil=True)
def _clear(vectors: Any, inverse: Any, counts: Any, width: Any, rows: Any) -> None:
    half_lives = np.uint64(len(counts) // len(inverse))
    for i in range(len(rows)):
        r = np.uint64(rows[i])
        vectors[r * width : (r + np.uint64(1)) * width] = 0
        counts[r * half_lives : (r + np.uint64(1)) * half_lives] = 0
        inverse[r] = 0


@njit(cache=True, nogil=True)
def _write(
    vectors: Any, inverse: Any, counts: Any, width: Any, rows: Any,
    new_vectors: Any, new_inverse: Any, new_counts: Any,
) -> None:  # fmt: skip
    half_lives = np.uint64(len(counts) // len(inverse))
    for i in range(len(rows)):
        r, source = np.uint64(rows[i]), np.uint64(i)
        for d in range(width):
            vectors[r * width + d] = new_vectors[source * width + d]
        for p in range(half_lives):
            counts[r * half_lives + p] = new_counts[source * half_lives + p]
        inverse[r] = new_inverse[source]
