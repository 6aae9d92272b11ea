"""What a server asks of a version: scores of candidates, and the best items of all.

Shapes: C candidates, R rows of the item slot, D width, A action types. One user at a time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from kernels.attention import Events, Rows
from kernels.key_index import key_index
from service.action_types import ActionTypes
from service.errors import ModelMismatch
from service.histories.local import Histories
from service.histories.rings import Longs
from service.model.hstu import window_start
from service.model.network import Encoded, Network
from service.model.settings import ModelSettings
from service.model.tokens import Window
from service.versions import SlotRows, Snapshot

ITEM_SLOT = "item"
PRIOR = "prior"


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
        "actions": types.model_dump(mode="json"),
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


class Ranker:
    """One version, ready to score. Not for several threads at once."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Build the model of a snapshot. Raises ModelMismatch if its parts do not fit together."""
        self.number = snapshot.number
        try:
            self._build(snapshot)
        except KeyError as error:
            raise ModelMismatch(f"version {self.number} has no {error}") from None
        except (ValueError, RuntimeError) as error:
            raise ModelMismatch(
                f"version {self.number} does not fit its settings: {error}"
            ) from None
        self.item_vectors_RD = normalize(self.items.vectors(), eps=1e-6)
        """Unit vectors of all items in full precision; row 0 is the unknown item."""
        self._index = key_index("numba")
        self._index.insert(self.items.keys_R[1:])

    def _build(self, snapshot: Snapshot) -> None:
        self.settings = ModelSettings.model_validate(snapshot.model["model"])
        self.types = ActionTypes.model_validate(snapshot.model["actions"])
        self.has_action_heads = bool(snapshot.model["action_heads"])
        self.network = Network(self.settings, len(self.types.types)).eval()
        self.network.load_state_dict(snapshot.weights())
        self.items: SlotRows = snapshot.slots[ITEM_SLOT]
        self.prior_R = self.items.extra[PRIOR]
        if self.items.width != self.settings.dim or self.prior_R.dim() != 1:
            raise ValueError(
                f"items are {self.items.width} wide with a prior of {list(self.prior_R.shape)}, "
                f"dim is {self.settings.dim}"
            )

    def rows(self, item_keys_C: Longs) -> Tensor:
        """Row of each item, 0 (the unknown row) for items without one."""
        return self._index.lookup(torch.from_numpy(item_keys_C)) + 1

    @torch.inference_mode()
    def rank(self, history: Histories, item_keys_C: Longs, at_ms: int) -> Scores:
        """Score candidates for one user; duplicates and unknown items are scored like any other."""
        rows_C = self.rows(item_keys_C)
        encoded, seen = self._encode(history)
        user_D = self._user(encoded, seen, at_ms)
        next_item_C = self._next_item(user_D, rows_C)
        next_item_C += self.network.seen * torch.isin(rows_C, self._seen_rows(history))
        if not self.has_action_heads:
            return Scores(self.types.next_item_weight * next_item_C, next_item_C, None)
        logits_CA = self.network.action_logits(
            encoded, torch.arange(len(rows_C)), self.items.gather(rows_C),
            _asking(len(rows_C), seen, at_ms),
        )  # fmt: skip
        return self._combined(next_item_C, logits_CA)

    @torch.inference_mode()
    def next_items(self, history: Histories, at_ms: int) -> Tensor:
        """Next-item logits of every row of the item slot, [R]; row 0 is the unknown item."""
        user_D = self._user(*self._encode(history), at_ms)
        scores_R = self.item_vectors_RD @ (user_D / self.settings.temperature) + self.prior_R
        scores_R[self._seen_rows(history)] += self.network.seen
        return scores_R

    def warm(self) -> None:
        """Run every path once, so that the first request does not pay for compilation."""
        keys = (
            np.resize(self.items.keys_R[1:].numpy(), 64)
            if len(self.items) > 1
            else np.zeros(2, np.int64)
        )
        for events in (0, 1, self.settings.window):
            count = np.array([events])
            history = Histories(
                np.array([0, events]), np.resize(keys, events), np.zeros(events, np.int64),
                np.arange(events), count,
            )  # fmt: skip
            self.rank(history, keys, at_ms=events)
            self.next_items(history, at_ms=events)

    def _encode(self, history: Histories) -> tuple[Encoded, int]:
        seen_T, before_ms = visible(history, self.settings.window)
        item_T, at_ms_T = history.item_T[seen_T], history.at_ms_T[seen_T]
        before_ms_T = np.concatenate([[before_ms], at_ms_T[:-1]])[: len(seen_T)].astype(np.int64)
        events = Events(torch.tensor([0, len(seen_T)]), torch.from_numpy(at_ms_T))
        window = Window(
            events, torch.arange(len(seen_T)), torch.from_numpy(history.action_T[seen_T]),
            torch.from_numpy(before_ms_T),
        )  # fmt: skip
        return self.network.encode(window, self.items.gather(self.rows(item_T))), len(seen_T)

    def _seen_rows(self, history: Histories) -> Tensor:
        """Rows of the items in the visible history, each once; the unknown row is no item."""
        seen_T, _ = visible(history, self.settings.window)
        rows_U: Tensor = self.rows(history.item_T[seen_T]).unique()
        return rows_U[rows_U > 0]

    def _user(self, encoded: Encoded, seen: int, at_ms: int) -> Tensor:
        return self.network.users(encoded, _asking(1, seen, at_ms))[0]

    def _next_item(self, user_D: Tensor, rows_C: Tensor) -> Tensor:
        scaled_D = user_D / self.settings.temperature
        return self.item_vectors_RD[rows_C] @ scaled_D + self.prior_R[rows_C]

    def _combined(self, next_item_C: Tensor, logits_CA: Tensor) -> Scores:
        score_C = self.types.next_item_weight * next_item_C
        actions = {}
        for a, (name, kind) in enumerate(self.types.types.items()):
            score_C = score_C + kind.weight * logits_CA[:, a]
            actions[name] = torch.sigmoid(logits_CA[:, a])
        return Scores(score_C, next_item_C, actions)


def _asking(rows: int, seen: int, at_ms: int) -> Rows:
    limit_R = torch.full((rows,), seen)
    return Rows(torch.tensor([0, rows]), limit_R, limit_R, torch.full((rows,), at_ms))
