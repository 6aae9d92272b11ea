"""One HSTU layer, in our form and in those that were published.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3. Per layer
`U, Q, K, V = split(W1 LN(X))`, `A = weights(alpha Q K^T + bias) V`, `Y = W2 mix(U, A) + X`. A form
says what paper and codes disagree about. N is a constant of the model and keys and values come from
history events only, so a row's result depends on its own user alone.

Shapes: T history events, R asking rows, D model width, H heads, K query/key width, V value width.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention, variants
from kernels.attention.buckets import distance_bucket, time_bucket
from kernels.attention.variants import RESEARCH_TIME_BUCKETS, Bias
from kernels.gating import gated
from service.model.watching import tell

EPS = 1e-6
U, Q, K, V = range(4)
"""Parts of a layer's projection, in the order of its rows."""


@dataclass(frozen=True)
class Form:
    """What the variants of a layer disagree about; the defaults are ours."""

    norm_weights: bool = False
    """Whether both norms have a scale and a shift."""
    projection_bias: bool = True
    silu_on: tuple[int, ...] = (U, Q, K, V)
    """Parts of the projection that pass SiLU; the others stay linear."""
    scaled: bool = True
    """alpha = 1 / sqrt(K), else 1."""
    output: Literal["gated", "three parts"] = "gated"
    """What the output matrix sees: U * LN(A), or U, A and U * LN(A) side by side."""
    output_bias: bool = True
    bias: Literal["buckets", "research"] | None = "buckets"
    """Tables of the relative bias: ours, those of the public research code, or none."""
    time: bool = True
    """Whether gaps of time have a table beside distances."""
    weights: Literal["silu", "softmax"] = "silu"
    """SiLU(logit) / N, or a softmax over what a row sees."""
    start: Literal["torch", "normal"] = "torch"
    """A fresh layer: torch's own with tables of zeros, or that of the public research code."""


FORMS = {
    "freshet": Form(),
    "research": Form(projection_bias=False, scaled=False, bias="research", start="normal"),
    "production": Form(
        norm_weights=True, silu_on=(U,), output="three parts", output_bias=False, bias=None
    ),
}


@dataclass(frozen=True)
class KeysValues:
    """One layer's keys [T, H, K] and values [T, H, V] of the history."""

    k: Tensor
    v: Tensor


class Layer(nn.Module):
    """One HSTU layer; history rows and asking rows go through the same weights.

    length: N; the research form's table of distances ends there. dropout: on what the output matrix
    sees. precision: of matrix products and what passes between them; weights, norms and the
    residual keep their type.
    """

    def __init__(
        self, form: Form, dim: int, heads: int, qk_width: int, v_width: int, length: int,
        *, dropout: float = 0.0, precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.form, self.heads, self.length = form, heads, length
        self.dropout, self.precision = dropout, precision
        self.alpha = float(qk_width**-0.5) if form.scaled else 1.0
        wide = heads * v_width
        ends = list(accumulate((wide, heads * qk_width, heads * qk_width, wide)))
        self._rows = [slice(a, b) for a, b in pairwise([0, *ends])]
        self.project = nn.Linear(dim, ends[-1], bias=form.projection_bias)
        parts = 3 if form.output == "three parts" else 1
        self.output = nn.Linear(parts * wide, dim, bias=form.output_bias)
        self.before = nn.LayerNorm(dim, EPS, elementwise_affine=form.norm_weights)
        self.after = nn.LayerNorm(wide, EPS, elementwise_affine=form.norm_weights)
        self._add_tables()
        if form.start == "normal":
            self._start_normal()

    def keys_values(self, x_TD: Tensor) -> KeysValues:
        """Only what others can see of the history rows: all that the last layer needs of them."""
        k, v = self._projected(x_TD, K, V)
        return KeysValues(self._heads(k), self._heads(v))

    def history(self, x_TD: Tensor, rows: Rows, events: Events) -> tuple[Tensor, KeysValues]:
        """Next layer's history rows, and this layer's keys and values.

        The public research code asks at the time of the event after each row (`rows.at_ms`).
        """
        u, q, k, v = self._projected(x_TD, U, Q, K, V)
        seen = KeysValues(self._heads(k), self._heads(v))
        return x_TD + self._mix(u, self.attend(self._heads(q), seen, rows, events)), seen

    def ask(self, x_RD: Tensor, rows: Rows, events: Events, seen: KeysValues) -> Tensor:
        """Query rows: they see the history below their limit and nothing else."""
        u, q = self._projected(x_RD, U, Q)
        return x_RD + self._mix(u, self.attend(self._heads(q), seen, rows, events))

    def target(self, x_RD: Tensor, rows: Rows, events: Events, seen: KeysValues) -> Tensor:
        """Target rows: the history below their limit, and themselves with a bias of their own."""
        u, q, k, v = self._projected(x_RD, U, Q, K, V)
        own = KeysValues(self._heads(k), self._heads(v))
        return x_RD + self._mix(u, self.attend(self._heads(q), seen, rows, events, own))

    def attend(
        self, q_RHK: Tensor, seen: KeysValues, rows: Rows, events: Events,
        own: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        """What rows see of the history, [R, H, V], and of themselves if `own` holds their keys and
        values."""
        if self.form.weights == "softmax":
            return self._softmax(q_RHK, seen, rows, events, own)
        near, when = self.distance_bias, self.time_bias
        if self.form.bias == "research" and near is not None:
            out_RHV = variants.research_attention(
                q_RHK, seen.k, seen.v, rows, events, near, when, self.length, self.alpha
            )
        else:
            out_RHV = attention(
                q_RHK, seen.k, seen.v, rows, events, near, when, self.length, self.alpha
            )
        if own is None:
            return out_RHV
        # SiLU attention is a plain sum: another term is simply added.
        own_RHV = (silu(self._own_logit(q_RHK, own)) / self.length).unsqueeze(-1) * own.v
        return (out_RHV + own_RHV).to(q_RHK.dtype)

    def _softmax(
        self, q_RHK: Tensor, seen: KeysValues, rows: Rows, events: Events, own: KeysValues | None
    ) -> Tensor:
        out_RHV, sum_RH1 = variants.softmax_attention(
            q_RHK, seen.k, seen.v, rows, events, self._bias(), self.alpha
        )
        if own is None:
            return out_RHV
        share_RH1 = torch.sigmoid(self._own_logit(q_RHK, own).unsqueeze(-1) - sum_RH1)
        return torch.lerp(self._full(out_RHV), self._full(own.v), share_RH1).to(q_RHK.dtype)

    def _own_logit(self, q_RHK: Tensor, own: KeysValues) -> Tensor:
        logit_RH = (self._full(q_RHK) * self._full(own.k)).sum(-1) * self.alpha
        return logit_RH if self.self_bias is None else logit_RH + self.self_bias

    def _bias(self) -> Bias | None:
        if self.distance_bias is None:
            return None
        if self.form.bias == "buckets":
            return Bias(self.distance_bias, self.time_bias, distance_bucket, time_bucket)
        return variants.research_bias(self.distance_bias, self.time_bias, self.length)

    def _projected(self, x: Tensor, *parts: int) -> list[Tensor]:
        """The parts asked for, each a matrix of its own: nothing is split, copied or joined."""
        normed = self._low(self.before(x))
        tell(self.project, normed)
        out = []
        for part in parts:
            rows = self._rows[part]
            bias = None if self.project.bias is None else self._low(self.project.bias[rows])
            made = linear(normed, self._low(self.project.weight[rows]), bias)
            out.append(silu(made) if part in self.form.silu_on else made)
        return out

    def _mix(self, u: Tensor, attended_RHV: Tensor) -> Tensor:
        a = attended_RHV.flatten(1)
        mixed = u * self._low(self.after(self._full(a))) if self.form.norm_weights else gated(a, u)
        if self.form.output == "three parts":
            mixed = torch.cat([u, a, mixed], dim=1)
        tell(self.output, mixed)
        if self.training:
            mixed = dropped(mixed, self.dropout)
        bias = None if self.output.bias is None else self._low(self.output.bias)
        return linear(mixed, self._low(self.output.weight), bias)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(1, (self.heads, -1))
        return split

    def _low(self, x: Tensor) -> Tensor:
        """As matrix products take it."""
        return x if self.precision == torch.float32 else x.to(self.precision)

    def _full(self, x: Tensor) -> Tensor:
        """As norms and sums take it: the type of the weights."""
        return x.to(self.output.weight.dtype)

    def _add_tables(self) -> None:
        """The tables of the relative bias, zeros: those that the form has, the others None."""
        form = self.form
        by_distance = {"buckets": DISTANCE_BUCKETS, "research": 2 * self.length - 1, None: 0}
        by_time = {"buckets": TIME_BUCKETS, "research": RESEARCH_TIME_BUCKETS, None: 0}
        self.distance_bias = _table(by_distance[form.bias])
        self.time_bias = _table(by_time[form.bias] if form.time else 0)
        self.self_bias = _table(1 if form.bias else 0)

    def _start_normal(self) -> None:
        """As the public research code starts."""
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        for table in (self.distance_bias, self.time_bias):
            if table is not None:
                nn.init.normal_(table, std=0.02)


def dropped(x: Tensor, share: float) -> Tensor:
    """Dropout: on a CPU uniform numbers take a third of the time of torch's own."""
    if not share:
        return x
    kept = torch.rand(x.shape, device=x.device) >= share
    return torch.where(kept, x * (1 / (1 - share)), 0.0)


def _table(entries: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(entries)) if entries else None
