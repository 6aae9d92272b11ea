"""The history segments of the newest version: appended to, merged like the carry of a counter."""

from service.histories.erased import without
from service.histories.segments import MERGE, Segment, compacted, concatenated
from service.versions import Draft, FileEntry, Manifest, VersionDirectory
from trainer.cuts import Orders

FILE = "histories/segment.safetensors"


class SegmentFiles:
    """Their names in order, and how often each was merged."""

    def __init__(self, directory: VersionDirectory, capacity: int) -> None:
        """`capacity`: events that a history keeps, so that a merge knows what nobody misses."""
        self._directory, self._capacity = directory, capacity
        self._parent: Manifest | None = None
        self._files: dict[str, FileEntry] = {}
        self._levels: list[int] = []

    def resume(self, parent: Manifest, levels: list[int]) -> None:
        """Go on after a version that was committed with these levels."""
        self._parent, self._levels = parent, levels
        self._files = {name: parent.files[name] for name in parent.histories}

    def write(self, draft: Draft, segment: Segment, orders: Orders) -> list[int]:
        """Write the segments of a version; returns the levels of what the draft holds now."""
        return self._wiped(draft, segment, orders) if orders.wipe else self._carried(draft, segment)

    def _carried(self, draft: Draft, segment: Segment) -> list[int]:
        """Carry the parent's segments over, add the new one, merge full runs of a size."""
        names, levels, newest, level = list(self._files), list(self._levels), segment, 0
        while len(levels) >= MERGE - 1 and levels[-(MERGE - 1) :] == [level] * (MERGE - 1):
            older = [self._read(name) for name in names[-(MERGE - 1) :]]
            newest = compacted(concatenated([*older, newest]), self._capacity)
            del names[-(MERGE - 1) :], levels[-(MERGE - 1) :]
            level += 1
        for name in names:
            draft.share(name, self._files[name])
        draft.write(FILE, newest.to_tensors())
        return [*levels, level]

    def _wiped(self, draft: Draft, segment: Segment, orders: Orders) -> list[int]:
        """All in one, without what is erased."""
        segments = [*(self._read(name) for name in self._files), segment]
        draft.write(FILE, without(segments, orders.erased, self._capacity).to_tensors())
        return [max(self._levels, default=0) + 1]

    def _read(self, name: str) -> Segment:
        assert self._parent is not None
        return Segment.from_tensors(self._directory.open(self._parent, name).tensors)
