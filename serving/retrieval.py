"""The best items of the whole catalogue for a user, by exact search.

Shapes: R rows of the item slot, P places of the catalogue, S sets of categories, E excluded items,
K items found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernels.crew import Crew
from service.actions import Id
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.allowed import Allowed, allowed_rows
from service.model.best import Best
from service.model.ranker import Ranker, visible
from service.model.readings import Tell, unheard
from serving.catalogue import Catalogue
from serving.questions import ANY, Wanted


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
    def best(
        self, ranker: Ranker, catalogue: Catalogue, count: int, crew: Crew, tell: Tell = unheard
    ) -> Found:
        """The `count` items with the highest next-item logit.

        Rows are searched in one pass that leaves out what is not to be found; items without a row
        are scored by their categories. So K is smaller than `count` only when items run out. Of two
        alike, one with a row comes first. tell: told what had to be read of the history.
        """
        codes_of = catalogue.codes_of(ranker)
        user_D = ranker.user(self.history, self.at_ms, codes_of, self.user_key, tell)
        best = self._best_rows(
            ranker, user_D, catalogue.allowed(self.at_ms, self.wanted), count, crew
        )
        rows_K = torch.from_numpy(best.rows_K)
        found = Found(ranker.items.keys_of(rows_K), ranker.items.ids_of(rows_K))
        if not catalogue.unseen:
            return found
        logit_S = ranker.items.logits_of_unknown(user_D, catalogue.set_vectors(ranker))
        able_P = catalogue.allowed_places(self.at_ms, self.wanted)
        places_U = catalogue.best_unseen(logit_S, able_P, self.excluded_E, count)
        logit_U = logit_S[torch.from_numpy(catalogue.sets_of(places_U))]
        new = _places(catalogue, places_U)
        return _merged(found, torch.from_numpy(best.logit_K), new, logit_U, count)

    def _best_rows(
        self, ranker: Ranker, user_D: Tensor, allowed: Allowed, count: int, crew: Crew
    ) -> Best:
        """The best rows. Those of items in the visible history are scored apart, as their logit has
        an addend of its own."""
        excluded_E = ranker.rows(self.excluded_E).numpy()
        visible_T, _ = visible(self.history, ranker.model.settings.window)
        seen_U = np.unique(ranker.rows(self.history.item_T[visible_T]).numpy())
        apart = np.concatenate([excluded_E, seen_U])
        best = ranker.items.best(user_D, count, allowed, apart, crew)
        seen_U = np.setdiff1d(seen_U, np.append(excluded_E, 0))
        may_U = np.empty(len(seen_U), np.bool_)
        allowed_rows(allowed, seen_U, may_U)
        seen_U = seen_U[may_U]
        logit_U = ranker.items.logits(user_D, torch.from_numpy(seen_U)) + ranker.model.network.seen
        rows = np.concatenate([best.rows_K, seen_U])
        logits = np.concatenate([best.logit_K, logit_U.numpy()])
        order_K = np.lexsort((rows, -logits))[:count]
        return Best(rows[order_K], logits[order_K])


def _places(catalogue: Catalogue, places_U: Longs) -> Found:
    keys_U = catalogue.keys_of(places_U)
    return Found(keys_U, catalogue.ids_of(places_U, keys_U))


def _merged(a: Found, logit_A: Tensor, b: Found, logit_B: Tensor, count: int) -> Found:
    """The best of two, of which each stands best first."""
    logits = torch.cat([logit_A, logit_B])
    order_K = logits.argsort(descending=True, stable=True)[:count].tolist()
    ids = [*a.ids, *b.ids]
    return Found(np.concatenate([a.keys_K, b.keys_K])[order_K], [ids[place] for place in order_K])
