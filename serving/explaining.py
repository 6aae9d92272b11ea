"""Why items were ranked as they were: logits, the events that weighed most, and what was computed.

Shapes: C candidates, T visible events, E events named for an item.
"""

from collections.abc import Sequence

import numpy as np
import torch

from service.actions import Id
from service.model.ranker import Explanation, Ranker, Request
from serving.engine import Tables
from serving.questions import Explained, Said

EVENTS = 5
"""So many events are named for an item, those that weighed most."""


class Basis:
    """What a ranking of one request rests on."""

    def __init__(self, tables: Tables, request: Request, reading: str) -> None:
        """reading: what had to be read of the history for this request."""
        served = tables.require_served()
        self._ranker = served.ranker
        self._found = self._ranker.explain(request, tables.catalogue.codes_of(self._ranker))
        self._whole: Said = {
            "version": served.number,
            "reading": reading,
            "history": int(request.history.count_B[0]),
            "visible": len(self._found.seen),
            "rows": served.rows,
            "dense": self._ranker.dense,
        }

    def of(self, places: Sequence[int]) -> Explained:
        """Of some candidates, in that order."""
        events = _Events(self._ranker, self._found)
        items: list[Said] = [
            {"logits": _logits(self._ranker, self._found, c), "events": events.of(c)}
            for c in places
        ]
        return Explained(self._whole, items)


def _logits(ranker: Ranker, found: Explanation, c: int) -> dict[str, float] | None:
    """Of each action type; None without action heads."""
    if found.logits_CA is None:
        return None
    return dict(zip(ranker.model.types.types, _rounded(found.logits_CA[c]), strict=True))


class _Events:
    """The visible events as an answer names them."""

    def __init__(self, ranker: Ranker, found: Explanation) -> None:
        seen, rows_T = found.seen, ranker.rows(found.seen.item_T)
        known_T = (rows_T > 0).nonzero().squeeze(1)
        ids: list[Id | None] = [None] * len(seen)
        for t, name in zip(known_T.tolist(), ranker.items.ids_of(rows_T[known_T]), strict=True):
            ids[t] = name
        names = {code: name for name, code in ranker.model.types.codes.items()}
        self._events: list[Said] = [
            {"item": item, "action": names.get(code), "at": at_ms / 1000}
            for item, code, at_ms in zip(
                ids, seen.action_T.tolist(), seen.at_ms_T.tolist(), strict=True
            )
        ]
        self._weight_CT = found.weight_CT

    def of(self, c: int) -> list[Said] | None:
        """Those that weighed most for a candidate, and their share of the whole weight; None where
        layers do not tell."""
        if self._weight_CT is None:
            return None
        weight_T = self._weight_CT[c]
        best_E = weight_T.topk(min(EVENTS, len(weight_T)))
        return [
            {**self._events[t], "share": share}
            for t, share in zip(best_E.indices.tolist(), _rounded(best_E.values), strict=True)
        ]


def _rounded(values: torch.Tensor) -> list[float]:
    rounded: list[float] = np.round(values.double().numpy(), 6).tolist()
    return rounded
