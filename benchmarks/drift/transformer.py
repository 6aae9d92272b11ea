"""The Transformer layer that HSTU is held against: pre-norm, softmax attention, feed-forward 4 D.

Source: Attention Is All You Need (arXiv 1706.03762), section 3, with normalisation before each part
as in arXiv 2002.04745.

Shapes: B users, L events of each, T = B L, D width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from kernels.attention import Events, Rows


class TransformerLayer(nn.Module):
    """Takes the place of `service.model.layer.Layer` for users with equally many events."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_inner = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project, self.mix = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.inner, self.outer = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def history(self, x_TD: Tensor, rows: Rows, events: Events) -> tuple[Tensor, None]:
        """Next layer's history rows; there is nothing to keep."""
        users = len(events.offsets) - 1
        projected = self.project(self.before_attention(x_TD)).view(users, -1, 3, *self._head(x_TD))
        q_BHLK, k_BHLK, v_BHLK = projected.permute(2, 0, 3, 1, 4)
        seen_BHLK = scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        x_TD = x_TD + self.mix(seen_BHLK.transpose(1, 2).reshape(x_TD.shape))
        return x_TD + self.outer(gelu(self.inner(self.before_inner(x_TD)))), None

    def _head(self, x_TD: Tensor) -> tuple[int, int]:
        return self.heads, x_TD.shape[1] // self.heads
