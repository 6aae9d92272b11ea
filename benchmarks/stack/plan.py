"""What a run sends: rates, length, sizes. Everything else follows from it and from its seed."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the generator. Rates are means: the gaps between arrivals are exponential."""

    ports: list[int]
    """Of the servers, all on 127.0.0.1: requests go to them in turn."""
    seconds: float
    actions_per_second: float = 2000.0
    rankings_per_second: float = 50.0
    probes_per_second: float = 1.0
    direct: float = 0.5
    """Share of the actions that is appended to the stream instead of posted."""
    body: int = 20
    """Most actions in a posted body; there are 1 to so many."""
    candidates: int = 256
    shown: int = 20
    users: int = 50_000
    items: int = 10_000
    seed: int = 0
    patience_seconds: float = 60.0
    """How long a body that was not taken is sent again."""

    def write(self, path: Path) -> None:
        """Leave the plan for the generator."""
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """The plan that was written."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    @property
    def bodies_per_second(self) -> float:
        """Posted bodies."""
        return self.actions_per_second * (1 - self.direct) / ((1 + self.body) / 2)


def arrivals(rate: float, start: float, end: float, seed: str) -> Iterator[float]:
    """When things are due: independent of each other and of every answer."""
    rng, due = Random(seed), start
    while rate > 0 and (due := due + rng.expovariate(rate)) < end:
        yield due
