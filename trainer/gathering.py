"""What is copied out of the training thread for a version to be judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainer.popular import popular_rows
from trainer.trial_scores import Questions
from trainer.trials import Slice, with_counts

if TYPE_CHECKING:
    from trainer.state import State


@dataclass(frozen=True, eq=False)
class Trials:
    """What one version is judged by, copied at its cut."""

    watermark_ms: int
    questions: Questions
    """All trials, oldest first; those of the open slice, if there are any, last."""
    closed: int
    """How many of the slices are closed."""
    surprise: tuple[float, float]
    """Of new events, by the alarm."""
    alarm: str | None
    """What the alarm says while it rings."""
    suspicious: bool
    """Whether the alarm rang within the last quarantine."""
    collected: dict[str, Tensor]
    """What the training thread remembers, as of the cut."""

    @property
    def recent(self) -> Questions:
        """The newest trials: the open slice and the one before."""
        slices = len(self.questions.slices)
        return self.questions.part(max(0, min(self.closed - 1, slices - 1)), slices)


def questions_of(state: State, watermark_ms: int, slices: list[Slice], popular: int) -> Questions:
    """The slices with copies of the rows and counts they need; unknown items read row 0."""
    items, learner = state.items, state.learner
    keys_K = np.concatenate([np.zeros(0, np.int64), *(one.keys_K for one in slices)])
    rows_K = items.lookup(torch.from_numpy(keys_K).to(learner.device))
    rows_L = torch.from_numpy(popular_rows(learner.pool, popular)).to(learner.device)
    rows_N = torch.cat([rows_K, rows_L])
    sizes = [len(rows_K), len(rows_L)]
    vectors_KD, vectors_LD = items.gather(rows_N).cpu().split(sizes)
    popular_L = items.keys_of(rows_L).cpu()
    codes = learner.categories.codes(torch.cat([torch.from_numpy(keys_K), popular_L]))
    codes_KC, codes_LC = codes.split(sizes)
    counts_KP, counts_LP = learner.popularity.counts(rows_N, watermark_ms).cpu().split(sizes)
    return Questions(
        slices, (rows_K > 0).cpu(), vectors_KD, codes_KC, counts_KP, popular_L.numpy(),
        vectors_LD, codes_LC, counts_LP, state.counters["targets_trained"] > 0,
    )  # fmt: skip


def counted(one: Slice, questions: Questions, place: int) -> Slice:
    """A slice that has just been closed, with its candidates' counts."""
    place_C = np.searchsorted(one.keys_K, one.candidates_C) + questions.starts[place]
    return with_counts(one, questions.counts_KP[torch.from_numpy(place_C)])
