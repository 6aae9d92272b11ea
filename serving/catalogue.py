"""What is known of items, in columns: who may be returned, and what speaks for items without a row.

One thread owns it: the engine's. What a block says is prepared beside it (`prepare`, which changes
nothing) and applied between two requests. An item costs about 60 bytes and its id, 8 more for each
feature that can be asked for; a set of categories, however many items have it, about 400.

Shapes: P places of items, in the order in which they came but for those of deleted ones, which are
taken again; S sets of categories, B those in the order of their logits; M items of a block, X
deleted ones; R rows of the served version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from kernels.key_index import RESERVED_KEY, key_index
from kernels.reserved import Reserved
from service.actions import Id, key_of
from service.histories.rings import Longs
from service.items import Item, Scalar
from service.model.allowed import EVERYTHING, Allowed
from service.model.ids import IdStep, ItemIds
from service.model.ranker import CodesOf, Ranker
from service.versions import RowIds
from serving.category_sets import NO_CATEGORY, CategorySets
from serving.questions import Wanted
from serving.shown import NOBODY, count_unseen, newest_unseen, shown_places

ALWAYS_MS, NEVER_MS = 2**62, -(2**62)
"""Times until which an item may be returned, where no time was given: always, or hidden."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, eq=False)
class CatalogueStep:
    """What a block says of items, the last of each."""

    keys_M: Longs
    sets: list[tuple[str, ...]]
    until_ms_M: Longs
    features: Longs
    """Of M items, one after another."""
    ids: IdStep
    deleted_X: Longs


class Catalogue:
    """Items by key. `features` are those that requests may ask for."""

    def __init__(self, features: Sequence[str] = ()) -> None:
        self.features = tuple(features)
        self.sets = CategorySets()
        self._index = key_index()
        self._set, self._until_ms = Reserved(np.int32), Reserved(np.int64)
        """Of a place without an item NOBODY and ALWAYS_MS."""
        self._row = Reserved(np.int32)
        """Of the served version; 0 where it has none, and at places without an item."""
        self._features = Reserved(np.int64, max(len(self.features), 1))
        self._row_set, self._row_until_ms = Reserved(np.int32), Reserved(np.int64)
        """The same by row: sets from 1 on, 0 where nothing is known."""
        self._row_features = Reserved(np.int64, max(len(self.features), 1))
        self._ids = ItemIds.of(None, 0)
        self._limited = 0
        """Items that are hidden or will expire, or did."""
        self._seen = 0
        """Items that the served version has a row for."""

    def __len__(self) -> int:
        """Items that something is known of."""
        return len(self._index)

    @property
    def unseen(self) -> int:
        """Items that the served version has no row for."""
        return len(self) - self._seen

    @property
    def nbytes(self) -> int:
        """Bytes of the columns and the index; ids and sets come on top."""
        columns = (
            self._set, self._until_ms, self._row, self._features,
            self._row_set, self._row_until_ms, self._row_features,
        )  # fmt: skip
        return self._index.nbytes + sum(column.nbytes for column in columns)

    def prepare(self, items: Iterable[Item]) -> CatalogueStep:
        """What `apply` needs to take in a block, on any thread. Changes nothing."""
        latest = {key_of(one.item): one for one in items}
        kept = {key: one for key, one in latest.items() if not one.deleted}
        ids = RowIds.from_list(one.item for one in kept.values())
        return CatalogueStep(
            np.array(list(kept), np.int64),
            [tuple(dict.fromkeys(one.categories)) for one in kept.values()],
            np.array([_until_ms(one) for one in kept.values()], np.int64),
            np.array([v for one in kept.values() for v in self._values(one.features)], np.int64),
            self._ids.prepare(ids, len(kept)),
            np.array([key for key, one in latest.items() if one.deleted], np.int64),
        )  # fmt: skip

    def apply(self, step: CatalogueStep, ranker: Ranker | None) -> None:
        """Take in a block that was prepared for the catalogue as it is."""
        freed_X = self._index.remove(torch.from_numpy(step.deleted_X)).numpy()
        freed_X = freed_X[freed_X >= 0]
        places_M = self._index.insert(torch.from_numpy(step.keys_M))[0].numpy()
        first, end = self._set.length, self._index.rows_end
        until_ms, row, sets = (c.extend(end) for c in (self._until_ms, self._row, self._set))
        until_ms[first:], sets[first:] = ALWAYS_MS, NOBODY
        changed_N = np.union1d(freed_X, places_M)
        self._limited -= int((until_ms[changed_N] < ALWAYS_MS).sum())
        self._seen -= int((row[freed_X] > 0).sum())
        self._row_set.flat[row[freed_X][row[freed_X] > 0]] = 0
        until_ms[freed_X], row[freed_X], sets[freed_X] = ALWAYS_MS, 0, NOBODY
        until_ms[places_M] = step.until_ms_M
        self._limited += int((until_ms[changed_N] < ALWAYS_MS).sum())
        sets[places_M] = [self.sets.number(names) for names in step.sets]
        if self.features:
            features_PF = self._features.extend(end).reshape(-1, len(self.features))
            features_PF[places_M] = step.features.reshape(-1, len(self.features))
        self._ids.apply(step.ids, freed_X, places_M, end)
        self.link(ranker, step.keys_M)

    def link(self, ranker: Ranker | None, keys_N: Longs | None = None) -> None:
        """The version that answers has other rows than before for these items, or (None) for
        all."""
        if keys_N is None:
            keys_N = self._index.keys().numpy()
            keys_N = keys_N[keys_N != RESERVED_KEY]
        places_N = self.places(keys_N)
        keys_N, places_N = keys_N[places_N >= 0], places_N[places_N >= 0]
        keys_U, first_U = np.unique(keys_N, return_index=True)
        row, places_U = self._row.flat, places_N[first_U]
        before = row[places_U]
        row[places_U] = 0 if ranker is None else ranker.rows(keys_U).numpy()
        self._seen += int((row[places_U] > 0).sum()) - int((before > 0).sum())
        self._row_set.flat[before[before > 0]] = 0
        self._tell_rows(places_U[row[places_U] > 0])

    def _tell_rows(self, places_N: Longs) -> None:
        """Write what is known of items where their rows are; all of them have one."""
        rows_N = self._row.flat[places_N]
        end = int(rows_N.max(initial=-1)) + 1
        self._row_set.extend(end)[rows_N] = self._set.flat[places_N] + 1
        self._row_until_ms.extend(end)[rows_N] = self._until_ms.flat[places_N]
        if width := len(self.features):
            features_RF = self._row_features.extend(end).reshape(-1, width)
            features_RF[rows_N] = self._features.flat.reshape(-1, width)[places_N]

    def places(self, keys_N: Longs) -> Longs:
        """Where items stand, -1 for those of which nothing is known."""
        places_N: Longs = self._index.lookup(torch.from_numpy(keys_N)).numpy()
        return places_N

    def shown(self, keys_N: Longs, at_ms: int) -> npt.NDArray[np.bool_]:
        """Which items may be returned at a time; those of which nothing is known may."""
        places_N = self.places(keys_N)
        shown_N = places_N < 0
        shown_N[~shown_N] = self._until_ms.flat[places_N[~shown_N]] > at_ms
        return shown_N

    def ids_of(self, places_N: Longs, keys_N: Longs) -> list[Id]:
        """The ids of items."""
        pairs = zip(places_N.tolist(), keys_N.tolist(), strict=True)
        return [self._ids.at(place, key) for place, key in pairs]

    def keys_of(self, places_N: Longs) -> Longs:
        """The keys of items."""
        keys_N: Longs = self._index.key_at(torch.from_numpy(places_N)).numpy()
        return keys_N

    def codes_of(self, ranker: Ranker) -> CodesOf | None:
        """What a version's model is told of items without a row; None if nothing is known."""
        categories = ranker.model.network.categories
        if not len(self) or categories is None:
            return None

        def codes(keys_N: Longs) -> Tensor:
            places_N = self.places(keys_N)
            sets_N = np.where(places_N < 0, NO_CATEGORY, self._set.flat[places_N])
            return self.sets.codes(categories)[sets_N]

        return codes

    def allowed(self, at_ms: int, wanted: Wanted) -> Allowed:
        """Which rows of the served version may be returned at a time."""
        if self._everything(wanted):
            return EVERYTHING
        return Allowed(
            self._row_set.flat, self._row_until_ms.flat, self._row_features.flat,
            *self._filters(wanted), at_ms, not wanted.needs_record,
        )  # fmt: skip

    def allowed_places(self, at_ms: int, wanted: Wanted) -> npt.NDArray[np.uint8]:
        """1 at each place that may be returned at a time, [P]."""
        shown_P = np.ones(self._index.rows_end, np.uint8)
        if not self._everything(wanted):
            wanted_S, value_F = self._filters(wanted)
            shown_places(
                self._until_ms.flat, self._set.flat, wanted_S, self._features.flat, value_F, at_ms,
                shown_P,
            )  # fmt: skip
        return shown_P

    def _everything(self, wanted: Wanted) -> bool:
        return not (wanted.needs_record or wanted.without or self._limited)

    def _filters(self, wanted: Wanted) -> tuple[npt.NDArray[np.bool_], Longs]:
        """Wanted sets [S] and values of features [F]."""
        wanted_S = self.sets.wanted(wanted.categories, wanted.without)
        return wanted_S, np.array(self._values(wanted.features), np.int64)

    def best_unseen(
        self, logit_S: Tensor, able_P: npt.NDArray[np.uint8], excluded_E: Longs, count: int
    ) -> Longs:
        """Places of the `count` best items without a row, best first, of equals the last to come.

        logit_S: of an item without a row that has a set of categories. able_P: 1 where an item may
        be returned; excluded ones are taken out of it.
        """
        places_E = self.places(excluded_E)
        able_P[places_E[places_E >= 0]] = 0
        columns = able_P, self._row.flat, self._set.flat
        held_S, quota_S = np.zeros((2, len(self.sets)), np.int64)
        count_unseen(*columns, held_S)
        best_S, sets_P = logit_S.argsort(descending=True, stable=True).numpy(), self._set.flat
        held_B = held_S[best_S]
        quota_S[best_S] = np.clip(count - (held_B.cumsum() - held_B), 0, held_B)
        found = np.empty(int(quota_S.sum()), np.int64)
        newest_unseen(*columns, quota_S, found)
        rank_S = np.empty(len(best_S), np.int64)
        rank_S[best_S] = np.arange(len(best_S))
        places: Longs = found[np.argsort(rank_S[sets_P[found]], kind="stable")]
        return places

    def _values(self, features: Mapping[str, Scalar]) -> list[int]:
        """The values of the features that can be asked for, as they are compared."""
        return [_hash(features.get(name)) for name in self.features]

    def set_vectors(self, ranker: Ranker) -> Tensor:
        """The vectors [S, D] of items without a row, by their set of categories."""
        categories = ranker.model.network.categories
        return ranker.items.unknown(self.sets.codes(categories))

    def sets_of(self, places_N: Longs) -> Longs:
        """The set of categories of each place."""
        sets_N: Longs = self._set.flat[places_N].astype(np.int64)
        return sets_N


def _until_ms(item: Item) -> int:
    if item.hidden:
        return NEVER_MS
    return ALWAYS_MS if item.expires_at is None else round(item.expires_at * 1000)


def _hash(value: Scalar | None) -> int:
    """A feature's value as 63 bits, 0 for none. 1 and 1.0 are alike; true and "1" are others."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (xxhash.xxh3_64_intdigest(_encode(value)) >> 1) or 1
