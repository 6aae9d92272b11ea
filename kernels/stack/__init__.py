"""All layers of an HSTU for rows of one user that see the history and themselves.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 3, equations 1 to 3, with
weights `SiLU(alpha q k + bias) / N`, and section 4.3 (M-FALCON): asking rows see the history's keys
and values and themselves, never one another. `kernels.attention` is one step of a layer for many
users, with its gradients; here one call does everything for one user without them.

A row's result is the same bit for bit, however many rows are computed with it.

Shapes: L layers, D model width, H heads, K width of queries and keys, V width of values, P columns
of a projection (gate H V, queries H K, keys H K, values H V), T history events, R asking rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.attention.buckets import DISTANCE_BUCKETS, TIME_BUCKETS
from kernels.backends import pick
from kernels.crew import Crew
from kernels.stack import cpu, reference
from kernels.stack.layout import Floats, by_place, stacked, stride

__all__ = ["Kept", "LayerWeights", "Stack", "heads"]

Longs = npt.NDArray[np.int64]

EPS = 1e-6
_BACKENDS: dict[str, ModuleType] = {"reference": reference, "numba": cpu}


class LayerWeights(NamedTuple):
    """One layer: products as torch keeps them (`nn.Linear`), tables of bias by bucket."""

    project_PD: Tensor
    project_bias_P: Tensor
    output_DW: Tensor
    """W = H V."""
    output_bias_D: Tensor
    distance_bias: Tensor
    """By bucket of the distance in events."""
    time_bias: Tensor
    """By bucket of the time between."""
    own_bias: Tensor
    """[1]: of a row that sees itself."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What rows see of a history."""

    at_ms_T: Longs
    keys_LHKT: Floats
    """Behind the last event there is room, so that rows are whole vectors."""
    values_LHTV: Floats

    def __len__(self) -> int:
        return len(self.at_ms_T)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.at_ms_T.nbytes + self.keys_LHKT.nbytes + self.values_LHTV.nbytes


class Stack:
    """The weights of all layers, laid out to be met by rows.

    heads, width, value_width: H, K and V. length: N, and the most events of a history.
    backend: "reference" (plain torch) or "numba". crew: threads that asking rows are dealt to.
    Raises ValueError for weights that do not fit.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], heads: int, width: int, value_width: int,
        length: int, backend: str = "numba", crew: Crew | None = None,
    ) -> None:  # fmt: skip
        self._backend: Any = pick(backend, _BACKENDS)
        self._crew = crew or Crew()
        self.heads, self.width, self.value_width, self.length = heads, width, value_width, length
        self.dim = len(layers[0].output_bias_D)
        for number, layer in enumerate(layers):
            _check(number, layer, self.dim, heads, width, value_width)
        self._products = (
            stacked([one.project_PD.T for one in layers]),
            stacked([one.project_bias_P for one in layers]),
            stacked([one.output_DW.T for one in layers]),
            stacked([one.output_bias_D for one in layers]),
        )
        self._biases = (
            by_place(stacked([one.distance_bias for one in layers]), length),
            stacked([one.time_bias for one in layers]),
        )
        self._own_L = stacked([one.own_bias for one in layers])[:, 0].copy()
        self._factors = (np.float32(width**-0.5), np.float32(1 / length), np.float32(EPS))

    def read(self, x_ND: Tensor, at_ms_T: Longs, kept: Kept | None = None) -> Kept:
        """Keys and values of a history whose last N events have the tokens x.

        at_ms_T: of all events. kept: of those before the last N, None if there are none. Raises
        ValueError for another number of events, or more than the stack was made for.
        """
        before = 0 if kept is None else len(kept)
        if len(x_ND) + before != len(at_ms_T) or len(at_ms_T) > self.length:
            raise ValueError(
                f"{before} events are kept and {len(x_ND)} are new, of {len(at_ms_T)}; a history "
                f"has {self.length} at most"
            )
        keys, values = self._room(len(at_ms_T))
        if kept is not None:
            keys[..., :before] = kept.keys_LHKT[..., :before]
            values[:, :, :before] = kept.values_LHTV
        if len(x_ND):
            x = self._tokens(x_ND)
            self._backend.read(x, at_ms_T, keys, values, *self._products, *self._biases,
                               *self._factors)  # fmt: skip
        return Kept(at_ms_T, keys, values)

    def ask(
        self, x_RD: Tensor, kept: Kept, at_ms: int, alone: int = 1, weighed_RT: Tensor | None = None
    ) -> Tensor:
        """The last layer's rows [R, D] for tokens x that ask at a time behind the last event.

        alone: so many rows at the beginning do not see themselves. weighed_RT: to it is added how
        much every event weighs for every row: the lengths of what it contributes in all layers
        and heads, each `|SiLU(logit)| / N * |v|`.
        """
        x, weighed = self._tokens(x_RD), np.zeros((0, 0), np.float32)
        if weighed_RT is not None:
            weighed = weighed_RT.numpy()
            if weighed.shape != (len(x), len(kept)):
                raise ValueError(
                    f"weights are {list(weighed.shape)}, rows and events {[len(x), len(kept)]}"
                )
        self._crew.run(
            len(x) * (1 + len(kept)), self._backend.ask,
            x, alone, at_ms, kept.at_ms_T, kept.keys_LHKT, kept.values_LHTV, *self._products,
            *self._biases, self._own_L, *self._factors, weighed,
        )  # fmt: skip
        return torch.from_numpy(x)

    def _tokens(self, x_ND: Tensor) -> Floats:
        """A copy to work on. Raises ValueError for another width."""
        if x_ND.shape[1:] != (self.dim,):
            raise ValueError(f"tokens are {list(x_ND.shape)}; the stack is {self.dim} wide")
        x: Floats = x_ND.detach().numpy().astype(np.float32, order="C")
        return x

    def _room(self, events: int) -> tuple[Floats, Floats]:
        """Keys and values to be filled in."""
        layers = len(self._own_L)
        keys = np.zeros((layers, self.heads, self.width, stride(events)), np.float32)
        return keys, np.empty((layers, self.heads, events, self.value_width), np.float32)


def heads(x_RD: Tensor, weight_AD: Tensor, bias_A: Tensor) -> tuple[Tensor, Tensor]:
    """The rows normalised, LN(x) [R, D], and what linear heads say of them, [R, A]."""
    x, weight, bias = (one.detach().numpy() for one in (x_RD, weight_AD, bias_A))
    normed_RD, out_RA = cpu.heads(
        np.ascontiguousarray(x), np.ascontiguousarray(weight.T), bias, np.float32(EPS)
    )
    return torch.from_numpy(normed_RD), torch.from_numpy(out_RA)


def _check(
    number: int, layer: LayerWeights, dim: int, heads: int, width: int, value_width: int
) -> None:
    """The kernel works on addresses: what does not fit would be read past its end."""
    wide = heads * value_width
    parts = 2 * (wide + heads * width)
    shapes = [[parts, dim], [parts], [dim, wide], [dim], [DISTANCE_BUCKETS], [TIME_BUCKETS], [1]]
    for name, tensor, shape in zip(LayerWeights._fields, layer, shapes, strict=True):
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{name} of layer {number} is {list(tensor.shape)}; {heads} heads of widths "
                f"{width} and {value_width} need {shape}"
            )
