"""The memory that everything kept by id may take together."""

import math
import weakref
from typing import TYPE_CHECKING, Protocol

from kernels.rows import row_bytes as bytes_of_columns
from service.errors import SettingsError

if TYPE_CHECKING:
    from service.store.settings import CapSettings, SlotSettings

INDEX_BYTES = 54
"""Of a key's place in the index, 16 bytes at the lowest load of 0.30."""
KEY_BYTES, FREE_BYTES, TOMBSTONE_BYTES = 8, 8, 8
"""Of a row's key, its place among the free rows, and the note that a version must drop its key."""
WAITING_BYTES = INDEX_BYTES + KEY_BYTES + FREE_BYTES + 8 + KEY_BYTES
"""Of an id that waits: its place in an index, a count of 4 bytes in an array that doubles, and the
note that a version must have it."""


class Holder(Protocol):
    """Who holds memory, and what it is charged."""

    @property
    def charged_bytes(self) -> int:
        """Bytes, by the rules of this page."""
        ...


class Budget:
    """What the holders of memory are charged, against one limit.

    A charge is a function of what a checkpoint holds, so that a resumed run decides alike, and not
    below what is allocated, some huge pages per holder apart.
    """

    def __init__(self, settings: "CapSettings | None" = None) -> None:
        """None: without a limit."""
        self.max_bytes = None if settings is None else settings.max_bytes
        self.when_full = "evict" if settings is None else settings.when_full
        self._holders: list[weakref.ref[Holder]] = []

    def join(self, holder: Holder) -> None:
        """Charge a holder for as long as it lives. SettingsError if the limit is too low for it."""
        # A table that knew a budget that knew the table would keep its memory until a collection.
        self._holders.append(weakref.ref(holder))
        if self.left < 0:
            raise SettingsError(
                f"setting store.max_bytes = {self.max_bytes} is less than the "
                f"{self.charged} bytes of a store without ids ({WAITING_BYTES} for each of "
                "max_waiting ids if min_count is above 1); raise it or lower max_waiting"
            )

    @property
    def charged(self) -> int:
        """Bytes that all holders are charged."""
        holders = (holder() for holder in self._holders)
        return sum(holder.charged_bytes for holder in holders if holder is not None)

    @property
    def left(self) -> float:
        """Bytes that may still be charged; infinite without a limit, negative above it."""
        limit = self.max_bytes
        return math.inf if limit is None else limit - self.charged

    def room(self, item_bytes: int) -> float:
        """How many items of so many bytes may still be charged; infinite without a limit."""
        return math.inf if self.max_bytes is None else max(0, self.left // item_bytes)


def row_bytes(settings: "SlotSettings") -> int:
    """What a slot is charged for each row up to its highest, in use or free."""
    columns = bytes_of_columns(settings.dim, settings.moments)
    return columns + INDEX_BYTES + KEY_BYTES + FREE_BYTES + TOMBSTONE_BYTES


def waiting_bytes(settings: "SlotSettings") -> int:
    """What a slot is charged for ids that wait, from the start: rows must not take their place."""
    return settings.max_waiting * WAITING_BYTES if settings.min_count > 1 else 0
