"""How a version's weights answer the trials: one pass of the model, three losses per trial.

`taste`: the item that followed against what the others of its slice went on to, with the counts of
that time, so that only vectors and weights speak. `crowd`: the same against what is popular now,
with the counts of now. `action`: of the action that followed, by the action heads.

Shapes: N trials, E their events, K item keys of all slices, D width, P half-lives, C candidates of
a slice, L popular items, A action types; of codes C is the places that an item
has for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kernels.attention import Events, Rows
from service.histories.rings import Longs
from service.model.network import Network
from service.model.tokens import Window
from trainer.trials import Slice

if TYPE_CHECKING:
    from service.model.settings import ModelSettings

MEASURES = ("taste", "crowd", "action")
NO_SCORE = -torch.inf


@dataclass(frozen=True, eq=False)
class Questions:
    """Trials with the rows they need, as of one moment."""

    slices: list[Slice]
    known_K: Tensor
    """Which keys of the slices, one after another, have a row of their own."""
    vectors_KD: Tensor
    """Of the rows alone; of those without one the unknown row's."""
    codes_KC: Tensor
    """Codes of the categories that speak beside them (`service.model.categories`)."""
    counts_KP: Tensor
    popular_L: Longs
    """Keys of the items that are popular now, the most popular first."""
    vectors_LD: Tensor
    codes_LC: Tensor
    counts_LP: Tensor
    heads: bool
    """Whether there are action heads to ask."""

    def __len__(self) -> int:
        return sum(map(len, self.slices))

    def with_slices(self, slices: list[Slice]) -> Questions:
        """The same with other objects for the same slices."""
        return replace(self, slices=slices)

    def part(self, first: int, last: int) -> Questions:
        """Only the slices number `first` up to `last`."""
        keys = slice(self.starts[first], self.starts[last])
        return replace(
            self, slices=self.slices[first:last], known_K=self.known_K[keys],
            vectors_KD=self.vectors_KD[keys], codes_KC=self.codes_KC[keys],
            counts_KP=self.counts_KP[keys],
        )  # fmt: skip

    @property
    def starts(self) -> list[int]:
        """Where each slice's keys begin among all, and where the last ends."""
        return list(accumulate((len(s.keys_K) for s in self.slices), initial=0))


@dataclass(frozen=True, eq=False)
class Answers:
    """What came out."""

    losses_NM: Tensor
    """By trial and measure; NaN where a measure does not apply."""
    scores: list[Tensor]
    """By slice: scores [N, C + L] with everything as of now."""


class Scorer:
    """A network of its own, filled with one version's weights after another. One thread."""

    def __init__(self, settings: ModelSettings, action_types: int) -> None:
        self._network = Network(settings, action_types).eval()

    @torch.inference_mode()
    def answer(self, questions: Questions, dense: dict[str, Tensor]) -> Answers:
        """Ask these weights; rows are those of the questions."""
        self._network.load_state_dict(dense)
        slices, starts = questions.slices, questions.starts
        if not slices:
            return Answers(torch.zeros(0, len(MEASURES)), [])
        window, rows = _packed(slices, starts)
        items_KD = self._network.items(questions.vectors_KD, questions.codes_KC)
        encoded = self._network.encode(window, items_KD)
        users = self._network.users(encoded, rows).split([len(s) for s in slices])
        action_N = torch.full((len(questions),), torch.nan)
        if questions.heads:
            truth_N = _cat([np.searchsorted(s.keys_K, s.trials["truth"]) + a
                            for s, a in zip(slices, starts, strict=False)])  # fmt: skip
            logits_NA = self._network.action_logits(encoded, truth_N, items_KD, rows)
            acted_N = _cat([s.trials["acted"] for s in slices])
            action_N = -logsigmoid(logits_NA.gather(1, acted_N[:, None]))[:, 0]
        losses, scores = [], []
        for one, start, users_ND in zip(slices, starts, users, strict=False):
            taste_N, crowd_N, scores_NS = self._next_items(
                questions, items_KD, one, start, users_ND
            )
            losses.append(torch.stack([taste_N, crowd_N], dim=1))
            scores.append(scores_NS)
        return Answers(torch.cat([torch.cat(losses), action_N[:, None]], dim=1), scores)

    @torch.inference_mode()
    def users(self, questions: Questions) -> Tensor:
        """Unit vectors [N, D] of those who ask, by the weights asked last."""
        window, rows = _packed(questions.slices, questions.starts)
        items_KD = self._network.items(questions.vectors_KD, questions.codes_KC)
        return self._network.users(self._network.encode(window, items_KD), rows)

    def _next_items(
        self, questions: Questions, items_KD: Tensor, one: Slice, start: int, users_ND: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of taste and crowd, and the scores of now, of one slice's trials."""
        network, candidates_C, popular_L = self._network, one.candidates_C, questions.popular_L
        place_C = torch.from_numpy(np.searchsorted(one.keys_K, candidates_C) + start)
        keys_S = np.concatenate([candidates_C, popular_L])
        popular_LD = network.items(questions.vectors_LD, questions.codes_LC)
        vectors_SD = torch.cat([items_KD[place_C], popular_LD])
        known_S = torch.cat([questions.known_K[place_C], torch.ones(len(popular_L)).bool()])
        bare_NS = network.next_item(users_ND, vectors_SD)
        bare_NS += network.seen * (_seen(one, keys_S) & known_S)
        counts_SP = torch.cat([questions.counts_KP[place_C], questions.counts_LP])
        now_NS = bare_NS + network.item_prior(counts_SP)
        twice_L = torch.from_numpy(np.isin(popular_L, candidates_C))
        now_NS[:, len(candidates_C) :].masked_fill_(twice_L, NO_SCORE)
        truth_N = torch.from_numpy(np.searchsorted(candidates_C, one.trials["truth"]))
        taste_N = torch.full((len(one),), torch.nan)
        if one.counts_CP is not None:
            then_NC = bare_NS[:, : len(candidates_C)] + network.item_prior(one.counts_CP)
            taste_N = _loss(then_NC, truth_N)
        return taste_N, _loss(now_NS, truth_N), now_NS


def _packed(slices: list[Slice], starts: list[int]) -> tuple[Window, Rows]:
    """The trials of all slices, one example each, and the query row of each."""
    sizes_N = np.concatenate([np.diff(s.ends) for s in slices])
    ends = np.concatenate([[0], np.cumsum(sizes_N)])
    columns = {c: _cat([s.events[c] for s in slices]) for c in ("action", "at_ms", "before_ms")}
    place_E = _cat([s.place_E + a for s, a in zip(slices, starts, strict=False)])
    events = Events(torch.from_numpy(ends), columns["at_ms"])
    limit_N = torch.from_numpy(sizes_N)
    asked_N = _cat([s.trials["ask_ms"] for s in slices])
    rows = Rows(torch.arange(len(sizes_N) + 1), limit_N, limit_N, asked_N)
    return Window(events, place_E, columns["action"], columns["before_ms"]), rows


def _seen(one: Slice, keys_S: Longs) -> Tensor:
    """Which of these items stand in each trial's events, [N, S]; keys may repeat."""
    order = np.argsort(keys_S, kind="stable")
    ordered = keys_S[order]
    seen_NS = np.zeros((len(one), len(keys_S)), np.bool_)
    trial_E = np.repeat(np.arange(len(one)), np.diff(one.ends))
    for side in ("left", "right"):  # an item stands twice at most: as a candidate and as popular
        place_E = np.searchsorted(ordered, one.events["item"], side) - (side == "right")
        place_E = place_E.clip(0, len(keys_S) - 1)
        hit_E = ordered[place_E] == one.events["item"]
        seen_NS[trial_E[hit_E], order[place_E[hit_E]]] = True
    return torch.from_numpy(seen_NS)


def _loss(scores_NS: Tensor, truth_N: Tensor) -> Tensor:
    return torch.logsumexp(scores_NS, dim=1) - scores_NS.gather(1, truth_N[:, None])[:, 0]


def _cat(parts: list[Longs]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))
