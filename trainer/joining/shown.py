"""What the joiner hands over: impressions with what followed them."""

from collections import Counter
from collections.abc import Sequence

import msgspec


class Shown(msgspec.Struct):
    """One impression whose window is over, or what came late about one that was over before."""

    at_ms: int
    user: int = 0
    items: list[int] = msgspec.field(default_factory=list)
    """Keys of the shown items; of a correction, those that it is about."""
    history: int | None = None
    """How many events of the user the scoring saw; None where nobody said."""
    acted: dict[int, int] = msgspec.field(default_factory=dict)
    """By item, bit a set where action code a followed."""
    key: int = 0
    """Of user and request."""
    positions: list[int] | None = None
    """Where each item stood; None: in the order of the list."""
    own: Sequence[tuple[int, int, int]] = ()
    """Item, action code and time in ms of every action of this request: no target may see them."""
    late: bool = False
    """Whether it was learned without `acted` before."""
    propensities: list[float] | None = None
    """Chance of each item to be in the list; None where nobody said, or nothing was left to it."""


class Settled(msgspec.Struct):
    """What one look at the open impressions has settled."""

    closed: list[Shown] = msgspec.field(default_factory=list)
    """By time of showing."""
    late: list[Shown] = msgspec.field(default_factory=list)
    """Corrections, by time of showing."""
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    """How many of what, by the outcomes of `docs/joiner.md`."""
