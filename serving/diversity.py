"""Lists whose items differ: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

Shapes: C candidates, N chosen ones, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def diverse(score_C: Tensor, vectors_CD: Tensor, count: int, diversity: float) -> Tensor:
    """Which candidates come first, second and so on, [N]; of equals the first.

    Each place goes to the candidate with the greatest `(1 - diversity) * relevance - diversity *
    similarity`: relevance is the score, 0 for the lowest and 1 for the highest of all candidates;
    similarity the greatest cosine with those that are chosen already. 0 gives the order of the
    scores, 1 regards them for the first place alone.
    """
    if not len(score_C):
        return torch.zeros(0, dtype=torch.int64)
    low, high = score_C.min(), score_C.max()
    relevance_C = (score_C - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    unit_CD, similar_C = normalize(vectors_CD, dim=1), torch.full_like(relevance_C, -1.0)
    chosen = [int(relevance_C.numpy().argmax())]  # torch's takes any of equals
    while len(chosen) < min(count, len(score_C)):
        torch.maximum(similar_C, unit_CD @ unit_CD[chosen[-1]], out=similar_C)
        gain_C = (1 - diversity) * relevance_C - diversity * similar_C
        gain_C[chosen] = -torch.inf
        chosen.append(int(gain_C.numpy().argmax()))
    return torch.tensor(chosen)
