"""Sampled softmax losses of the static table and the drifting stream, with uniform negatives.

Shapes: T positions, M negatives, D width, I items. Vectors are of unit length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TEMPERATURE = 0.05
"""Of the public code."""
MASKED = -5e4
"""Logit of a negative that is the position's own item, as in the public code."""


def shared_loss(
    user_TD: Tensor, item_T: Tensor, vectors_ID: Tensor, negative_M: Tensor,
    temperature: float = TEMPERATURE,
) -> Tensor:  # fmt: skip
    """Mean loss with one set of distinct negatives for all positions: one matrix product.

    The set is a uniform sample without repeats, so a negative stands for (I - 1) / M items and
    counts as often: the logQ correction (Yi et al., RecSys 2019), by which the loss estimates the
    whole softmax.
    """
    stands_for = (len(vectors_ID) - 1) / len(negative_M)
    own_T = _column_of(item_T, negative_M, len(vectors_ID))
    positive_TD = vectors_ID.index_select(0, item_T)
    loss: Tensor = _Shared.apply(
        user_TD / temperature, positive_TD, vectors_ID.index_select(0, negative_M), own_T,
        stands_for,
    )  # fmt: skip
    return loss


def gathered_loss(
    user_TD: Tensor, item_T: Tensor, vectors_ID: Tensor, negative_TM: Tensor,
    temperature: float = TEMPERATURE,
) -> Tensor:  # fmt: skip
    """Mean loss with negatives of its own for each position, as the public code has it."""
    positive_T = (user_TD * vectors_ID[item_T]).sum(1) / temperature
    negatives_TM = torch.einsum("td,tmd->tm", user_TD, vectors_ID[negative_TM]) / temperature
    negatives_TM = negatives_TM.masked_fill(negative_TM == item_T[:, None], MASKED)
    logits = torch.cat([positive_T[:, None], negatives_TM], 1)
    return (logits.logsumexp(1) - positive_T).mean()


def _column_of(item_T: Tensor, negative_M: Tensor, items: int) -> Tensor:
    """Which column holds a position's own item, M if none does."""
    columns = len(negative_M)
    column_I = torch.full((items,), columns, device=item_T.device)
    column_I[negative_M] = torch.arange(columns, device=item_T.device)
    return column_I[item_T]


class _Shared(torch.autograd.Function):
    """Logits are at most 1 / temperature, so their exponentials need no shift: one matrix, written
    once, serves both passes."""

    @staticmethod
    def forward(
        ctx: Any, user_TD: Tensor, positive_TD: Tensor, negative_MD: Tensor, own_T: Tensor,
        stands_for: float,
    ) -> Tensor:  # fmt: skip
        odds_TM = user_TD.new_empty(len(user_TD), len(negative_MD) + 1)
        weights_TM = odds_TM[:, :-1]
        torch.mm(user_TD, negative_MD.T, out=weights_TM)
        odds_TM.scatter_(1, own_T[:, None], -torch.inf)  # who has none writes past the end
        weights_TM.exp_()
        logit_T = (user_TD * positive_TD).sum(1)
        total_T = weights_TM.sum(1) * stands_for + logit_T.exp()
        ctx.stands_for = stands_for
        ctx.save_for_backward(user_TD, positive_TD, negative_MD, weights_TM, logit_T, total_T)
        return (total_T.log() - logit_T).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        user_TD, positive_TD, negative_MD, weights_TM, logit_T, total_T = ctx.saved_tensors
        share_T1 = (grad / len(total_T) / total_T)[:, None]
        own_T1 = share_T1 * (logit_T.exp() - total_T)[:, None]
        share_T1 = share_T1 * ctx.stands_for
        user_grad = torch.addcmul(own_T1 * positive_TD, share_T1, weights_TM @ negative_MD)
        return user_grad, own_T1 * user_TD, weights_TM.T @ (share_T1 * user_TD), None, None
