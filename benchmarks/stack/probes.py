"""How soon an action changes rankings: somebody new beside somebody who never does anything.

Both have no history, so every version scores the same list alike for both; once the action is in
the history that a server ranks with, it does not. A new version alone changes nothing between them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from benchmarks.report import CheckFailed
from service.actions import Id

POLL_SECONDS = 0.02
TOO_LONG_SECONDS = 60.0
NOISE = 1e-4
"""Scores differ by less when a list is scored beside another's."""
NOBODY = "nobody"
"""Never acts."""


class _Score(msgspec.Struct):
    item: str
    score: float


class Scores(msgspec.Struct):
    """What one server answered."""

    version: int
    items: list[_Score]


Rank = Callable[[int, Id, Sequence[str], float], Awaitable[Scores | None]]
"""Asks server number N to rank items for a user at a time; None without an answer."""


class Probe:
    """One user's first action, as seen through every server."""

    def __init__(self, user: Id, items: Sequence[str], rank: Rank) -> None:
        """The action must be on the first of the items."""
        self._user, self._items, self._rank = user, items, rank
        self._at = time.time()
        self._others: dict[tuple[int, int], dict[str, float]] = {}
        """What the other user's list scores, by server and version: it is asked for once."""

    async def unseen(self, servers: range) -> None:
        """Raise CheckFailed if somebody new is not ranked for like somebody who never acted."""
        for server in servers:
            if await self._differs(server):
                raise CheckFailed(f"server {server} ranks differently for two unknown users")

    async def changed(self, servers: range) -> None:
        """Return once every server has seen the action."""
        await asyncio.gather(*map(self._seen_by, servers))

    async def _seen_by(self, server: int) -> None:
        deadline = time.monotonic() + TOO_LONG_SECONDS
        while not await self._differs(server):
            if time.monotonic() > deadline:
                raise CheckFailed(f"an action changed nothing in {TOO_LONG_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _differs(self, server: int) -> bool:
        """Whether one and the same version scores the list otherwise for the two users."""
        mine = await self._rank(server, self._user, self._items, self._at)
        if mine is None:
            return False
        key = server, mine.version
        if key not in self._others:
            other = await self._rank(server, NOBODY, self._items, self._at)
            if other is None or other.version != mine.version:
                return False
            self._others[key] = _by_item(other)
        expected = self._others[key]
        return any(abs(score - expected[item]) > NOISE for item, score in _by_item(mine).items())


def _by_item(scores: Scores) -> dict[str, float]:
    return {one.item: one.score for one in scores.items}
