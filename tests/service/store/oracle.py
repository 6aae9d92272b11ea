"""The table's promises in plain Python: dictionaries that take one occurrence at a time.

Written from docs/store.md. What the documentation leaves to the table (which rows an eviction
takes among those it may take, how many new rows fit under the cap) is told to the oracle by the
walk, which checks it against the rules first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from kernels.key_index import RESERVED_KEY
from kernels.row_init import initial_rows
from service.store.settings import SlotSettings

Floats = npt.NDArray[np.float64]
Single = np.float32

MASK = 2**64 - 1
LONG_AGO_MS = -(2**63)
NOTHING = Single(0)
HALF_LIVES_BETWEEN_LANDMARKS = 64
_POWERS = [Single(2.0 ** (i / 256)) for i in range(256)]


def mix64(word: int) -> int:
    """SplitMix64's finalizer."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


@dataclass
class Clock:
    """Event time, and what an occurrence weighs at a time."""

    half_life_ms: int
    landmark_ms: int = 0
    now_ms: int = 0
    started: bool = False

    def weight(self, at_ms: int) -> Single:
        """2^((at - landmark) / half-life), to 1/256 of a half-life."""
        step = (at_ms - self.landmark_ms) * 256 // self.half_life_ms
        step = min(max(step, -126 * 256), 120 * 256)
        return Single(math.ldexp(_POWERS[step & 255], step >> 8))

    def move_landmark(self) -> int:
        """To the last multiple of 64 half-lives; by how many half-lives that moved it."""
        stride = HALF_LIVES_BETWEEN_LANDMARKS * self.half_life_ms
        before_ms, self.landmark_ms = self.landmark_ms, self.now_ms // stride * stride
        return (self.landmark_ms - before_ms) // self.half_life_ms


@dataclass
class Held:
    """What is kept of an id that has a row."""

    row: int
    vector: Floats
    moment: Floats
    admitted_ms: int = 0
    last_seen_ms: int = LONG_AGO_MS
    weight: Single = NOTHING
    gradient_norm: float = 0.0
    square: float = 0.0
    steps: int = 0

    def __deepcopy__(self, memo: object) -> "Held":
        return replace(self)  # arrays are replaced, never written to


@dataclass
class Waiting:
    """Counts of ids without a row, in two generations."""

    current: dict[int, int] = field(default_factory=dict)
    older: dict[int, int] = field(default_factory=dict)
    next_ms: int | None = None
    rotations_early: int = 0

    def __len__(self) -> int:
        return len(self.current) + len(self.older)

    def count(self, key: int, most: int) -> int:
        """One occurrence more; the count so far."""
        if key not in self.current:
            before = self.older.pop(key, 0)
            if len(self.current) >= most // 2:
                self.rotate()
                self.rotations_early += 1
            self.current[key] = before
        self.current[key] += 1
        return self.current[key]

    def forget(self, key: int) -> None:
        self.current.pop(key, None)
        self.older.pop(key, None)

    def rotate(self) -> None:
        self.current, self.older = {}, self.current

    def pass_time(self, watermark_ms: int, period_ms: int) -> None:
        if self.next_ms is None:
            self.next_ms = watermark_ms + period_ms
        while watermark_ms >= self.next_ms:
            self.rotate()
            self.next_ms += period_ms


@dataclass
class Version:
    """What has changed since the last version was taken."""

    changed: set[int] = field(default_factory=set)
    """Keys; the reserved key stands for the unknown row."""
    known: set[int] = field(default_factory=set)
    """Keys that the last version holds."""
    gone: set[int] = field(default_factory=set)
    """Keys of the last version that have lost their row since."""


class Oracle:
    """One slot's table."""

    def __init__(self, slot: SlotSettings, seed: int) -> None:
        self.slot, self.seed = slot, seed
        self.clock = Clock(round(slot.half_life_seconds * 1000))
        self.held: dict[int, Held] = {}
        self.key_at: dict[int, int] = {}
        self.unknown = self._new(RESERVED_KEY, 0)
        self.free: list[int] = []
        self.end = 1
        self.cursor = self.evict_cursor = 0
        self.waiting = Waiting()
        self.version = Version(changed={RESERVED_KEY})
        self.refused = 0
        self.evicted = self.expired = 0

    def by_row(self) -> list[tuple[int, int]]:
        """(row, key) of everything that has a row, ascending."""
        return sorted(self.key_at.items())

    def row_of(self, key: int) -> int:
        return self.held[key].row if key in self.held else 0

    def admit(
        self, keys: list[int], at_ms: list[int], room_for: Callable[[int], float]
    ) -> list[int]:
        """The row that each occurrence reads; `room_for` so many new ids says how many get one.

        Waiting ids leave when the batch is over, whether or not they earned their row early in it.
        """
        if keys and not self.clock.started:
            self._start_clock(at_ms[0])
        self.made: list[int] = []
        absent = {key for key in keys if key not in self.held}
        earned: dict[int, int] = {}
        for place, (key, at) in enumerate(zip(keys, at_ms, strict=True)):
            if key in absent and self._earns(key, at):
                earned.setdefault(key, place)
        room, rows = room_for(len(earned)), []
        for place, (key, at) in enumerate(zip(keys, at_ms, strict=True)):
            if key in absent and place >= earned.get(key, math.inf):
                self._grant(key, at, room)
            rows.append(self._touch(key, at))
        for row in self.made:
            self.waiting.forget(self.key_at[row])
        return rows

    def update(self, rows: list[int], grads: Floats) -> None:
        """One step of the optimizer per distinct row."""
        sums: dict[int, Floats] = {}
        for row, grad in zip(rows, grads, strict=True):
            sums[row] = sums[row] + grad if row in sums else grad.astype(np.float64)
        for row, total in sums.items():
            key = RESERVED_KEY if row == 0 else self.key_at[row]
            self._step(self.unknown if row == 0 else self.held[key], total)
            self.version.changed.add(key)

    def expire(self, watermark_ms: int, budget: int) -> list[tuple[int, int]]:
        """(key, row) of what the sweep finds among the next `budget` rows."""
        self._pass_time(watermark_ms)
        if self.slot.ttl_seconds is None:
            return []
        ttl_ms = round(self.slot.ttl_seconds * 1000)
        gone = []
        for _ in range(min(budget, self.end)):
            key = self.key_at.get(self.cursor)
            if key is not None and watermark_ms - self.held[key].last_seen_ms > ttl_ms:
                gone.append((key, self.cursor))
                self._lose(key)
            self.cursor = (self.cursor + 1) % self.end
        self.expired += len(gone)
        return gone

    def evict(self, keys: list[int]) -> None:
        """Free the rows of these ids, in this order."""
        for key in keys:
            self._lose(key)
        self.evicted += len(keys)

    def remove(self, keys: list[int]) -> list[tuple[int, int]]:
        """Forget the ids whole; (key, row) of those that had a row."""
        gone = []
        for key in keys:
            self.waiting.forget(key)
            if key in self.held:
                gone.append((key, self.held[key].row))
                self._lose(key)
        return gone

    def importance(self, key: int) -> float:
        """Decayed count times gradient norm."""
        return self.decayed_count(self.held[key]) * self.held[key].gradient_norm

    def decayed_count(self, held: Held) -> float:
        """Occurrences by now, each halved every half-life."""
        return float(held.weight) / float(self.clock.weight(self.clock.now_ms))

    def take_changes(self) -> Version:
        """What a version must hold; the next one starts empty."""
        taken = self.version
        known = set(self.held)
        self.version = Version(known=known)
        return taken

    def put_back(self, taken: Version) -> None:
        """The version that was made of `taken` is lost."""
        now = self.version
        now.changed |= taken.changed & {*self.held, RESERVED_KEY}
        now.gone |= taken.gone
        now.known &= taken.known

    def restored(self) -> None:
        """As after a load: everything is in the version that it came from."""
        self.version = Version(known=set(self.held))

    def _grant(self, key: int, at_ms: int, room: float) -> None:
        """A row for an id that has earned one, unless it has it already or there is no room."""
        if key not in self.held and len(self.made) < room:
            self._make(key, at_ms)
        elif key not in self.held:
            self.refused += 1

    def _touch(self, key: int, at_ms: int) -> int:
        held = self.held.get(key)
        if held is None:
            return 0
        held.last_seen_ms = max(held.last_seen_ms, at_ms)
        held.weight = Single(held.weight + self.clock.weight(at_ms))
        self.version.changed.add(key)
        return held.row

    def _earns(self, key: int, at_ms: int) -> bool:
        if self.slot.probability is not None:
            return self.drawn(key, at_ms) < self.slot.probability * 2**64
        if self.slot.min_count == 1:
            return True
        return self.waiting.count(key, self.slot.max_waiting) >= self.slot.min_count

    def drawn(self, key: int, at_ms: int) -> int:
        """64 random bits of an occurrence."""
        return mix64(key & MASK ^ mix64(self.seed & MASK ^ at_ms & MASK))

    def _make(self, key: int, at_ms: int) -> None:
        row = self.free.pop() if self.free else self.end
        self.end = max(self.end, row + 1)
        self.held[key], self.key_at[row] = self._new(key, row), key
        self.held[key].admitted_ms = at_ms
        earlier = Single(self.slot.min_count - 1)
        self.held[key].weight = Single(earlier * self.clock.weight(at_ms))
        self.made.append(row)

    def _new(self, key: int, row: int) -> Held:
        keys_N = torch.tensor([key])
        rows_ND = initial_rows(keys_N, self.slot.dim, self.seed, self.slot.init_scale, "reference")
        return Held(row, rows_ND[0].double().numpy(), np.zeros(self.slot.dim))

    def _lose(self, key: int) -> None:
        row = self.held.pop(key).row
        del self.key_at[row]
        self.free.append(row)
        self.version.changed.discard(key)
        if key in self.version.known:
            self.version.known.remove(key)
            self.version.gone.add(key)

    def _pass_time(self, watermark_ms: int) -> None:
        self.waiting.pass_time(watermark_ms, round(self.slot.waiting_seconds * 1000))
        if not self.clock.started:
            self._start_clock(watermark_ms)
        self.clock.now_ms = max(self.clock.now_ms, watermark_ms)
        moved = self.clock.move_landmark()
        if moved:
            self.version.changed |= self.held.keys()
        for held in self.held.values():
            held.weight = Single(math.ldexp(held.weight, -moved))

    def _start_clock(self, at_ms: int) -> None:
        self.clock.started, self.clock.now_ms = True, at_ms
        self.clock.move_landmark()

    def _step(self, held: Held, grad: Floats) -> None:
        slot = self.slot
        mean_square = float(np.mean(grad**2))
        norm = math.sqrt(mean_square)
        held.steps += 1
        held.gradient_norm = norm if held.steps == 1 else 0.9 * held.gradient_norm + 0.1 * norm
        if slot.optimizer == "adagrad":
            held.square += mean_square
            change = grad / (math.sqrt(held.square) + 1e-8)
        elif slot.optimizer == "adam":
            held.moment = 0.9 * held.moment + 0.1 * grad
            held.square = 0.999 * held.square + 0.001 * mean_square
            scale = math.sqrt(held.square / (1 - 0.999**held.steps)) + 1e-8
            change = held.moment / (1 - 0.9**held.steps) / scale
        elif slot.optimizer == "sgd":
            change = grad
        else:
            change = grad / math.sqrt(max(1.0, self.decayed_count(held)))
        held.vector = held.vector - slot.learning_rate * change
