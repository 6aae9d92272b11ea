"""Ids on their way to `min_count` occurrences. Exact for ids that do not stay away."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.store.counters import Counters
from service.store.occurrences import since_first
from service.store.touches import Touches

_NOT_SET_MS = -(2**63)
_NEAR = 4096
"""Occurrences among which to look for new ids when there is little room."""


class Waiting:
    """Two generations of counters. An id's next occurrence brings its count into the current one.

    When the watermark passes a multiple of `period_ms` since the first watermark, the older
    generation is dropped and the current one becomes the older: a count is forgotten when its id
    stays away for between one and two periods. That happens early, and is counted, when a new id
    finds `most` / 2 ids in the current generation.
    """

    def __init__(
        self, min_count: int, period_ms: int, most: int, empty: Callable[[], Counters]
    ) -> None:
        self._min_count, self._period_ms, self._half = min_count, period_ms, most // 2
        self._empty = empty
        self._current, self._older = empty(), empty()
        self._touches = Touches(self._current.keys())
        self._next_ms: int | None = None
        self.rotations_early = 0

    def earned(self, keys_A: Tensor) -> Tensor:
        """Count each occurrence; True from the one that reaches `min_count` on (bool [A]).

        Ids that have earned a row count as waiting until `forget`.
        """
        nth, rotations = [keys_A[:0]], self.rotations_early
        rest_A = keys_A
        while len(rest_A):
            piece = self._fitting(rest_A)
            nth.append(self._current.count(rest_A[:piece], self._older.pop))
            rest_A = rest_A[piece:]
        self._touches.add(keys_A, len(self))
        earned_A = torch.cat(nth) >= self._min_count
        # An id can earn its row and be forgotten within one large batch.
        return earned_A if rotations == self.rotations_early else since_first(earned_A, keys_A)

    def forget(self, keys_M: Tensor) -> None:
        """Drop the counts of distinct ids: they got their row, or shall leave no trace."""
        self._current.pop(keys_M)
        self._older.pop(keys_M)
        self._touches.add(keys_M, len(self))

    def pass_time(self, watermark_ms: int) -> None:
        """Rotate as often as the watermark has passed a boundary."""
        if self._next_ms is None:
            self._next_ms = watermark_ms + self._period_ms
        passed = max(0, 1 + (watermark_ms - self._next_ms) // self._period_ms)
        for _ in range(min(passed, 2)):
            self._rotate()
        self._next_ms += passed * self._period_ms

    def __len__(self) -> int:
        """Ids that wait."""
        return len(self._current) + len(self._older)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self._current.nbytes + self._older.nbytes + self._touches.nbytes

    def state(self) -> dict[str, Tensor]:
        """Both generations, when they rotate next, and how often they did early."""
        current, older = self._current.state(), self._older.state()
        return {
            **{f"waiting.current.{name}": tensor for name, tensor in current.items()},
            **{f"waiting.older.{name}": tensor for name, tensor in older.items()},
            **self._rest(),
        }

    def cut(self, whole: bool) -> dict[str, Tensor]:
        """What makes the state of the last cut into the present one, or with `whole` any state.

        `touched.keys` [T], distinct and ascending, with their counts in `touched.current` and
        `touched.older`, 0 where there is none; other keys moved on by `touched.rotations`
        generations (2: they are gone).
        """
        keys_T, rotations = self._touches.keys(), min(self._touches.rotations, 2)
        if whole or self._touches.all or len(keys_T) > len(self):
            keys_T, rotations = torch.cat([self._current.keys(), self._older.keys()]).unique(), 2
        self._touches.start()
        return {
            "touched.keys": keys_T,
            "touched.current": self._current.get(keys_T),
            "touched.older": self._older.get(keys_T),
            "touched.rotations": torch.tensor(rotations),
            **self._rest(),
        }

    def put_back(self) -> None:
        """What was cut is lost: the next cut holds everything."""
        self._touches.lose()

    def load(self, state: dict[str, Tensor]) -> None:
        """Become what returned `state`; a table that counted nobody had nothing to return."""
        self._current, self._older = self._empty(), self._empty()
        self._touches.start()
        if "waiting.next_ms" not in state:
            return
        self._current.put(state["waiting.current.keys"], state["waiting.current.counts"])
        self._older.put(state["waiting.older.keys"], state["waiting.older.counts"])
        next_ms = int(state["waiting.next_ms"])
        self._next_ms = None if next_ms == _NOT_SET_MS else next_ms
        self.rotations_early = int(state["rotations_early"])

    def _rest(self) -> dict[str, Tensor]:
        next_ms = _NOT_SET_MS if self._next_ms is None else self._next_ms
        return {
            "waiting.next_ms": torch.tensor(next_ms),
            "rotations_early": torch.tensor(self.rotations_early),
        }

    def _fitting(self, keys_A: Tensor) -> int:
        """How many of the occurrences the current generation takes as it is, at least one: rotates
        if it is full and the first of them is of an id that it does not have."""
        room = self._half - len(self._current)
        if room >= len(keys_A):
            return len(keys_A)
        near_A = keys_A[: max(2 * room, _NEAR)]
        missing = (~self._current.has(near_A)).nonzero()
        if len(missing) <= room:
            return len(near_A)
        taken = int(missing[room])
        if taken == 0:
            self._rotate_early(keys_A[:1])
            return self._fitting(keys_A)
        return taken

    def _rotate_early(self, key_1: Tensor) -> None:
        """Rotate to take in an id, which keeps its count."""
        count_1 = self._older.pop(key_1)
        self._rotate()
        self._current.put(key_1, count_1)
        self.rotations_early += 1

    def _rotate(self) -> None:
        self._current, self._older = self._empty(), self._current
        self._touches.rotations += 1


def folded_waiting(state: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both generations after `delta`, which `Waiting.cut` returned."""
    nobody = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int32)
    generations = [nobody] * int(delta["touched.rotations"])
    generations += [_generation(state, name) or nobody for name in ("current", "older")]
    keys_T, after = delta["touched.keys"], {}
    for name, (keys_W, counts_W) in zip(("current", "older"), generations, strict=False):
        merged = _merged(keys_W, counts_W, keys_T, delta[f"touched.{name}"])
        after[f"waiting.{name}.keys"], after[f"waiting.{name}.counts"] = merged
    return after


def _generation(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    keys_W = state.get(f"waiting.{name}.keys")
    return None if keys_W is None else (keys_W, state[f"waiting.{name}.counts"])


def _merged(
    keys_W: Tensor, counts_W: Tensor, keys_T: Tensor, counts_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Ascending keys and their counts, once those of `keys_T` are `counts_T` (0: none)."""
    keys, counts, touched = keys_W.numpy(), counts_W.numpy(), keys_T.numpy()
    gone = np.searchsorted(keys, touched)
    gone = gone[np.append(keys, RESERVED_KEY)[gone] == touched]
    keys, counts = np.delete(keys, gone), np.delete(counts, gone)
    held = counts_T.numpy() > 0
    places = np.searchsorted(keys, touched[held])
    keys = np.insert(keys, places, touched[held])
    counts = np.insert(counts, places, counts_T.numpy()[held])
    return torch.from_numpy(keys), torch.from_numpy(counts)
