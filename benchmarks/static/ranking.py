"""Where the held-out item stands among all items. U users of a batch, I items."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.static.encoders import Encoder
from benchmarks.static.sequences import Ints, Sequences

TOP = 10


@dataclass(frozen=True)
class Quality:
    """Share of users whose item is among the first ten of all items, and its NDCG there."""

    hr_at_10: float
    ndcg_at_10: float


@torch.inference_mode()
def quality(
    encoder: Encoder, sequences: Sequences, held_out: int, length: int, users: int = 128
) -> Quality:
    """Rank item number -held_out of every user by the `length` items before it.

    Candidates are all items but those seen before. What does not score below the true item stands
    before it: a model that cannot tell items apart, or says NaN, hits nothing.
    """
    encoder.eval()
    vectors_ID = encoder.item_vectors()
    ready = [u for u in range(len(sequences)) if len(sequences.of(u)) > held_out]
    ready.sort(key=lambda u: min(len(sequences.of(u)), length))
    ranks = []
    for first in range(0, len(ready), users):
        seen = [sequences.of(u, held_out) for u in ready[first : first + users]]
        truth = [int(sequences.of(u)[-held_out]) for u in ready[first : first + users]]
        asked_UD = _last(encoder, [items[-length:] for items in seen])
        ranks.append(_ranks(asked_UD @ vectors_ID.T, seen, torch.tensor(truth)))
    encoder.train()
    rank_U = torch.cat(ranks)
    hit_U = rank_U <= TOP
    gain_U = torch.where(hit_U, math.log(2) / (rank_U + 1).log(), 0.0)
    return Quality(float(hit_U.float().mean()), float(gain_U.mean()))


def _last(encoder: Encoder, histories: list[Ints]) -> Tensor:
    ends = np.cumsum([len(items) for items in histories])
    offsets = torch.from_numpy(np.concatenate([[0], ends]))
    return encoder(torch.from_numpy(np.concatenate(histories)), offsets)[offsets[1:] - 1]


def _ranks(scores_UI: Tensor, seen: list[Ints], truth_U: Tensor) -> Tensor:
    true_U1 = scores_UI.gather(1, truth_U[:, None])
    row_S = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    scores_UI[torch.from_numpy(row_S), torch.from_numpy(np.concatenate(seen))] = -torch.inf
    scores_UI[:, 0] = -torch.inf
    scores_UI.scatter_(1, truth_U[:, None], true_U1)  # it may have been seen before
    return (~(scores_UI < true_U1)).sum(1)
