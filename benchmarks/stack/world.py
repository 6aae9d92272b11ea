"""A light simulated product: Zipf users and items, and followers that make the next item guessable.

An item has four followers, found by arithmetic. A user's next item is one of them six times in ten,
else a popular one. Of a shown list a user clicks followers of the last item and seldom others.
"""

from collections.abc import Iterator
from random import Random

import numpy as np

STRIDE, STEP = 7919, 104_729
"""Item i is followed by the items (i * STRIDE + j * STEP + 1) mod count, j = 0 .. 3."""
FOLLOWERS = 4
FOLLOW_SHARE = 0.6
CLICK_SHARES = (0.03, 0.5)
"""How likely a shown item is clicked: another one, a follower."""
USER_SKEW, ITEM_SKEW = 0.4, 1.0
"""Exponents of Zipf: the n-th most active of all has n ** -skew of the first one's share."""
CHUNK = 4096


class World:
    """Users with a last item. Everything follows from the seed and from what is asked of it."""

    def __init__(self, users: int, items: int, seed: int) -> None:
        self.users, self.items = users, items
        self._numbers, self._rng = np.random.default_rng(seed), Random(seed)
        self._by_user, self._by_item = _cumulated(users, USER_SKEW), _cumulated(items, ITEM_SKEW)
        self._last = self._numbers.integers(items, size=users).tolist()
        self._acts, self._visitors = self._draws(), self._drawn_users()

    def act(self) -> tuple[str, str]:
        """Somebody's next action: (user, item)."""
        user, popular, follows, place = next(self._acts)
        item = popular
        if follows < FOLLOW_SHARE:
            item = self._follower(self._last[user], place)
        self._last[user] = item
        return f"u{user}", f"item-{item}"

    def visitor(self) -> str:
        """Somebody who is to be shown a list."""
        return f"u{next(self._visitors)}"

    def clicks(self, user: str, shown: list[str]) -> list[str]:
        """What the user clicks in a list, in its order."""
        number, clicked = int(user[1:]), []
        for item in shown:
            place = int(item[5:])
            follows = any(self._follower(self._last[number], j) == place for j in range(FOLLOWERS))
            if self._rng.random() < CLICK_SHARES[follows]:
                clicked.append(item)
                self._last[number] = place
        return clicked

    def candidates(self, count: int) -> list[str]:
        """Items to rank: half of them popular, half any."""
        shares = np.diff(self._by_item, prepend=0.0)
        popular = self._numbers.choice(self.items, count // 2, replace=False, p=shares)
        others = np.setdiff1d(np.arange(self.items), popular)
        any_of = self._numbers.choice(others, count - len(popular), replace=False)
        chosen = self._numbers.permutation(np.concatenate([popular, any_of]))
        return [f"item-{number}" for number in chosen.tolist()]

    def _follower(self, item: int, place: int) -> int:
        return (item * STRIDE + place * STEP + 1) % self.items

    def _draws(self) -> Iterator[tuple[int, int, float, int]]:
        while True:
            users = np.searchsorted(self._by_user, self._numbers.random(CHUNK))
            popular = np.searchsorted(self._by_item, self._numbers.random(CHUNK))
            follows = self._numbers.random(CHUNK)
            places = self._numbers.integers(FOLLOWERS, size=CHUNK)
            columns = (users, popular, follows, places)
            yield from zip(*(column.tolist() for column in columns), strict=True)

    def _drawn_users(self) -> Iterator[int]:
        while True:
            yield from np.searchsorted(self._by_user, self._numbers.random(CHUNK)).tolist()


def _cumulated(count: int, skew: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    weights = np.arange(1, count + 1) ** -skew
    cumulated: np.ndarray[tuple[int], np.dtype[np.float64]] = np.cumsum(weights / weights.sum())
    cumulated[-1] = 1.0
    return cumulated
