"""What the gate asks again and again: a few users' next items, kept for hours.

Event time is cut into slices. Of each slice a fixed number of users is kept, drawn by a hash of
user and slice (those with the smallest), one query each: however many actions or users a flood
has, it gets its share of its own slices and none of the older ones. Trials name items by key, for
rows may be freed.

Shapes: N trials of a slice, E their visible events, C candidates of a slice, P half-lives.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from service.histories.rings import Longs

if TYPE_CHECKING:
    from trainer.teaching import Scoring

_EVENT_COLUMNS = ("item", "action", "at_ms", "before_ms")
_TRIAL_COLUMNS = ("user", "ask_ms", "truth", "acted")
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True, eq=False)
class Slice:
    """The trials of one stretch of event time; it never changes once it is closed."""

    number: int
    ends: Longs
    """[N+1]: where each trial's events begin and end."""
    events: dict[str, Longs]
    """By column, [E] each: item, action, at_ms, before_ms."""
    trials: dict[str, Longs]
    """By column, [N] each: user, ask_ms, truth (item), acted (action that followed)."""
    counts_CP: Tensor | None = None
    """Decayed counts of the candidates when the slice was closed."""
    candidates_C: Longs = field(init=False)
    """Keys of the items that the trials' users went on to, ascending."""
    keys_K: Longs = field(init=False)
    """Every item key in the slice, ascending."""
    place_E: Longs = field(init=False)
    """Where each event's item stands among `keys_K`."""

    def __post_init__(self) -> None:
        """Work out what follows from the columns."""
        keys, place = np.unique(
            np.concatenate([self.events["item"], self.trials["truth"]]), return_inverse=True
        )
        object.__setattr__(self, "candidates_C", np.unique(self.trials["truth"]))
        object.__setattr__(self, "keys_K", keys)
        object.__setattr__(self, "place_E", place[: len(self.events["item"])])

    def __len__(self) -> int:
        return len(self.trials["truth"])


@dataclass(frozen=True)
class _Trial:
    draw: int
    events: tuple[Longs, ...]
    trial: tuple[int, ...]


class Reservoir:
    """Collects trials from scored batches, slice by slice. One thread."""

    def __init__(self, slice_ms: int, trials_per_slice: int, events_per_trial: int) -> None:
        self.slice_ms, self.most, self.longest = slice_ms, trials_per_slice, events_per_trial
        self.closed: list[Slice] = []
        """Oldest first."""
        self._number = -1
        self._open: dict[int, _Trial] = {}

    def take(self, scoring: Scoring) -> None:
        """Look at a batch's queries; keep those of users who are drawn, the first one of each."""
        self.close(scoring.now_ms)
        self._number = max(self._number, scoring.now_ms // self.slice_ms)
        event_Q = scoring.scored.batch.event_Q.numpy()
        user_U, first_U = np.unique(scoring.accepted.events.user_T[event_Q], return_index=True)
        draws = zip(_draws(user_U, self._number).tolist(), user_U.tolist(), strict=True)
        kept = [(trial.draw, user) for user, trial in self._open.items()]
        new = [one for one in draws if one[1] not in self._open]
        place = dict(zip(user_U.tolist(), first_U.tolist(), strict=True))
        self._open = {
            user: self._open.get(user) or _trial(scoring, place[user], user, draw, self.longest)
            for draw, user in heapq.nsmallest(self.most, kept + new)
        }

    def close(self, now_ms: int) -> None:
        """Close the open slice if its time is over."""
        if now_ms // self.slice_ms > self._number and self._open:
            self.closed.append(_closed(self._number, self._open))
            self._open = {}

    def opened(self) -> list[Slice]:
        """The open slice as it is now, if anyone is in it."""
        return [_closed(self._number, self._open)] if self._open else []

    def forget(self, numbers: set[int]) -> None:
        """Drop closed slices."""
        self.closed = [one for one in self.closed if one.number not in numbers]

    def erase(self, users: set[int]) -> None:
        """Drop everything these users did: their open trials, and closed slices with one."""
        for user in users & self._open.keys():
            del self._open[user]
        self.forget({s.number for s in self.closed if users & set(s.trials["user"].tolist())})

    def state(self) -> dict[str, Tensor]:
        """Everything that was collected; arrays that are closed are shared, not copied."""
        opened = self.opened()
        slices = [*self.closed, *opened]
        counts = [s.counts_CP for s in slices if s.counts_CP is not None]
        counted = [s.counts_CP is not None for s in slices]
        return {
            "open": torch.tensor([self._number, len(opened)]),
            "number": torch.tensor([s.number for s in slices], dtype=torch.int64),
            "sizes": torch.tensor([len(s) for s in slices], dtype=torch.int64),
            "counted": torch.tensor(counted, dtype=torch.bool),
            "events": _joined([np.diff(s.ends) for s in slices]),
            **{f"events.{c}": _joined([s.events[c] for s in slices]) for c in _EVENT_COLUMNS},
            **{f"trials.{c}": _joined([s.trials[c] for s in slices]) for c in _TRIAL_COLUMNS},
            "counts": torch.cat(counts) if counts else torch.zeros(0, 0),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the reservoir that returned `state`."""
        trial_ends = _ends(state["sizes"].numpy())
        event_ends = _ends(state["events"].numpy())
        slices, used = [], 0
        for g, (first, last) in enumerate(pairwise(trial_ends.tolist())):
            ends = event_ends[first : last + 1]
            part = slice(int(ends[0]), int(ends[-1]))
            one = Slice(
                int(state["number"][g]),
                ends - ends[0],
                {c: state[f"events.{c}"].numpy()[part] for c in _EVENT_COLUMNS},
                {c: state[f"trials.{c}"].numpy()[first:last] for c in _TRIAL_COLUMNS},
            )
            if state["counted"][g]:
                counts_CP = state["counts"][used : used + len(one.candidates_C)]
                used += len(counts_CP)
                one = with_counts(one, counts_CP)
            slices.append(one)
        self._number, opened = state["open"].tolist()
        self._open = _opened(slices.pop()) if opened else {}
        self.closed = slices


def with_counts(one: Slice, counts_CP: Tensor) -> Slice:
    """The slice with the counts that its candidates had."""
    return Slice(one.number, one.ends, one.events, one.trials, counts_CP)


def _trial(scoring: Scoring, q: int, user: int, draw: int, longest: int) -> _Trial:
    """Query number `q` of a batch, with the last of the events that it saw."""
    batch, acted = scoring.scored.batch, scoring.accepted.events.action_T
    seen, queries = batch.seen, batch.queries
    example = int(torch.searchsorted(queries.offsets, q, right=True)) - 1
    first = int(seen.events.offsets[example])
    last = first + int(queries.limit[q])
    part = slice(max(first, last - longest), last)
    columns = (seen.item_E, seen.action_E, seen.events.at_ms, seen.before_ms_E)
    trial = (user, int(queries.at_ms[q]), int(batch.truth_Q[q]), int(acted[int(batch.event_Q[q])]))
    return _Trial(draw, tuple(column[part].numpy().copy() for column in columns), trial)


def _closed(number: int, trials: dict[int, _Trial]) -> Slice:
    """In the order of their draws, which is nobody's."""
    ordered = sorted(trials.values(), key=lambda trial: trial.draw)
    events = zip(*(trial.events for trial in ordered), strict=True)
    columns = np.array([trial.trial for trial in ordered], np.int64).T
    return Slice(
        number,
        _ends(np.array([len(trial.events[0]) for trial in ordered])),
        {c: np.concatenate(parts) for c, parts in zip(_EVENT_COLUMNS, events, strict=True)},
        {c: column.copy() for c, column in zip(_TRIAL_COLUMNS, columns, strict=True)},
    )


def _opened(one: Slice) -> dict[int, _Trial]:
    draws = _draws(one.trials["user"], one.number).tolist()
    trials = {}
    for n, (first, last) in enumerate(pairwise(one.ends.tolist())):
        row = tuple(int(one.trials[c][n]) for c in _TRIAL_COLUMNS)
        events = tuple(one.events[c][first:last] for c in _EVENT_COLUMNS)
        trials[row[0]] = _Trial(draws[n], events, row)
    return trials


def _draws(user_N: Longs, number: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A hash of user and slice (splitmix64): who is drawn in one slice says nothing of others."""
    mixed = user_N.astype(np.uint64) + np.uint64((number + 1) * _MIX[0] % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[1])
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX[2])
    return mixed ^ (mixed >> np.uint64(31))


def _ends(counts_N: Longs) -> Longs:
    return np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64)


def _joined(parts: list[Longs]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]))
