"""The files that one half of a version is made of, and when a new base is due."""

from dataclasses import dataclass

from service.versions import Draft, FileEntry, Manifest


@dataclass(frozen=True)
class Chain:
    """A base and the deltas after it, by name in order."""

    files: dict[str, FileEntry]

    @classmethod
    def of(cls, manifest: Manifest | None, part: str) -> "Chain":
        """The chain that a version names; nothing without a version."""
        names = [] if manifest is None else manifest.part(part)
        return cls({name: manifest.files[name] for name in names} if manifest else {})

    def due(self, most: int) -> bool:
        """Whether the next version should be a base: there is none, `most` files follow it, or
        they outgrow it."""
        if not self.files:
            return True
        base, *deltas = (entry.bytes for entry in self.files.values())
        return len(deltas) >= most or sum(deltas) > base

    def share(self, draft: Draft) -> None:
        """Make the files part of another version."""
        for name, entry in self.files.items():
            draft.share(name, entry)


def number_of(manifest: Manifest | None) -> int | None:
    """A version's number; None of none."""
    return None if manifest is None else manifest.number
