"""Lists whose items differ: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

Shapes: M lists of the same C candidates, N chosen ones, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_TINY = torch.finfo(torch.float32).tiny


def diverse(score_MC: Tensor, vectors_CD: Tensor, count: int, diversity: float) -> Tensor:
    """Which candidates come first, second and so on in each list, [M, N]; of equals the first.

    Each place goes to the candidate with the greatest `(1 - diversity) * relevance - diversity *
    similarity`: relevance is the score, 0 for the lowest and 1 for the highest of all candidates;
    similarity the greatest cosine with those that are chosen already. 0 gives the order of the
    scores, 1 regards them for the first place alone.
    """
    chosen = torch.zeros(len(score_MC), min(count, score_MC.shape[1]), dtype=torch.int64)
    if not chosen.numel():
        return chosen
    low_M1, high_M1 = score_MC.aminmax(dim=1, keepdim=True)
    relevance_MC = (score_MC - low_M1) / (high_M1 - low_M1).clamp(min=_TINY)
    unit_CD, similar_MC = normalize(vectors_CD, dim=1), torch.full_like(relevance_MC, -1.0)
    gain_MC = relevance_MC
    for place in range(chosen.shape[1]):
        if place:
            near_MD = unit_CD[chosen[:, place - 1]]
            torch.maximum(similar_MC, near_MD @ unit_CD.T, out=similar_MC)
            gain_MC = (1 - diversity) * relevance_MC - diversity * similar_MC
            gain_MC.scatter_(1, chosen[:, :place], -torch.inf)
        chosen[:, place] = torch.from_numpy(gain_MC.numpy().argmax(1))  # torch's: any of equals
    return chosen
