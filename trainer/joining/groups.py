"""The log of looks: which records had been read when the open impressions were looked at.

All records between two looks are one group, and what the joiner makes of a group does not depend
on the order in which topics and partitions were read: so the log and the streams are enough to make
its state again. It goes back as far as records still matter.
"""

from itertools import takewhile

import msgspec

from service.blocks import Offsets

TOPICS = ("actions", "impressions")
"""What the joiner reads."""
CUT = -1
"""In place of the watermark: a group ended and nothing was looked at."""
SKIPPED = -2
"""In place of the watermark: these records were never read."""


class Group(msgspec.Struct, array_like=True, gc=False):
    """Records of each partition, the watermark of the look that followed, and until when one of
    them may matter."""

    counts: list[int]
    watermark_ms: int
    until_ms: int


class Groups(msgspec.Struct):
    """Groups number `first` .. `number`, the last of which is still being read."""

    names: list[str]
    """`topic:partition` of each place in a group's counts."""
    starts: list[int]
    """Where group `first` begins, by partition."""
    ends: list[int]
    """Where the last group that is complete ends."""
    rows: list[Group]
    first: int = 0
    start_ms: int = 0
    """The watermark of the last look before group `first`."""
    looked_ms: int = 0
    """The watermark of the last look."""
    until_ms: int = 0
    """Until when a record of the group that is being read may matter."""

    @classmethod
    def at(cls, offsets: Offsets, first: int = 0, looked_ms: int = 0) -> "Groups":
        """A log that begins at these offsets."""
        flat = _flat(offsets)
        starts = list(flat.values())
        return cls(list(flat), starts, starts.copy(), [], first, looked_ms, looked_ms)

    @property
    def number(self) -> int:
        """Of the group that is being read."""
        return self.first + len(self.rows)

    def matters(self, until_ms: int) -> None:
        """A record of the group that is being read matters until then."""
        self.until_ms = max(self.until_ms, until_ms)

    def end(self, offsets: Offsets, watermark_ms: int) -> None:
        """The group ends before these offsets."""
        flat = _flat(offsets)
        if not self.names:  # begun without knowing what would be read
            self.names = list(flat)
            self.starts, self.ends = [0] * len(flat), [0] * len(flat)
        ends = [flat.get(name, end) for name, end in zip(self.names, self.ends, strict=True)]
        counts = [end - start for start, end in zip(self.ends, ends, strict=True)]
        self.rows.append(Group(counts, watermark_ms, self.until_ms))
        self.ends, self.until_ms = ends, 0
        if watermark_ms >= 0:
            self.looked_ms = watermark_ms

    def forget(self) -> None:
        """Drop the groups of which nothing matters any more, from the oldest on."""
        over = list(takewhile(lambda row: row.until_ms <= self.looked_ms, self.rows))
        del self.rows[: len(over)]
        for gone in over:
            self.starts = [a + n for a, n in zip(self.starts, gone.counts, strict=True)]
            self.first += 1
            if gone.watermark_ms >= 0:
                self.start_ms = gone.watermark_ms

    def extend(self, more_ms: int) -> None:
        """What matters does so for longer: the rules have changed."""
        for row in self.rows:
            row.until_ms += more_ms
        self.until_ms += more_ms

    def places(self, offsets: list[int]) -> dict[str, dict[int, int]]:
        """Offsets by topic and partition."""
        places: dict[str, dict[int, int]] = {}
        for name, offset in zip(self.names, offsets, strict=True):
            topic, partition = name.rsplit(":", 1)
            places.setdefault(topic, {})[int(partition)] = offset
        return places


def _flat(offsets: Offsets) -> dict[str, int]:
    return {
        f"{topic}:{partition}": offset
        for topic in TOPICS
        for partition, offset in sorted(offsets.get(topic, {}).items())
    }
