"""What the trainer minimises.

Next item: sampled softmax over one shared set (the batch's positives and a pool of recent ones)
with logQ correction (Yi et al., RecSys 2019, section 4): `cos / temperature + prior - log q` for
positives and negatives alike, q the expected number of occurrences in the set. One matrix product
serves every row.

Shapes: Q query rows, S distinct items of the shared set, D model width.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

FEWEST_TERMS = 64
"""What corrections alone count as, at least: a single one is no batch."""


def next_item_loss(logits_QS: Tensor, truth_Q: Tensor, occurrences_S: Tensor) -> Tensor:
    """Loss [Q] of each row: minus the log probability of its true item.

    logits_QS are corrected by -log q; truth_Q is the column of each row's true item;
    occurrences_S how often each item is in the set. The true item counts once, as the positive: its
    other occurrences are no negatives.
    """
    weighted_QS = logits_QS + occurrences_S.log()
    positive_Q1 = logits_QS.gather(1, truth_Q[:, None])
    weighted_QS = weighted_QS.scatter(1, truth_Q[:, None], positive_Q1)
    return torch.logsumexp(weighted_QS, dim=1) - positive_Q1[:, 0]


def action_loss(logits_RA: Tensor, label_RA: Tensor, counted_RA: Tensor, alone: Tensor) -> Tensor:
    """Mean of `counted * softplus(logit) - label * logit` over the terms that are not zero: binary
    cross-entropy, its negatives where they count, and corrections (`trainer.targets`).

    alone: a flag, whether there is nothing but corrections.
    """
    terms_RA = counted_RA * softplus(logits_RA) - label_RA * logits_RA
    terms = (counted_RA + label_RA > 0).sum()
    return terms_RA.sum() / torch.where(alone, terms.clamp(min=FEWEST_TERMS), terms)
