"""A walk by chance: seeded, as long as one likes, with every operation of a walk in it."""

import random

from service.store.budget import row_bytes
from tests.service.store.walk import START_MS, Walk, gradients

OFTEN = {
    "admit": 400, "update": 250, "expire": 120, "remove": 20, "publish": 60, "publish_whole": 5,
    "publish_in_vain": 10, "put_back": 10, "restore": 3, "restart": 10, "others_take_memory": 10,
}  # fmt: skip
"""How often each is done, of the sum of all."""

WALKS = {
    "everything earns a row": ({"optimizer": "adagrad"}, None, "evict"),
    "counted, many rotations": ({"min_count": 3, "max_waiting": 80}, None, "evict"),
    "drawn, evicting": ({"probability": 0.2, "optimizer": "adam"}, 80, "evict"),
    "counted, evicting": ({"min_count": 2, "optimizer": "frequency_sgd"}, 60, "evict"),
    "counted, refusing": ({"min_count": 2, "optimizer": "sgd"}, 60, "refuse"),
    "nothing expires, evicting": ({"ttl_seconds": None, "half_life_seconds": 0.3}, 400, "evict"),
}
"""Settings of a slot, rows under the cap (roughly) and what happens when they are not enough; for a
window of some hundred ids."""


class Wanderer:
    """Ids come from a window that moves on: some are popular, most are not, all of them leave."""

    def __init__(self, walk: Walk, seed: int, window: int, largest: int) -> None:
        self.walk, self._draw = walk, random.Random(seed)
        self._window, self._largest = window, largest
        self._first, self._now_ms = 0, START_MS
        self._names, self._weights = list(OFTEN), list(OFTEN.values())

    def go(self, steps: int, check_every: int) -> None:
        """So many operations, the ids in hand compared after each, everything now and then."""
        for step in range(steps):
            name = self._draw.choices(self._names, self._weights)[0]
            keys = self._keys()
            getattr(self, f"_{name}")(keys)
            self.walk.check_some(keys[:50])
            if step % check_every == 0:
                self.walk.check()
                self.walk.settle()
        self.walk.publish()
        self.walk.check()

    def _keys(self) -> list[int]:
        """Mostly a few, sometimes as many as are allowed; spread over the shards by turns."""
        size = min(int(self._draw.expovariate(1 / 12)), self._largest)
        if self._draw.random() < 0.01:
            size = self._largest
        self._first += size // 8
        ranks = [self._first + int(self._window * self._draw.random() ** 3) for _ in range(size)]
        return [rank if rank % 3 else (rank << 44) % 2**63 for rank in ranks]

    def _admit(self, keys: list[int]) -> None:
        spread_ms = self._draw.choice([1, 300, 9000])
        times = [self._now_ms - self._draw.randrange(spread_ms) for _ in keys]
        if self._draw.random() < 0.5:
            times.sort()
        self.walk.admit(keys, times)

    def _update(self, keys: list[int]) -> None:
        grads_ND = gradients(len(keys), self.walk.slot.dim, self._draw.randrange(2**32))
        self.walk.update(keys, grads_ND)

    def _expire(self, keys: list[int]) -> None:
        self._now_ms += self._draw.choices([0, 100, 1000, 100_000], [2, 10, 5, 0.05])[0]
        behind_ms = self._draw.choice([0, 0, 700])
        self.walk.expire(self._now_ms - behind_ms, self._draw.choice([0, 10, 100, 10**6]))

    def _remove(self, keys: list[int]) -> None:
        self.walk.remove(keys[:3])

    def _publish(self, keys: list[int]) -> None:
        self.walk.publish()

    def _publish_whole(self, keys: list[int]) -> None:
        self.walk.publish(whole=True)

    def _publish_in_vain(self, keys: list[int]) -> None:
        self.walk.publish_in_vain(whole=self._draw.random() < 0.3)

    def _put_back(self, keys: list[int]) -> None:
        self.walk.put_back()

    def _restore(self, keys: list[int]) -> None:
        self.walk.restore(self._draw.randrange(3))

    def _restart(self, keys: list[int]) -> None:
        self.walk.restart(self._draw.choice(list(self.walk.tables)))

    def _others_take_memory(self, keys: list[int]) -> None:
        self.walk.others.charged_bytes = self._draw.choice([0, 3, 40]) * row_bytes(self.walk.slot)
