"""Users' whole sequences, as the published tables cut them. U users, T events, I items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol import read_events
from service.commands.action_rows import Columns
from service.errors import InputError

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Items of every user, oldest first; items are numbered 1 .. items."""

    item_T: Ints
    offsets: Ints
    items: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, user: int, held_out: int = 0) -> Ints:
        """A user's items but for the last `held_out`."""
        first, end = self.offsets[user : user + 2]
        return self.item_T[first : max(first, end - held_out)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Packed sequences of users, shortest first, and what follows each of their events."""

    item_T: Ints
    offsets: Ints
    next_T: Ints

    def dealt(self, parts: int) -> list[Batch]:
        """The users dealt out like cards: every part has short and long ones."""
        return [self] if parts == 1 else [self._of(slice(p, None, parts)) for p in range(parts)]

    def _of(self, users: slice) -> Batch:
        ends = list(pairwise(self.offsets.tolist()))[users]
        return Batch.packed([(self.item_T[a:b], self.next_T[a:b]) for a, b in ends])

    @classmethod
    def packed(cls, sequences: list[tuple[Ints, Ints]]) -> Batch:
        """Of each user's items and what follows them."""
        items, following = zip(*sequences, strict=True)
        ends = np.cumsum([len(one) for one in items])
        return cls(np.concatenate(items), np.concatenate([[0], ends]), np.concatenate(following))


def located(name: str) -> Path:
    """A path as it is, or the file of that name (`ml-1m`) in the folder that FRESHET_DATA names.

    Raises InputError when there is neither.
    """
    if Path(name).exists():
        return Path(name)
    if folder := os.environ.get("FRESHET_DATA"):
        path = Path(folder) / f"{name}.csv.gz"
        if path.exists():
            return path
    raise InputError(
        f"--data {name} is no file; give the path of one, or set FRESHET_DATA to the folder that "
        f"holds {name}.csv.gz"
    )


def read_sequences(path: Path, order: str) -> Sequences:
    """The sequences of a file, each in the order of its column `order`, ties as they stand."""
    events = read_events(path, Columns(time=order))
    by_user_T = np.argsort(events.user_T, kind="stable")
    lengths_U = np.bincount(events.user_T, minlength=events.users)
    offsets = np.concatenate([[0], np.cumsum(lengths_U)])
    return Sequences(events.item_T[by_user_T] + 1, offsets, events.items)


def batches(
    sequences: Sequences, held_out: int, length: int, users: int, seed: tuple[int, ...]
) -> Iterator[Batch]:
    """One epoch: every user once, in an order drawn from the seed, `users` to a batch.

    Of who has more than `length` + 1 events, as many in a row are taken anywhere before the
    held-out ones, drawn anew in every epoch. Who has fewer than two is left out.
    """
    random = np.random.default_rng(seed)
    order_U = random.permutation(len(sequences))
    for first in range(0, len(order_U), users):
        chosen = (sequences.of(u, held_out) for u in order_U[first : first + users])
        cut = [_window(items, length + 1, random) for items in chosen]
        kept = sorted((items for items in cut if len(items) > 1), key=len)
        if kept:
            yield Batch.packed([(items[:-1], items[1:]) for items in kept])


def _window(items: Ints, most: int, random: np.random.Generator) -> Ints:
    start = int(random.integers(len(items) - most + 1)) if len(items) > most else 0
    return items[start : start + most]
