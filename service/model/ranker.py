"""What a server asks of a version: scores of candidates, and the best items of all.

Shapes: C candidates, R rows of the item slot, D width, A action types. One user at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.attention import Events, Rows
from service.action_types import ActionTypes
from service.errors import ModelMismatch, VersionError
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.dense import Model
from service.model.hstu import window_start
from service.model.items import ItemRows, RowStep
from service.model.network import Encoded
from service.model.prior import COUNTS, COUNTS_ORIGIN
from service.model.settings import ModelSettings
from service.model.tokens import Window
from service.versions import Snapshot

__all__ = [
    "COUNTS", "COUNTS_ORIGIN", "ITEM_SLOT", "CodesOf", "Ranker", "Scores", "Step", "described",
    "visible",
]  # fmt: skip

ITEM_SLOT = "item"

CodesOf = Callable[[Longs], Tensor]
"""Keys [N] of items to codes [N, K] of their categories, int32, 0 for none."""


@dataclass(frozen=True)
class Scores:
    """Scores of C candidates. `actions` is None while the version has no action heads."""

    score_C: Tensor
    next_item_C: Tensor
    actions: dict[str, Tensor] | None
    """Probability of each action type, [C] each."""


def described(model: ModelSettings, types: ActionTypes, action_heads: bool) -> dict[str, object]:
    """What a snapshot says about its model, for `Ranker` to build it again."""
    return {
        "model": model.model_dump(mode="json"),
        "actions": types.described(),
        "action_heads": action_heads,
    }


def visible(history: Histories, window: int) -> tuple[Longs, int]:
    """Which of one user's events a row asking now sees, and the time before the first (or -1).

    history: the last `window + 1` events of one user or more; of fewer all are visible. The
    indices returned point into its arrays.
    """
    held, count = len(history.item_T), int(history.count_B[0])
    first = max(0, held - (count - window_start(count - 1, window))) if count else 0
    before_ms = int(history.at_ms_T[first - 1]) if first > 0 else -1
    return np.arange(first, held), before_ms


@contextmanager
def _explained(number: int) -> Iterator[None]:
    """What does not fit in a version, as a ModelMismatch that names it."""
    try:
        yield
    except KeyError as error:
        raise ModelMismatch(
            f"version {number} has no {error}: a release before this one wrote it; publish a new "
            "one with this release's trainer"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise ModelMismatch(f"version {number} does not fit its settings: {error}") from None


@dataclass(frozen=True, eq=False)
class Step:
    """What turns a version into a later one, ready to be applied."""

    parent: int
    number: int
    model: Model
    rows: RowStep


class _Unseen(NamedTuple):
    """Items without a row that have categories: where they stand, and their vectors."""

    place_V: Tensor
    vectors_VD: Tensor


class Ranker:
    """One version, ready to score. One thread uses it; another may prepare what comes next."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Build the model of a whole snapshot. Raises ModelMismatch if its parts do not fit."""
        self.number = snapshot.number
        with _explained(snapshot.number):
            self.model = Model.of(snapshot)
            categories = self.model.network.categories
            self.items = ItemRows(snapshot.slots[ITEM_SLOT], self.model.prior, categories)
            if self.items.width != self.model.settings.dim:
                raise ValueError(
                    f"items are {self.items.width} wide, dim is {self.model.settings.dim}"
                )

    def prepare(self, delta: Snapshot) -> Step:
        """Everything about the next version that can be done while this one answers.

        Changes nothing. Raises VersionError for a delta of another version than this one, and
        ModelMismatch for one that does not fit.
        """
        if delta.parent != self.number:
            raise VersionError(
                f"what version {delta.number} changes is version {delta.parent}, and version "
                f"{self.number} is here: {_misplaced(delta, self.number)}"
            )
        with _explained(delta.number):
            model = Model.of(delta, self.model)
            removed_T = delta.removed.get(ITEM_SLOT, torch.empty(0, dtype=torch.int64))
            rows = self.items.prepare(
                delta.slots[ITEM_SLOT], removed_T, model.prior, model.network.categories
            )
        if model.network is not self.model.network:
            following = copy(self)
            following.model = model
            following.warm()
        return Step(self.number, delta.number, model, rows)

    def apply(self, step: Step) -> None:
        """Become the version that a step was prepared for, in a few milliseconds."""
        if step.parent != self.number:
            raise ValueError(f"a step from version {step.parent} was applied to {self.number}")
        self.items.apply(step.rows)
        self.model, self.number = step.model, step.number

    def rows(self, item_keys_C: Longs) -> Tensor:
        """Row of each item, 0 (the unknown row) for items without one."""
        return self.items.rows(item_keys_C)

    @torch.inference_mode()
    def rank(
        self, history: Histories, item_keys_C: Longs, at_ms: int, codes_of: CodesOf | None = None
    ) -> Scores:
        """Score candidates for one user; duplicates and unknown items are scored like any other.

        codes_of: codes of the categories of items that have no row.
        """
        rows_C = self.rows(item_keys_C)
        encoded, seen = self._encode(history, codes_of)
        user_D = self._user(encoded, seen, at_ms)
        unseen = self._unseen(item_keys_C, rows_C, codes_of)
        next_item_C = self.items.logits(user_D, rows_C)
        if len(unseen.place_V):
            next_item_C[unseen.place_V] = self.items.logits_of_unknown(user_D, unseen.vectors_VD)
        next_item_C += self.model.network.seen * torch.isin(rows_C, self._seen_rows(history))
        if not self.model.has_action_heads:
            return Scores(self.model.types.next_item_weight * next_item_C, next_item_C, None)
        logits_CA = self.model.network.action_logits(
            encoded, torch.arange(len(rows_C)), self._vectors(rows_C, unseen),
            _asking(len(rows_C), seen, at_ms),
        )  # fmt: skip
        return self._combined(next_item_C, logits_CA)

    @torch.inference_mode()
    def user(self, history: Histories, at_ms: int, codes_of: CodesOf | None = None) -> Tensor:
        """Who asks for the next item: a vector [D] as long as the temperature makes it."""
        return self._user(*self._encode(history, codes_of), at_ms)

    @torch.inference_mode()
    def next_items(self, history: Histories, at_ms: int, user_D: Tensor | None = None) -> Tensor:
        """Next-item logits of every row of the item slot, [R]: of the unknown item first, minus
        infinity for rows without an item. `user_D` is what `user` has returned, if it was asked."""
        user_D = self.user(history, at_ms) if user_D is None else user_D
        scores_R = self.items.logits_of_all(user_D)
        scores_R[self._seen_rows(history)] += self.model.network.seen
        return scores_R

    def warm(self) -> None:
        """Run every path once, so that the first request does not pay for compilation."""
        keys = np.resize(np.append(self.items.live_keys()[:64], 0), 64)
        for events in (0, 1, self.model.settings.window):
            count = np.array([events])
            history = Histories(
                np.array([0, events]), np.resize(keys, events), np.zeros(events, np.int64),
                np.arange(events), count,
            )  # fmt: skip
            self.rank(history, keys, at_ms=events)
            self.next_items(history, at_ms=events)
        self.items.rehearse()

    def _unseen(self, keys_N: Longs, rows_N: Tensor, codes_of: CodesOf | None) -> "_Unseen":
        """Those of some items that have no row, but categories."""
        unknown_N = (rows_N == 0).nonzero().squeeze(1)
        if codes_of is None or not len(unknown_N):
            return _Unseen(rows_N[:0], torch.zeros(0, self.items.width))
        codes_NK = codes_of(keys_N[unknown_N.numpy()])
        has_N = codes_NK.any(1)
        return _Unseen(unknown_N[has_N], self.items.unknown(codes_NK[has_N]))

    def _vectors(self, rows_N: Tensor, unseen: "_Unseen") -> Tensor:
        """The vectors of items, [N, D]."""
        vectors_ND = self.items.gather(rows_N)
        vectors_ND[unseen.place_V] = unseen.vectors_VD
        return vectors_ND

    def _encode(self, history: Histories, codes_of: CodesOf | None = None) -> tuple[Encoded, int]:
        seen_T, before_ms = visible(history, self.model.settings.window)
        item_T, at_ms_T = history.item_T[seen_T], history.at_ms_T[seen_T]
        before_ms_T = np.concatenate([[before_ms], at_ms_T[:-1]])[: len(seen_T)].astype(np.int64)
        events = Events(torch.tensor([0, len(seen_T)]), torch.from_numpy(at_ms_T))
        window = Window(
            events, torch.arange(len(seen_T)), torch.from_numpy(history.action_T[seen_T]),
            torch.from_numpy(before_ms_T),
        )  # fmt: skip
        rows_T = self.rows(item_T)
        vectors_TD = self._vectors(rows_T, self._unseen(item_T, rows_T, codes_of))
        return self.model.network.encode(window, vectors_TD), len(seen_T)

    def _seen_rows(self, history: Histories) -> Tensor:
        """Rows of the items in the visible history, each once; the unknown row is no item."""
        seen_T, _ = visible(history, self.model.settings.window)
        rows_U: Tensor = self.rows(history.item_T[seen_T]).unique()
        return rows_U[rows_U > 0]

    def _user(self, encoded: Encoded, seen: int, at_ms: int) -> Tensor:
        user_D = self.model.network.users(encoded, _asking(1, seen, at_ms))[0]
        return user_D / self.model.settings.temperature

    def _combined(self, next_item_C: Tensor, logits_CA: Tensor) -> Scores:
        score_C = self.model.types.next_item_weight * next_item_C
        actions = {}
        for a, (name, kind) in enumerate(self.model.types.types.items()):
            score_C = score_C + kind.weight * logits_CA[:, a]
            actions[name] = torch.sigmoid(logits_CA[:, a])
        return Scores(score_C, next_item_C, actions)


def _misplaced(delta: Snapshot, number: int) -> str:
    if delta.number == number:
        return "it comes twice"
    after = delta.parent is not None and delta.parent > number
    return "deltas between are missing" if after else "it is out of order"


def _asking(rows: int, seen: int, at_ms: int) -> Rows:
    limit_R = torch.full((rows,), seen)
    return Rows(torch.tensor([0, rows]), limit_R, limit_R, torch.full((rows,), at_ms))
