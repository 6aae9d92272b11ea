"""A sequence model as it leaves a notebook: embeddings, two causal layers, a score per candidate.

`sasrec` reads the history and multiplies its last row with the candidates' vectors (Kang and
McAuley, ICDM 2018, section III). `targets` sends every candidate through the layers, where it sees
the history and itself, as rankers with target rows do (HSTU paper, arXiv 2402.17152, section 3.2).
Weights are drawn from a seed: what they are changes no time.

Shapes: L history, C candidates, R = L + C rows, D width.
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
        if not self.targets:
            return self.items(candidate_C) @ self._read(x_LD, sees_LL)[-1]
        x_CD = self.items(candidate_C) + self.positions.weight[HISTORY]
        itself_CC = torch.eye(len(candidate_C), dtype=torch.bool)
        of_C = real_L.expand(len(candidate_C), HISTORY)
        unseen_LC = torch.zeros(HISTORY, len(candidate_C), dtype=torch.bool)
        sees_RR = torch.cat([torch.cat([sees_LL, unseen_LC], 1), torch.cat([of_C, itself_CC], 1)])
        y_RD = self._read(torch.cat([x_LD, x_CD]), sees_RR)
        return self.click(y_RD[HISTORY:]).squeeze(1)

    def _read(self, x_RD: Tensor, sees_RR: Tensor) -> Tensor:
        for layer in self.layers:
            x_RD = layer(x_RD, sees_RR)
        return self.norm(x_RD)


class _Layer(nn.Module):
    """Attention of one head, a feed-forward network of the same width; each normalised before."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value, self.mix = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.inner, self.outer = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))

    def forward(self, x_RD: Tensor, sees_RR: Tensor) -> Tensor:
        q, k, v = self.query_key_value(self.norms[0](x_RD)).chunk(3, 1)
        attended = scaled_dot_product_attention(
            q[None, None], k[None, None], v[None, None], attn_mask=sees_RR
        )[0, 0]
        y_RD = x_RD + self.mix(attended)
        return y_RD + self.outer(self.inner(self.norms[1](y_RD)).relu())
