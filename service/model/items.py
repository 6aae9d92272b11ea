"""The item slot of a server: a million rows that change in place between two requests.

Vectors stay in the precision of the snapshot and are decoded where they are read. What changes is
prepared on any thread, without a change, while the rows answer; `apply` then only scatters what is
ready and swaps references. Rows lie in memory that grows without moving. A row that is freed
becomes zero with a prior of minus infinity, so that no search finds it, until a new key takes it.

What the categories of an item add to its vector (`service.model.categories`) is added where it is
read: vectors of categories change at once for all rows. Only lengths are kept of the sums.

Shapes: R rows ever used, row 0 being the unknown item; M written rows, T removed keys, C asked for;
D width, P half-lives, K codes of a row, G codes of all categories.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.crew import Crew
from kernels.key_index import RESERVED_KEY, key_index
from kernels.reserved import Reserved
from kernels.row_codes import Codes
from service.actions import Id
from service.model.allowed import EVERYTHING, Allowed
from service.model.best import Best, best_rows
from service.model.categories import NOTHING, SLOTS, Categories
from service.model.ids import IdStep, ItemIds
from service.model.prior import COUNTS, Floats, Prior
from service.model.scans import EPS, coded_inverses, inverses, logits_of, logits_of_all
from service.model.vectors import Parts, Vectors
from service.versions import SlotRows

Longs = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int16]

NO_CODES = np.zeros(0, np.int16)
NO_PRODUCTS = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class RowStep:
    """What `apply` writes: removed keys, then M rows, the unknown one first."""

    removed_T: Tensor
    keys_M: Tensor
    vectors: Vectors
    """Those that `parts` are written into: a copy where the rows as they are have no precision that
    fits."""
    parts: Parts
    codes_MK: Shorts
    inverse_M: Floats
    inverse_R: Floats | None
    """Of the rows as they are, if vectors of categories are not what they were."""
    counts: Floats
    prior_M: Floats
    prior_R: Floats
    """Of all rows, with room for M more; those that are written follow from `prior_M`."""
    ids: IdStep
    precision: str
    categories: Categories | None
    coded: bool
    """Whether any row has a category by then."""

    @property
    def touched_keys(self) -> Longs:
        """Keys of items whose rows come, go or change; some may stand twice."""
        keys: Longs = torch.cat([self.removed_T, self.keys_M]).numpy()
        return keys


class ItemRows:
    """Vectors, codes of categories, the inverse of lengths, counts, ids, priors.

    One thread owns it: it alone reads while it applies, and applies while nobody reads.
    """

    def __init__(self, rows: SlotRows, prior: Prior, categories: Categories | None = None) -> None:
        """Take over whole rows. Raises KeyError without counts, ValueError for a wrong width or
        codes that `categories` has not."""
        self.width, self.precision = rows.width, rows.precision
        counts = _counts(rows, prior)
        self._index = key_index("numba")
        self._index.load({"keys": rows.keys_R[1:], "free": rows.keys_R[:0]})
        self._vectors, self._inverse = Vectors(rows.codes), Reserved(np.float32)
        self._counts = Reserved(np.float32, len(prior.factor_P))
        self._codes, self._categories = Reserved(np.int16, SLOTS), categories
        self._coded = rows.categories is not None
        codes = self._codes.extend(len(rows))
        if self._coded:
            codes.reshape(-1, SLOTS)[:] = _codes_of(rows, categories)
        self._inverses(categories, self._coded, self._inverse.extend(len(rows)))
        self._counts.extend(len(rows))[:] = counts
        self._prior_R = prior(self._counts.flat)
        self._ids = ItemIds.of(rows.ids, len(rows))

    def __len__(self) -> int:
        """R: the rows that `logits_of_all` speaks of, freed ones among them."""
        return self._inverse.length

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, lengths, counts, priors, categories and the index; ids on top."""
        columns = self._inverse.nbytes + self._counts.nbytes + self._prior_R.nbytes
        codes = self._codes.nbytes if self._coded else 0
        return self._vectors.nbytes + columns + codes + self._index.nbytes

    @property
    def vector_bytes(self) -> int:
        """Bytes of the vectors alone."""
        return self._vectors.nbytes

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
        """The vectors of items by row, [C, D]."""
        own_CD = self._vectors.gather(rows_C)
        codes_CK = self.categories_of(rows_C)
        if codes_CK is None or self._categories is None:
            return own_CD
        vectors_CD: Tensor = self._categories(own_CD, codes_CK)
        return vectors_CD

    def codes(self) -> Codes | Tensor:
        """The vectors of all rows as they are kept; true until the next `apply`."""
        return self._vectors.codes()

    def categories_of(self, rows_C: Tensor) -> Tensor | None:
        """The codes of rows' categories, int32 [C, K]; None while no row has any."""
        if not self._coded:
            return None
        codes_RK = torch.from_numpy(self._codes.flat).view(-1, SLOTS)
        return codes_RK.index_select(0, rows_C).int()

    def unknown(self, codes_NK: Tensor) -> Tensor:
        """The vectors [N, D] of items without a row, by the codes of their categories."""
        unknown_ND = self._vectors.gather(torch.zeros(len(codes_NK), dtype=torch.int64))
        if self._categories is None:
            return unknown_ND
        vectors_ND: Tensor = self._categories(unknown_ND, codes_NK)
        return vectors_ND

    def logits_of_unknown(self, user_D: Tensor, vectors_ND: Tensor) -> Tensor:
        """What `logits` says of items without a row that have these vectors, [N]."""
        lengths_N = vectors_ND.norm(dim=1).clamp(min=float(EPS))
        logits_N: Tensor = vectors_ND @ user_D / lengths_N + float(self._prior_R[0])
        return logits_N

    def logits(self, user_D: Tensor, rows_C: Tensor) -> Tensor:
        """Cosine with `user_D`, times its length, plus the prior: of the rows asked for, [C]."""
        out_C = np.empty(len(rows_C), np.float32)
        logits_of(*(*self._columns(user_D), rows_C.numpy(), out_C))
        return torch.from_numpy(out_C)

    def logits_of_all(self, user_D: Tensor) -> Tensor:
        """The same of every row, [R]; minus infinity for freed ones."""
        out_R = np.empty(len(self), np.float32)
        logits_of_all(*(*self._columns(user_D), out_R))
        return torch.from_numpy(out_R)

    def best(
        self, user_D: Tensor, count: int, allowed: Allowed, excluded_E: Longs, crew: Crew
    ) -> Best:
        """The `count` items with the highest logits of those that may be found: the same, of equal
        ones the first rows, that sorting `logits_of_all` would find.

        excluded_E: rows that are not to be found, in any order.
        """
        return best_rows(self._columns(user_D), count, allowed, np.unique(excluded_E), crew)

    def _columns(self, user_D: Tensor) -> tuple[Any, ...]:
        """What a row's logit is made of, and the user's vector."""
        codes, of_codes = NO_CODES, NO_PRODUCTS
        if self._coded:
            codes, of_codes = self._codes.flat, self._of_codes(user_D)
        user = user_D.contiguous().numpy()
        return self._vectors.table, self._inverse.flat, self._prior_R, codes, of_codes, user

    def _of_codes(self, user_D: Tensor) -> Floats:
        """The product of a user's vector and every category's, [G]; 0 for none."""
        assert self._categories is not None
        products_G: Floats = torch.mv(self._categories.weight.detach(), user_D).numpy()
        products_G[NOTHING] = 0
        return products_G

    def _inverses(self, categories: Categories | None, coded: bool, inverse_R: Floats) -> None:
        """Write the inverse length of every row's vector with what its categories add."""
        for first, part_ND in self._vectors.chunks():
            end = first + len(part_ND)
            codes = self._codes.flat[first * SLOTS : end * SLOTS]
            _inverses(part_ND, codes, categories if coded else None, inverse_R[first:end])

    def prepare(
        self, rows: SlotRows, removed_T: Tensor, prior: Prior, categories: Categories | None = None
    ) -> RowStep:
        """What changes when these keys go and these rows come, and then the prior of every row.

        Changes nothing; reads rows that must not change meanwhile. Raises what the constructor
        does, and MemoryError when there is no room for the rows.
        """
        if rows.width != self.width:
            raise ValueError(f"rows are {rows.width} wide, those they change {self.width}")
        if (removed_T == RESERVED_KEY).any():
            raise ValueError("the unknown row is among those removed")
        counts = _counts(rows, prior)
        for column in (self._inverse, self._counts):
            column.ahead(len(self) + len(rows))
        vectors = self._vectors.fit_for(rows.codes)
        parts = vectors.parts_of(rows.codes)
        codes_MK, coded = _codes_of(rows, categories), self._coded or rows.categories is not None
        inverse_M, inverse_R = np.empty(len(rows), np.float32), None
        known = categories if coded else None
        _inverses(rows.vectors(), codes_MK.reshape(-1), known, inverse_M)
        if self._coded and categories is not self._categories:
            inverse_R = np.empty(len(self), np.float32)
            self._inverses(categories, True, inverse_R)
        prior_R = np.empty(len(self) + len(rows), np.float32)
        prior_R[: len(self)] = prior(self._counts.flat)
        prior_R[1 : len(self)][self._index.keys().numpy() == RESERVED_KEY] = -np.inf
        ids = self._ids.prepare(rows.ids, len(rows))
        return RowStep(
            removed_T, rows.keys_R[1:], vectors, parts, codes_MK, inverse_M, inverse_R, counts,
            prior(counts), prior_R, ids, rows.precision, categories, coded,
        )  # fmt: skip

    def apply(self, step: RowStep) -> None:
        """Make a step's change; it was prepared for the rows as they are."""
        freed_T = self._index.remove(step.removed_T).numpy()
        freed_T = freed_T[freed_T >= 0] + 1
        rows_M = np.zeros(len(step.keys_M) + 1, np.int64)
        rows_M[1:] = self._index.insert(step.keys_M)[0].numpy() + 1
        end = self._index.rows_end + 1
        inverse_R, codes_RK = self._inverse.extend(end), self._codes.extend(end).reshape(-1, SLOTS)
        counts_RP = self._counts.extend(end).reshape(end, -1)
        if step.inverse_R is not None:
            inverse_R[: len(step.inverse_R)] = step.inverse_R
        if step.coded:
            codes_RK[freed_T] = 0
            codes_RK[rows_M] = step.codes_MK
        self._categories, self._coded = step.categories, step.coded
        step.prior_R[freed_T] = -np.inf
        step.prior_R[rows_M] = step.prior_M
        self._prior_R = step.prior_R[:end]
        inverse_R[freed_T], counts_RP[freed_T] = 0, 0
        inverse_R[rows_M], counts_RP[rows_M] = step.inverse_M, step.counts.reshape(len(rows_M), -1)
        self._vectors = step.vectors
        self._vectors.apply(end, freed_T, rows_M, step.parts)
        self._ids.apply(step.ids, freed_T, rows_M, end)
        self.precision = step.precision

    def rehearse(self) -> None:
        """Prepare, apply and read a change of two rows elsewhere, with categories and without, so
        that the first real ones pay for no compilation."""
        width, half_lives = self.width, self._counts.flat.size // len(self)
        plain = SlotRows(
            torch.tensor([RESERVED_KEY, 1]), torch.zeros(2, width),
            {COUNTS: torch.zeros(2, half_lives)},
        )  # fmt: skip
        prior, user_D = Prior(0, *np.ones((2, half_lives), np.float32)), torch.zeros(width)
        for one in (plain, replace(plain, categories=torch.zeros(2, 1, dtype=torch.int16))):
            rows = ItemRows(one, prior, Categories(1, width))
            rows.apply(rows.prepare(one, torch.tensor([1]), prior, Categories(1, width)))
            rows.logits(user_D, torch.zeros(1, dtype=torch.int64))
            rows.logits_of_all(user_D)
            rows.best(user_D, 1, EVERYTHING, np.zeros(1, np.int64), Crew())


def _codes_of(rows: SlotRows, categories: Categories | None) -> Shorts:
    """Codes [N, SLOTS] of rows. Raises ValueError for codes that the model has no vector for."""
    codes_NK = np.zeros((len(rows), SLOTS), np.int16)
    if rows.categories is not None:
        given_NK, most = rows.categories.numpy(), 0 if categories is None else len(categories.keys)
        if given_NK.shape[1] > SLOTS or int(given_NK.max(initial=-1)) >= max(most, 1):
            raise ValueError(
                f"rows have {given_NK.shape[1]} categories with codes up to "
                f"{given_NK.max(initial=-1)}, the model {SLOTS} with codes below {most}"
            )
        codes_NK[:, : given_NK.shape[1]] = given_NK
    return codes_NK


def _inverses(
    vectors_ND: Tensor, codes: Shorts, categories: Categories | None, inverse_N: Floats
) -> None:
    """Write the inverse length of vectors with what categories add, if there are any."""
    vectors, width = _flat(vectors_ND), np.uint64(vectors_ND.shape[1])
    if categories is None:
        inverses(vectors, width, inverse_N)
    else:
        coded_inverses(vectors, width, codes, _flat(categories.weight.detach()), inverse_N)


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
