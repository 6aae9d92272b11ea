"""A sequence model as it leaves a notebook: embeddings, two causal layers, a score per candidate.

`sasrec` reads the history and multiplies its last row with the candidates' vectors (Kang and
McAuley, ICDM 2018, section III). `targets` sends every candidate through the layers, where it sees
the history and itself, as rankers with target rows do (HSTU paper, arXiv 2402.17152, section 3.2).
Weights are drawn from a seed: what they are changes no time.

Shapes: L history, C candidates, M = L + 1, R rows of either, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.alternatives.features import HISTORY

DIM, LAYERS = 64, 2


class Network(nn.Module):
    """Item 0 is padding, on the left of short histories."""

    def __init__(self, items: int, targets: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(items + 1, DIM)
        self.positions = nn.Embedding(HISTORY + 1, DIM)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.norm, self.click = nn.LayerNorm(DIM), nn.Linear(DIM, 1)
        self.targets = targets

    def forward(self, history_L: Tensor, candidate_C: Tensor) -> Tensor:
        """Scores [C]."""
        real_L = history_L != 0
        sees_LL = torch.ones(HISTORY, HISTORY).tril().bool() & real_L
        sees_LL = sees_LL | torch.eye(HISTORY, dtype=torch.bool)
        x_LD = self.items(history_L) + self.positions.weight[:HISTORY]
        x_CD = self.items(candidate_C)
        if not self.targets:
            for layer in self.layers:
                x_LD = layer(x_LD, sees_LL)
            return x_CD @ self.norm(x_LD)[-1]
        x_CD = x_CD + self.positions.weight[HISTORY]
        *before, last = self.layers
        for layer in before:
            x_LD, x_CD = layer(x_LD, sees_LL), layer.of_targets(x_CD, x_LD, real_L)
        x_CD = last.of_targets(x_CD, x_LD, real_L)
        return self.click(self.norm(x_CD)).squeeze(1)


class _Layer(nn.Module):
    """Attention of one head, a feed-forward network of the same width; each normalised before."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value, self.mix = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.inner, self.outer = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))

    def forward(self, x_LD: Tensor, sees_LL: Tensor) -> Tensor:
        """What the history's rows become."""
        q, k, v = self._parts(x_LD)
        attended = scaled_dot_product_attention(
            q[None, None], k[None, None], v[None, None], attn_mask=sees_LL
        )[0, 0]
        return self._fed(x_LD, attended)

    def of_targets(self, x_CD: Tensor, x_LD: Tensor, real_L: Tensor) -> Tensor:
        """What candidates become: each sees the history and itself, and no other."""
        _, k_LD, v_LD = self._parts(x_LD)
        q, k, v = self._parts(x_CD)
        q = q / DIM**0.5
        of_history_CL = (q @ k_LD.T).masked_fill(~real_L, float("-inf"))
        itself_C1 = (q * k).sum(1, keepdim=True)
        share_CM = torch.cat([of_history_CL, itself_C1], 1).softmax(1)
        return self._fed(x_CD, share_CM[:, :HISTORY] @ v_LD + share_CM[:, HISTORY:] * v)

    def _parts(self, x_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.query_key_value(self.norms[0](x_RD)).chunk(3, 1)
        return q, k, v

    def _fed(self, x_RD: Tensor, attended_RD: Tensor) -> Tensor:
        y_RD = x_RD + self.mix(attended_RD)
        return y_RD + self.outer(self.inner(self.norms[1](y_RD)).relu())
