"""Questions put to every method alike, and the ranks of their answers. S sampled events.

A question is one event: which of the candidates does this user turn to now? Methods see the
questions in stream order and answer with scores; the rank of the truth is all that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.protocol.active import FOREVER_MS, ActiveItems
from benchmarks.protocol.events import Events, Ints

Ranks = NDArray[np.int32]
MISS = np.iinfo(np.int32).max
"""The rank of a truth that is not active: below any list."""
NOT_COUNTED = 0
"""No rank: the user already had the truth, which the variant without seen items leaves out."""
_UNANSWERED = -1


@dataclass(frozen=True)
class Questions:
    """B sampled events and the C items that are active at one of them at least."""

    first: int
    """Number of the first question within the sample; the others follow it."""
    events_B: Ints
    """Positions in the stream, rising."""
    candidates_C: Ints
    """Items, in no particular order."""
    active_BC: NDArray[np.bool_]
    """Which candidates count for which event."""
    unseen_BC: NDArray[np.bool_]
    """Those of them that the event's user never had."""
    truth_B: Ints
    """The truth's column, -1 where it is not active."""

    def __len__(self) -> int:
        return len(self.events_B)


@dataclass(frozen=True)
class MethodRanks:
    """The ranks one method reached, 1 = best, `MISS` and `NOT_COUNTED` beside them."""

    plain_S: Ranks
    unseen_S: Ranks


class Evaluation:
    """One fixed sample of counted events, and what every method answered to it.

    An event counts if its user has an earlier one. The sample takes one event at random out of each
    of `sample` equal runs of counted events, so that it is spread over the whole stream; it takes
    all counted events when there are no more than that.

    active_ms: how long an item stays active after an event, None for ever. Raises ValueError when
    no event counts.
    """

    def __init__(
        self, events: Events, active_ms: int | None, sample: int = 50_000, seed: int = 0
    ) -> None:
        self.events = events
        self.counted = int((events.previous_T >= 0).sum())
        self.sample_S = _spread(np.flatnonzero(events.previous_T >= 0), sample, seed)
        self._had_S = _had(events.item_T, events.previous_T, self.sample_S)
        self._active = ActiveItems(events, FOREVER_MS if active_ms is None else active_ms)
        self._ranks: dict[str, MethodRanks] = {}

    def questions(self, start: int, stop: int) -> Questions:
        """The sampled events at positions start <= position < stop of the stream, maybe none.

        Ask for them in stream order: going back starts the window over the stream again.
        """
        first, end = np.searchsorted(self.sample_S, (start, stop))
        events_B = self.sample_S[first:end]
        return Questions(int(first), events_B, *self._active.masks(events_B))

    def one_by_one(self) -> Iterator[Questions]:
        """Every question of the sample by itself, in stream order."""
        for event in self.sample_S:
            yield self.questions(event, event + 1)

    def record(self, method: str, questions: Questions, scores_BC: NDArray[np.floating]) -> None:
        """Rank the truths under these scores and keep the ranks under the method's name.

        Raises ValueError for scores of another shape than [B, C], or that are not a number.
        """
        shape = (len(questions), len(questions.candidates_C))
        if scores_BC.shape != shape:
            raise ValueError(f"{method} answered {scores_BC.shape} scores, asked were {shape}")
        if np.isnan(scores_BC).any():
            raise ValueError(f"{method} scored NaN between events {questions.events_B[[0, -1]]}")
        ranks = self._ranks.setdefault(method, _unanswered(len(self.sample_S)))
        here = slice(questions.first, questions.first + len(questions))
        ranks.plain_S[here] = _ranks(scores_BC, questions.active_BC, questions.truth_B)
        unseen_B = _ranks(scores_BC, questions.unseen_BC, questions.truth_B)
        ranks.unseen_S[here] = np.where(self._had_S[here], NOT_COUNTED, unseen_B)

    def ranks(self, method: str) -> MethodRanks:
        """Every rank of a method. Raises ValueError while questions are unanswered."""
        ranks = self._ranks.get(method, _unanswered(len(self.sample_S)))
        missing = int((ranks.plain_S == _UNANSWERED).sum())
        if missing:
            asked = len(self.sample_S)
            raise ValueError(f"{method} left {missing} of {asked} questions unanswered")
        return ranks

    @property
    def methods(self) -> list[str]:
        """Who answered, in order of first answers."""
        return list(self._ranks)


def _unanswered(size: int) -> MethodRanks:
    return MethodRanks(*(np.full(size, _UNANSWERED, np.int32) for _ in range(2)))


def _spread(events_N: Ints, size: int, seed: int) -> Ints:
    """One event at random out of each of `size` runs of equal length, or one more or less."""
    if not len(events_N):
        raise ValueError("no event counts: no user has two events, so there is nothing to predict")
    size = min(size, len(events_N))
    edges = np.arange(size + 1) * len(events_N) // size
    return events_N[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


@njit(cache=True, nogil=True)
def _had(item_T: Ints, previous_T: Ints, sample_S: Ints) -> NDArray[np.bool_]:
    """Whether the user of each sampled event had its item before."""
    had_S = np.zeros(len(sample_S), np.bool_)
    for s in range(len(sample_S)):
        earlier = previous_T[sample_S[s]]
        while earlier >= 0 and item_T[earlier] != item_T[sample_S[s]]:
            earlier = previous_T[earlier]
        had_S[s] = earlier >= 0
    return had_S


@njit(cache=True, nogil=True)
def _ranks(
    scores_BC: NDArray[np.floating], counts_BC: NDArray[np.bool_], truth_B: Ints
) -> NDArray[np.int32]:
    """1 + the others that score as much as the truth or more: ties count against the method."""
    rank_B = np.full(len(truth_B), MISS, np.int32)
    for b in range(len(truth_B)):
        if truth_B[b] >= 0:
            rank = 1
            for c in range(scores_BC.shape[1]):
                reaches = scores_BC[b, c] >= scores_BC[b, truth_B[b]]
                rank += reaches and counts_BC[b, c] and c != truth_B[b]
            rank_B[b] = rank
    return rank_B
