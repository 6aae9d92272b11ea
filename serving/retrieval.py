"""The best items of the whole catalogue for a user, by exact search.

Shapes: R rows of the item slot, P places of the catalogue, S sets of categories, E excluded items,
K items found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.actions import Id
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.ranker import Ranker
from serving.catalogue import ANY, Catalogue, Wanted


@dataclass(frozen=True)
class Found:
    """Keys [K] and ids of items, best first."""

    keys_K: Longs
    ids: Sequence[Id]


@dataclass(frozen=True)
class Search:
    """For whom, when, and what is not to be found: what nobody may be shown then, items that are
    not wanted, and those whose keys are excluded."""

    history: Histories
    at_ms: int
    excluded_E: Longs
    wanted: Wanted = ANY
    user_key: int | None = None
    """Whose history it is: what is read of it is kept."""

    @torch.inference_mode()
    def best(self, ranker: Ranker, catalogue: Catalogue, count: int) -> Found:
        """The `count` items with the highest next-item logit.

        Every row's logit is computed (one matrix-vector product), and that of items without a row
        by their categories; what is not to be found is masked before the selection, so K is smaller
        than `count` only when items run out. Of two alike, one with a row comes first.
        """
        codes_of = catalogue.codes_of(ranker)
        user_D = ranker.user(self.history, self.at_ms, codes_of, self.user_key)
        logit_R = ranker.next_items(self.history, self.at_ms, user_D)
        logit_R[0] = -torch.inf
        logit_R[ranker.rows(self.excluded_E)] = -torch.inf
        shown_P = catalogue.mask(logit_R, self.at_ms, self.wanted)
        masked = int(logit_R.isneginf().sum())
        best_R = logit_R.topk(min(count, len(logit_R) - masked))
        if not catalogue.unseen:
            return _rows(ranker, best_R.indices)
        logit_S = ranker.items.logits_of_unknown(user_D, catalogue.set_vectors(ranker))
        places_U = catalogue.best_unseen(logit_S, shown_P, self.excluded_E, count)
        logit_U = logit_S[torch.from_numpy(catalogue.sets_of(places_U))]
        return _merged(
            _rows(ranker, best_R.indices),
            best_R.values,
            _places(catalogue, places_U),
            logit_U,
            count,
        )


def _rows(ranker: Ranker, rows_K: Tensor) -> Found:
    return Found(ranker.items.keys_of(rows_K), ranker.items.ids_of(rows_K))


def _places(catalogue: Catalogue, places_U: Longs) -> Found:
    keys_U = catalogue.keys_of(places_U)
    return Found(keys_U, catalogue.ids_of(places_U, keys_U))


def _merged(a: Found, logit_A: Tensor, b: Found, logit_B: Tensor, count: int) -> Found:
    """The best of two, of which each stands best first."""
    logits = torch.cat([logit_A, logit_B])
    order_K = logits.argsort(descending=True, stable=True)[:count].tolist()
    ids = [*a.ids, *b.ids]
    return Found(np.concatenate([a.keys_K, b.keys_K])[order_K], [ids[place] for place in order_K])
