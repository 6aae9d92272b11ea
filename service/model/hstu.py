"""HSTU with rows that carry limits.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3. Per layer
`U, Q, K, V = split(SiLU(W1 LN(X) + b))`, `A = SiLU(alpha Q K^T + rab) V / N`,
`Y = W2 (LN(A) * U) + X`. N is a constant of the model and keys and values come from history
events only, so a row's result depends on its own user alone.

Shapes: B users, T history events, R asking rows, D model width, H heads, K query/key width,
V value width.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention
from service.settings import Section


class ModelSettings(Section):
    """The shape of the model: section [model]. A version is tied to it."""

    dim: int = Field(64, ge=4, le=1024)
    layers: int = Field(2, ge=1, le=32)
    heads: int = Field(2, ge=1, le=32)
    qk_width: int = Field(32, ge=4, le=256)
    v_width: int = Field(32, ge=4, le=256)
    window: int = Field(256, ge=4, le=8192, description="events a row can see; divisible by 4")
    temperature: float = Field(0.15, gt=0, le=1)
    priors: tuple[float, ...] = Field(
        (1_800.0, 14_400.0, 86_400.0), description="half-lives of the item prior, seconds"
    )
    next_item_from: str = Field("query", pattern="^(query|history)$")

    @model_validator(mode="after")
    def _window_moves_by_quarters(self) -> "ModelSettings":
        if self.window % 4:
            raise ValueError("window must be divisible by 4")
        return self

    @property
    def alpha(self) -> float:
        """Scale of the attention logits."""
        return float(self.qk_width**-0.5)


def window_start(last_visible: int, window: int) -> int:
    """Ordinal of the first event in the window of a row whose last visible event is given.

    It moves by a quarter of the window at a time, so that cached keys and values stay exact
    between two moves: `max(0, ceil((last + 1 - L) / (L / 4)) * L / 4)`.
    """
    quarter = window // 4
    return max(0, -((window - last_visible - 1) // quarter) * quarter)


U, Q, K, V = range(4)
"""Parts of a layer's projection, in the order of its rows."""


@dataclass(frozen=True)
class KeysValues:
    """One layer's keys [T, H, K] and values [T, H, V] of the history."""

    k: Tensor
    v: Tensor


class Layer(nn.Module):
    """One HSTU layer; history rows and asking rows go through the same weights."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        s = settings
        self.settings = s
        ends = list(accumulate(s.heads * w for w in (s.v_width, s.qk_width, s.qk_width, s.v_width)))
        self._rows = [slice(a, b) for a, b in pairwise([0, *ends])]
        self.project = nn.Linear(s.dim, ends[-1])
        self.output = nn.Linear(s.heads * s.v_width, s.dim)
        self.distance_bias = nn.Parameter(torch.zeros(DISTANCE_BUCKETS))
        self.time_bias = nn.Parameter(torch.zeros(TIME_BUCKETS))
        self.self_bias = nn.Parameter(torch.zeros(1))

    def keys_values(self, x_TD: Tensor) -> KeysValues:
        """Only what others can see of the history rows: all that the last layer needs of them."""
        k, v = self._projected(x_TD, K, V)
        return KeysValues(self._heads(k), self._heads(v))

    def history(self, x_TD: Tensor, rows: Rows, events: Events) -> tuple[Tensor, KeysValues]:
        """Next layer's history rows, and this layer's keys and values."""
        u, q, k, v = self._projected(x_TD, U, Q, K, V)
        seen = KeysValues(self._heads(k), self._heads(v))
        return x_TD + self._mix(u, self._attend(q, seen, rows, events)), seen

    def ask(self, x_RD: Tensor, rows: Rows, events: Events, seen: KeysValues) -> Tensor:
        """Query rows: they see the history below their limit and nothing else."""
        u, q = self._projected(x_RD, U, Q)
        return x_RD + self._mix(u, self._attend(q, seen, rows, events))

    def target(self, x_RD: Tensor, rows: Rows, events: Events, seen: KeysValues) -> Tensor:
        """Target rows: the history below their limit, and themselves with a bias of their own.

        SiLU attention is a plain sum, so the self term is added outside the kernel.
        """
        u, q, k, v = self._projected(x_RD, U, Q, K, V)
        logit_RH = (self._heads(q) * self._heads(k)).sum(-1) * self.settings.alpha + self.self_bias
        own_RHV = (silu(logit_RH) / self.settings.window).unsqueeze(-1) * self._heads(v)
        return x_RD + self._mix(u, self._attend(q, seen, rows, events) + own_RHV)

    def _projected(self, x: Tensor, *parts: int) -> list[Tensor]:
        """The parts asked for, each a matrix of its own: nothing is split, copied or joined."""
        normed = self._norm(x)
        return [
            silu(linear(normed, self.project.weight[rows], self.project.bias[rows]))
            for rows in (self._rows[part] for part in parts)
        ]

    def _attend(self, q: Tensor, seen: KeysValues, rows: Rows, events: Events) -> Tensor:
        s = self.settings
        return attention(
            self._heads(q), seen.k, seen.v, rows, events, self.distance_bias, self.time_bias,
            s.window, s.alpha,
        )  # fmt: skip

    def _mix(self, u: Tensor, attended_RHV: Tensor) -> Tensor:
        return linear(self._norm(attended_RHV.flatten(1)) * u, self.output.weight, self.output.bias)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(1, (self.settings.heads, -1))
        return split

    @staticmethod
    def _norm(x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[1:], eps=1e-6)


class HSTU(nn.Module):
    """The stack of layers. A row of a user who shows nothing is answered like any other."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers))
        self.from_history = settings.next_item_from == "history"

    def history(self, x_TD: Tensor, events: Events) -> tuple[list[KeysValues], Tensor | None]:
        """Every layer's keys and values, and the last layer's rows if next items come from them."""
        rows, seen = history_rows(events), []
        *earlier, last = self._stack()
        for layer in earlier:
            x_TD, kv = layer.history(x_TD, rows, events)
            seen.append(kv)
        if self.from_history:
            x_TD, kv = last.history(x_TD, rows, events)
            return [*seen, kv], x_TD
        return [*seen, last.keys_values(x_TD)], None

    def ask(self, x_RD: Tensor, rows: Rows, events: Events, seen: list[KeysValues]) -> Tensor:
        """Query rows through every layer: [R, D]."""
        for layer, kv in zip(self._stack(), seen, strict=True):
            x_RD = layer.ask(x_RD, rows, events, kv)
        return x_RD

    def target(self, x_RD: Tensor, rows: Rows, events: Events, seen: list[KeysValues]) -> Tensor:
        """Target rows through every layer: [R, D]."""
        for layer, kv in zip(self._stack(), seen, strict=True):
            x_RD = layer.target(x_RD, rows, events, kv)
        return x_RD

    def _stack(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))


def history_rows(events: Events) -> Rows:
    """History rows as asking rows: event j stands at position j and sees events 0 .. j."""
    lengths_B = events.offsets.diff()
    first_T = torch.repeat_interleave(events.offsets[:-1], lengths_B)
    position_T = torch.arange(len(events.at_ms)) - first_T
    return Rows(events.offsets, position_T, position_T + 1, events.at_ms)
