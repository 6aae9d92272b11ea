"""Lists that are shown and clicks that follow, with chances that are known.

A click's log odds are a constant, what the item is worth, what the user's group thinks of it, and
what the position in the list does. Lists are drawn evenly, or with the worthy items on top, as a
ranking that works shows them.

Shapes: N impressions, C items in a list.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.actions import Impression
from service.blocks import Block
from service.histories.local import Events

START_MS = 1_700_000_000_000
GAP_MS = 250
"""Between two impressions."""
GROUPS = 8

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class World:
    """Everything that decides what is shown and clicked."""

    impressions: int
    users: int = 500
    items: int = 300
    size: int = 50
    """Of a list."""
    log_odds: float = -4.9
    worth: float = 0.5
    """Standard deviation of what items are worth, in log odds."""
    taste: float = 0.4
    slope: float = 0.0
    """What one position further down takes from the log odds."""
    worthy_first: bool = False
    wait_ms: int = 9000
    """A click follows at most so long after."""
    seed: int = 0

    def worths(self) -> Floats:
        """What each item is worth."""
        return np.random.default_rng((self.seed, 1)).normal(0, self.worth, self.items)

    def blocks(self, size: int = 32) -> Iterator[Block]:
        """The stream, `size` impressions in a block."""
        draw = np.random.default_rng(self.seed)
        taste = np.random.default_rng((self.seed, 2)).normal(0, self.taste, (GROUPS, self.items))
        waiting = np.zeros((4, 0), np.int64)
        requests: list[str] = []
        for first in range(0, self.impressions, size):
            number_N = np.arange(first, min(first + size, self.impressions))
            user_N = draw.integers(0, self.users, len(number_N))
            item_NC = draw.random((len(number_N), self.items)).argpartition(self.size)
            item_NC = item_NC[:, : self.size]
            if self.worthy_first:
                noisy_NC = self.worths()[item_NC] + draw.normal(0, self.worth, item_NC.shape)
                item_NC = np.take_along_axis(item_NC, (-noisy_NC).argsort(1), 1)
            odds_NC = self.log_odds + self.worths()[item_NC] - self.slope * np.arange(self.size)
            odds_NC += taste[user_N % GROUPS, :][np.arange(len(user_N))[:, None], item_NC]
            clicked_NC = draw.random(item_NC.shape) < 1 / (1 + np.exp(-odds_NC))
            n_K, c_K = clicked_NC.nonzero()
            at_ms_N = START_MS + GAP_MS * number_N
            at_ms_K = at_ms_N[n_K] + draw.integers(100, self.wait_ms, len(n_K))
            came = np.stack([at_ms_K, user_N[n_K], item_NC[n_K, c_K], number_N[n_K]])
            waiting = np.concatenate([waiting, came], axis=1)
            waiting = waiting[:, waiting[0].argsort(kind="stable")]
            due = int((waiting[0] <= at_ms_N[-1]).sum())
            now, waiting = waiting[:, :due], waiting[:, due:]
            requests = [f"r{number}" for number in now[3].tolist()]
            nothing = np.zeros(due, np.int64)
            yield Block(
                Events(now[1], now[2], nothing, now[0], nothing), list(requests), now[2].tolist(),
                [
                    Impression(request=f"r{n}", user=u, at=at / 1000, items=items)
                    for n, u, at, items in zip(
                        number_N.tolist(), user_N.tolist(), at_ms_N.tolist(), item_NC.tolist(),
                        strict=True,
                    )
                ],
                [], {}, int(at_ms_N[-1]), due + len(number_N),
            )  # fmt: skip
