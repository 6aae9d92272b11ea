"""How far the histories in Redis go: one hash beside the values, written after them.

It is Redis that knows it, not the writer: a Redis that was emptied, or came back from an older
copy, says so by it, and the writer goes back with it. Its numbers only grow, whoever writes them;
its epoch is drawn when histories begin anew in an empty Redis.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

OFFSET, LARGEST = "offset", "largest_ms"
WATERMARK, OBEYED, EPOCH = "watermark_ms", "obeyed", "epoch"


@dataclass(frozen=True)
class Progress:
    """Everything before `offsets` is contained in the values."""

    epoch: str
    offsets: Mapping[int, int]
    """Next record to read, by partition of topic `actions`."""
    largest_ms: Mapping[int, int] = field(default_factory=dict)
    """Largest event time that was read, by partition."""
    watermark_ms: int = 0
    obeyed: int = 0
    """Number of the last operators' decision that the values know of."""

    @staticmethod
    def new_epoch() -> str:
        """A name for contents that begin anew."""
        return secrets.token_hex(8)

    @classmethod
    def of(cls, found: Mapping[bytes, bytes]) -> "Progress | None":
        """From the fields of the hash; None if there is no hash, or not the whole of one."""
        fields = {name.decode(): value.decode() for name, value in found.items()}
        if EPOCH not in fields:
            return None
        return cls(
            fields[EPOCH],
            _numbered(fields, OFFSET),
            _numbered(fields, LARGEST),
            int(fields.get(WATERMARK, 0)),
            int(fields.get(OBEYED, 0)),
        )

    def fields(self) -> dict[str, int]:
        """What the hash holds beside the epoch: numbers that only grow."""
        return {
            **{f"{OFFSET}:{partition}": offset for partition, offset in self.offsets.items()},
            **{f"{LARGEST}:{partition}": at_ms for partition, at_ms in self.largest_ms.items()},
            WATERMARK: self.watermark_ms,
            OBEYED: self.obeyed,
        }

    def behind(self, other: "Progress") -> bool:
        """Whether something that the other contained is missing here."""
        if self.epoch != other.epoch:
            return True
        return any(self.offsets.get(p, -1) < offset for p, offset in other.offsets.items())


def _numbered(fields: Mapping[str, str], name: str) -> dict[int, int]:
    """Of fields like `offset:3`, the numbers by number."""
    split = ((key.partition(":"), value) for key, value in fields.items())
    return {int(number): int(value) for (head, _, number), value in split if head == name}
