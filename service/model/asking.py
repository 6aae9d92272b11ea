"""Asking of users' histories that were read once: what a server computes for every request.

A history's keys and values are kept per user, and extended by the rows of new events; candidates
go through the layers beside the query row, several users at a time. It computes what
`service.model.network` does, arranged for few and large operations: one product for all parts of
a layer's projection, one bias per history event, as all rows of a request ask at one time.

Source: Actions Speak Louder than Words (arXiv 2402.17152), section 4.3 (M-FALCON): candidates see
the history and themselves, never one another, so that any share of them has the same scores.

Shapes: T history events, N new ones, R asking rows, C candidates, H heads, K width of queries and
keys, V width of values, D model width, A action types.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import layer_norm, normalize, silu

from kernels.attention import Events, Rows
from kernels.attention.buckets import distance_bucket_of, time_bucket_of
from service.device import CPU
from service.histories.rings import Longs
from service.model.layer import EPS, FORMS, Layer
from service.model.network import Network
from service.model.products import Codes, Product, passed, product
from service.model.tokens import Window

CHUNK_WEIGHTS = 1 << 18
"""Attention weights computed at a time, all heads: they stay in a core's second cache."""
UNSEEN = np.float32(-1e30)
"""Bias of what a row does not see: SiLU makes a zero of it."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """A window of one user's events as the model read it."""

    item_T: Longs
    action_T: Longs
    at_ms_T: Longs
    before_ms: int
    """Time of the event before the first, -1 without one."""

    def __len__(self) -> int:
        return len(self.item_T)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return 3 * int(self.item_T.nbytes)

    def begins(self, other: "Seen") -> bool:
        """Whether `other` is this, with or without further events."""
        count = len(self)
        return (
            count <= len(other)
            and self.before_ms == other.before_ms
            and np.array_equal(self.at_ms_T, other.at_ms_T[:count])
            and np.array_equal(self.item_T, other.item_T[:count])
            and np.array_equal(self.action_T, other.action_T[:count])
        )

    def since(self, first: int) -> "Seen":
        """The events from `first` on."""
        before_ms = self.before_ms if not first else int(self.at_ms_T[first - 1])
        return Seen(self.item_T[first:], self.action_T[first:], self.at_ms_T[first:], before_ms)

    @property
    def before_ms_T(self) -> Longs:
        """The time of the event before each."""
        before: Longs = np.empty(len(self), np.int64)
        before[:1], before[1:] = self.before_ms, self.at_ms_T[:-1]
        return before


@dataclass(frozen=True, eq=False)
class Kept:
    """One user's history on the model's side."""

    seen: Seen
    keys: tuple[Tensor, ...]
    """Of every layer, [H, T, K]."""
    values: tuple[Tensor, ...]
    """Of every layer, [H, T, V], divided by N."""
    last_D: Tensor | None
    """Token of the last event; None without events."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors and arrays."""
        tensors = (*self.keys, *self.values, *([] if self.last_D is None else [self.last_D]))
        return sum(t.nbytes for t in tensors) + self.seen.nbytes


Kind = TypeVar("Kind")


class Asked(NamedTuple, Generic[Kind]):
    """One request: a user, a time, and the vectors [C, D] of candidates (none: only the query)."""

    kept: Kind
    at_ms: int
    items_CD: Tensor


class Answer(NamedTuple):
    """What one request is told."""

    user_D: Tensor
    """Unit vector: who asks for the next item."""
    logits_CA: Tensor
    """Of every candidate and action type."""
    inputs_CD: Tensor
    """What the action heads read of every candidate, where the network is."""


class Asks(Protocol[Kind]):
    """What a ranker needs of a network: it reads a history once and asks it any number of times."""

    network: Network
    """Where it computes: the ranker's own, or a copy on another device."""
    extends: bool
    """Whether what was read can be extended by new events."""

    def read(self, seen: Seen, vectors_ND: Tensor, kept: Kind | None = None) -> Kind:
        """Read a history, or what it has beyond the one that is kept already.

        vectors_ND: of the items of the new events; all of them if nothing is kept or can be
        extended.
        """

    def ask(self, asked: Sequence[Asked[Kind]]) -> list[Answer]:
        """Answer requests together; a request's answer does not depend on the others'."""


class _Weights(NamedTuple):
    """One layer's, as rows go through them."""

    project: Product
    output: Product
    near: Floats
    when: Floats
    own: Tensor


class Asker:
    """A network laid out for asking.

    precision: of matrix products, float32, bfloat16 or int8; what is kept is bfloat16 in the second
    case, else float32. codes: those that the snapshot has weights of the network as. device: where
    it computes, by a copy of the network, and keeps what it read; answers are on the CPU. Raises
    ValueError for a network of another form than ours.
    """

    extends = True

    def __init__(
        self, network: Network, precision: torch.dtype = torch.float32, codes: Codes | None = None,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        require_ours(network)
        self.network, self.precision, self._device = _copied(network, device), precision, device
        self._passed, self._codes = passed(precision), codes or {}
        settings = network.settings
        self._heads, self._length = settings.heads, settings.window
        self._k, self._v = settings.qk_width, settings.v_width
        self._alpha = float(settings.qk_width**-0.5)
        self._layers = [self._weights(*each) for each in enumerate(self.network.hstu._stack())]

    def read(self, seen: Seen, vectors_ND: Tensor, kept: Kept | None = None) -> Kept:
        """Read a history, or what it has beyond the one that is kept already."""
        first = 0 if kept is None else len(kept.seen)
        new = seen.since(first)
        if not len(new):
            return replace(kept, seen=seen) if kept is not None else self._nothing(seen)
        window = window_of(new, self._device)
        x_ND = self.network.tokens.history(window, vectors_ND.to(self._device))
        last_D, keys, values = x_ND[-1].clone(), [], []  # not a view: that would keep all tokens
        for number, weights in enumerate(self._layers):
            old = None if kept is None else (kept.keys[number], kept.values[number])
            u, q, k, v = self._projected(x_ND, weights)
            k_HTK, v_HTV = self._remembered(k, v, old)
            keys.append(k_HTK)
            values.append(v_HTV)
            if number + 1 < len(self._layers):
                bias_NT = _biases(seen.at_ms_T, first, weights.near, weights.when)
                attended_NHV = self._attended(q, k_HTK, v_HTV, self._here(bias_NT))
                x_ND = x_ND + self._mixed(attended_NHV, u, weights)
        return Kept(seen, tuple(keys), tuple(values), last_D)

    def ask(
        self, asked: Sequence[Asked[Kept]], weighed: Sequence[Tensor] | None = None
    ) -> list[Answer]:
        """Answer requests together.

        weighed: of each request a tensor [1 + C, T] to which is added how much every event weighs
        for the query and for every candidate: the lengths of what it contributes in all layers and
        heads, each `|SiLU(logit)| / N * |v|`.
        """
        x_RD, bounds = self._tokens(asked)
        for number, weights in enumerate(self._layers):
            u, q, k, v = self._projected(x_RD, weights)
            logit_RH = (q * k).sum(-1, dtype=torch.float32) * self._alpha + weights.own
            share_RH = silu(logit_RH) / self._length
            share_RH[bounds[:-1]] = 0.0  # a query is nothing that it could see itself
            out_RHV = share_RH.unsqueeze(-1).to(v.dtype) * v
            for place, one in enumerate(asked):
                first, end = bounds[place : place + 2]
                if len(one.kept.seen):
                    bias_T = _bias(one.kept.seen.at_ms_T, one.at_ms, weights.near, weights.when)
                    out_RHV[first:end] += self._attended(
                        q[first:end], one.kept.keys[number], one.kept.values[number],
                        self._here(bias_T).unsqueeze(0),
                        None if weighed is None else weighed[place],
                    )  # fmt: skip
            x_RD = x_RD + self._mixed(out_RHV, u, weights)
        users_BD = normalize(x_RD[bounds[:-1]], eps=1e-6)
        inputs_RD = layer_norm(x_RD, x_RD.shape[1:], eps=1e-6)
        logits_RA = self.network.actions(inputs_RD).cpu()
        return [
            Answer(user_D, logits_RA[first + 1 : end], inputs_RD[first + 1 : end])
            for user_D, first, end in zip(users_BD.cpu(), bounds[:-1], bounds[1:], strict=True)
        ]

    def _tokens(self, asked: Sequence[Asked[Kept]]) -> tuple[Tensor, list[int]]:
        """Tokens of all rows, each request's query first; where requests begin, and the end."""
        tokens, bounds, parts = self.network.tokens, [0], []
        for one in asked:
            items_CD = one.items_CD.to(self._device)
            parts += [_query(self.network, one.kept, one.at_ms), items_CD * tokens.scale]
            parts[-1] += tokens.pending + _hour_row(tokens.ask_hour, one.at_ms)
            bounds.append(bounds[-1] + 1 + len(one.items_CD))
        return torch.cat(parts), bounds

    def _projected(self, x_RD: Tensor, weights: _Weights) -> "_Parts":
        normed = layer_norm(x_RD, x_RD.shape[1:], eps=EPS).to(self._passed)
        all_RP = silu(weights.project(normed), inplace=True)
        wide, narrow = self._heads * self._v, self._heads * self._k
        u, *others = all_RP.split((wide, narrow, narrow, wide), 1)
        return _Parts(u, *(one.unflatten(1, (self._heads, -1)) for one in others))

    def _remembered(
        self, k_NHK: Tensor, v_NHV: Tensor, old: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values by head, behind those that there are."""
        k_HNK, v_HNV = k_NHK.transpose(0, 1), v_NHV.transpose(0, 1) / self._length
        if old is None:
            return k_HNK.contiguous(), v_HNV.contiguous()
        return torch.cat([old[0], k_HNK], 1), torch.cat([old[1], v_HNV], 1)

    def _attended(
        self, q_RHK: Tensor, k_HTK: Tensor, v_HTV: Tensor, bias: Tensor,
        weighed_RT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What rows see of a history, [R, H, V]. bias: [1, T] for all rows, or [R, T]."""
        q_HRK, k_HKT = q_RHK.transpose(0, 1), k_HTK.transpose(1, 2)
        bias = bias.to(self._passed)
        step = max(1, CHUNK_WEIGHTS // (self._heads * k_HTK.shape[1]))
        out = []
        for first in range(0, q_HRK.shape[1], step):
            some = slice(first, first + step)
            of_rows = bias if len(bias) == 1 else bias[some]
            weights = torch.baddbmm(of_rows, q_HRK[:, some], k_HKT, alpha=self._alpha)
            out.append(torch.bmm(silu(weights, inplace=True), v_HTV))
            if weighed_RT is not None:
                share_RT = (weights.abs() * v_HTV.norm(dim=2).unsqueeze(1)).sum(0)
                weighed_RT[some] += share_RT.to(weighed_RT.device)
        whole_HRV = out[0] if len(out) == 1 else torch.cat(out, 1)
        return whole_HRV.transpose(0, 1)

    def _mixed(self, attended_RHV: Tensor, u: Tensor, weights: _Weights) -> Tensor:
        a = attended_RHV.flatten(1).float()
        gated = layer_norm(a, a.shape[1:], eps=EPS).to(self._passed) * u
        return weights.output(gated).float()

    def _nothing(self, seen: Seen) -> Kept:
        def none(width: int) -> tuple[Tensor, ...]:
            empty = torch.zeros(self._heads, 0, width, dtype=self._passed, device=self._device)
            return (empty,) * len(self._layers)

        return Kept(seen, none(self._k), none(self._v), None)

    def _here(self, bias: Floats) -> Tensor:
        return torch.from_numpy(bias).to(self._device)

    def _weights(self, number: int, layer: Layer) -> _Weights:
        def made(part: str) -> Product:
            codes = self._codes.get(f"hstu.layers.{number}.{part}.weight")
            return product(getattr(layer, part), self.precision, codes)

        def table(biases: Tensor | None) -> Floats:
            assert biases is not None
            values: Floats = biases.detach().cpu().numpy()
            return values

        assert layer.self_bias is not None
        near, when = table(layer.distance_bias), table(layer.time_bias)
        own = layer.self_bias.detach()
        return _Weights(made("project"), made("output"), near, when, own)


class _Parts(NamedTuple):
    """A layer's projection: the gate [R, HV], and by head [R, H, ...]."""

    u: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


def is_ours(network: Network) -> bool:
    """Whether a network has the form that is asked here."""
    layers = network.hstu._stack()
    return not network.hstu.from_history and all(one.form == FORMS["freshet"] for one in layers)


def require_ours(network: Network) -> None:
    """Raise ValueError for a network of another form."""
    if not is_ours(network):
        raise ValueError("only layers of form freshet with SiLU weights can be asked this way")


def window_of(seen: Seen, device: torch.device = CPU) -> Window:
    """The window as the tokens take it, each event with an item vector of its own."""
    count = torch.tensor([0, len(seen)], device=device)
    columns = (seen.at_ms_T, seen.action_T, seen.before_ms_T)
    at_T, action_T, before_T = (torch.from_numpy(column).to(device) for column in columns)
    return Window(Events(count, at_T), torch.arange(len(seen), device=device), action_T, before_T)


def _copied(network: Network, device: torch.device) -> Network:
    """The network itself on the CPU, else a copy on the device."""
    return network if device.type == "cpu" else deepcopy(network).to(device)


def _query(network: Network, kept: Kept, at_ms: int) -> Tensor:
    """The query's token, [1, D]."""
    device = network.tokens.start.device
    limit, at, first = (
        torch.tensor(given, device=device) for given in ([min(len(kept.seen), 1)], [at_ms], [0, 1])
    )
    rows = Rows(first, limit, limit, at)
    events = Events(first, torch.from_numpy(kept.seen.at_ms_T[-1:]).to(device))
    x_TD = network.tokens.start[:0] if kept.last_D is None else kept.last_D.unsqueeze(0)
    return network.tokens.query(x_TD, rows, events)


def _hour_row(table: Tensor, at_ms: int) -> Tensor:
    return table[at_ms // 3_600_000 % 24]


@njit(cache=True, nogil=True)
def _bias(at_ms_T: Any, at_ms: Any, near: Any, when: Any) -> Any:
    """Of a row that asks at a time, for every event, [T]: it stands behind the last."""
    count = len(at_ms_T)
    out = np.empty(count, np.float32)
    for j in range(count):
        out[j] = near[distance_bucket_of(count - j)] + when[time_bucket_of(at_ms - at_ms_T[j])]
    return out


@njit(cache=True, nogil=True)
def _biases(at_ms_T: Any, first: Any, near: Any, when: Any) -> Any:
    """Of the history's own rows from `first` on, for every event, [N, T]."""
    count = len(at_ms_T)
    out = np.full((count - first, count), UNSEEN, np.float32)
    for i in range(first, count):
        for j in range(i + 1):
            bias = near[distance_bucket_of(i - j)] + when[time_bucket_of(at_ms_T[i] - at_ms_T[j])]
            out[i - first, j] = bias
    return out
