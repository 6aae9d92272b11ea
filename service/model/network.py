"""Tokens, layers and heads as one module: what a version's dense weights are.

Shapes: B users, T history events, Q query rows, R target rows, D width, U item vectors at hand,
A action types, P half-lives of the prior.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from kernels.attention import Events, Rows
from service.model.categories import Categories
from service.model.hstu import HSTU
from service.model.layer import KeysValues
from service.model.tokens import Tokens, Window, first_event

if TYPE_CHECKING:
    from service.model.settings import ModelSettings

PRIOR_EPS = 0.3
"""Added to decayed counts before their logarithm: an item never seen has a finite prior."""


class Encoded:
    """The history side of some users, computed once and asked any number of times."""

    def __init__(
        self, events: Events, x_TD: Tensor, seen: list[KeysValues], last_TD: Tensor | None
    ) -> None:
        self.events, self.x_TD, self.seen, self.last_TD = events, x_TD, seen, last_TD


class Network(nn.Module):
    """The dense half of the model; item vectors come from the store and are passed in, with what
    their categories add to them (`items`).

    precision: of the layers' matrix products, float32 or bfloat16; weights, sums, norms, heads and
    losses are float32 in either. recompute: less memory for more work when training, the same bits.
    Neither is part of a version.
    """

    def __init__(
        self, settings: "ModelSettings", action_types: int, *,
        precision: torch.dtype = torch.float32, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.settings = settings
        self.tokens = Tokens(settings.dim)
        self.hstu = HSTU(settings, precision, recompute)
        self.actions = nn.Linear(settings.dim, action_types)
        nn.init.zeros_(self.actions.bias)  # begins at the rates of the first impressions
        self.seen = nn.Parameter(torch.zeros(1))
        """Added to the logit of items that are in the visible history: learned, so that a product
        whose users return to items keeps them and one whose users do not drops them."""
        self.prior = nn.Parameter(torch.full((len(settings.priors),), 1 / len(settings.priors)))
        most = settings.categories
        self.categories = Categories(most, settings.dim) if most else None

    def items(self, own_ND: Tensor, codes_NK: Tensor) -> Tensor:
        """Vectors [N, D] of items, from their own and the codes of their categories."""
        return own_ND if self.categories is None else self.categories(own_ND, codes_NK)

    def encode(self, window: Window, items_UD: Tensor) -> Encoded:
        """Read the histories: every layer's keys and values."""
        x_TD = self.tokens.history(window, items_UD)
        seen, last_TD = self.hstu.history(x_TD, window.events)
        return Encoded(window.events, x_TD, seen, last_TD)

    def users(self, encoded: Encoded, rows: Rows) -> Tensor:
        """Unit vectors [Q, D]: who asks for the next item at each row's limit and time."""
        if encoded.last_TD is None:
            tokens_QD = self.tokens.query(encoded.x_TD, rows, encoded.events)
            return normalize(self.hstu.ask(tokens_QD, rows, encoded.events, encoded.seen), eps=1e-6)
        return normalize(self._after_last(encoded.last_TD, encoded.events, rows), eps=1e-6)

    def next_item(self, users_QD: Tensor, items_UD: Tensor) -> Tensor:
        """`cos / temperature` of every row and item, [Q, U]; the item's prior comes on top."""
        return users_QD @ (normalize(items_UD, eps=1e-6) / self.settings.temperature).T

    def item_prior(self, counts_UP: Tensor) -> Tensor:
        """Learned log-linear prior [U] from decayed counts at several half-lives."""
        return item_prior(counts_UP, self.prior)

    def action_logits(
        self, encoded: Encoded, item_R: Tensor, items_UD: Tensor, rows: Rows
    ) -> Tensor:
        """One logit per action type for each target row, [R, A]."""
        logits_RA: Tensor = self.actions(self.action_inputs(encoded, item_R, items_UD, rows))
        return logits_RA

    def action_inputs(
        self, encoded: Encoded, item_R: Tensor, items_UD: Tensor, rows: Rows
    ) -> Tensor:
        """What the action heads read of each target row, [R, D]."""
        tokens_RD = self.tokens.target(item_R, items_UD, rows)
        out_RD = self.hstu.target(tokens_RD, rows, encoded.events, encoded.seen)
        return layer_norm(out_RD, out_RD.shape[1:], eps=1e-6)

    def _after_last(self, last_TD: Tensor, events: Events, rows: Rows) -> Tensor:
        first_Q = first_event(rows, events)
        empty_Q = rows.limit == 0
        if not len(last_TD):
            return self.tokens.start.expand(len(empty_Q), -1)
        last_Q = (first_Q + rows.limit - 1).masked_fill(empty_Q, 0)
        return torch.where(empty_Q[:, None], self.tokens.start, last_TD[last_Q])


def item_prior(counts_UP: Tensor, weights_P: Tensor) -> Tensor:
    """Log-linear prior [U] of items from their decayed counts at several half-lives."""
    return (counts_UP + PRIOR_EPS).log() @ weights_P
