"""What each request id was given, page by page, so that none of its pages repeats an item.

Shapes: N items of a page, E items of other pages.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from service.histories.rings import Longs

ENTRY_BYTES = 500
"""What a request takes beside its pages: id, object headers, its place in the order."""
PAGE_BYTES = 200
"""What a page takes beside its keys."""

Asked = tuple[str, int]
"""Request id and key of the user."""


@dataclass
class _Given:
    until: float
    keys_of: dict[int, Longs] = field(default_factory=dict)
    """By page."""

    @property
    def nbytes(self) -> int:
        return ENTRY_BYTES + sum(PAGE_BYTES + keys_N.nbytes for keys_N in self.keys_of.values())


class Pages:
    """Pages within a bound in bytes and time; the requests that were asked for longest ago leave
    first. One thread owns it."""

    def __init__(
        self, limit_bytes: int, seconds: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._limit, self._seconds, self._clock = limit_bytes, seconds, clock
        self._given: OrderedDict[Asked, _Given] = OrderedDict()
        self.nbytes = 0

    def others(self, asked: Asked, page: int) -> tuple[Longs, int]:
        """Keys [E] of what other pages of a request held, and how many of those before this one
        are not known any more, or never were."""
        self._expire()
        keys_of = self._given[asked].keys_of if asked in self._given else {}
        others = [keys_N for number, keys_N in keys_of.items() if number != page]
        missing = page - sum(number < page for number in keys_of)
        return np.concatenate([np.zeros(0, np.int64), *others]), missing

    def put(self, asked: Asked, page: int, keys_N: Longs) -> None:
        """Remember what a page held; in place of what it held before."""
        given = self._given.pop(asked, None) or _Given(0.0)
        self.nbytes -= given.nbytes if given.keys_of else 0
        given.until, given.keys_of[page] = self._clock() + self._seconds, keys_N
        self._given[asked] = given
        self.nbytes += given.nbytes
        while self.nbytes > self._limit:
            self._drop_first()

    def _expire(self) -> None:
        now = self._clock()
        while self._given and next(iter(self._given.values())).until <= now:
            self._drop_first()

    def _drop_first(self) -> None:
        _, given = self._given.popitem(last=False)
        self.nbytes -= given.nbytes
