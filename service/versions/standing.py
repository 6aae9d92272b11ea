"""Which versions count: those that no branch left behind, and those that servers may have."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from service.errors import VersionError
from service.versions.decisions import Decisions
from service.versions.manifest import Manifest


class Facts(NamedTuple):
    """What of a manifest decides its standing; of one that cannot be read nothing is known."""

    decisions: int
    held: bool
    files: frozenset[str] = frozenset()
    readable: bool = True


class Standing:
    """Reads each manifest once, and only where a decision or a choice depends on it."""

    def __init__(self, read: Callable[[int], Manifest]) -> None:
        self._read = read
        self._known: dict[int, Facts] = {}

    def live(self, numbers: Sequence[int], decisions: Decisions) -> list[int]:
        """The numbers that no branch abandoned. One that cannot be read counts: whoever needs it
        finds out why."""
        present = set(numbers)
        self._known = {n: facts for n, facts in self._known.copy().items() if n in present}
        first = min((version for _, version in decisions.branches), default=None)
        return [n for n in numbers if first is None or n <= first or self._lives(n, decisions)]

    def may_serve(self, number: int, decisions: Decisions) -> bool:
        """Whether a live version can be read and is not held, or was released."""
        facts = self._facts(number)
        return facts.readable and (not facts.held or number in decisions.released)

    def files(self, number: int) -> frozenset[str]:
        """The data files that a version names. Raises VersionError if it cannot be read."""
        facts = self._facts(number)
        return facts.files if facts.readable else frozenset(self._read(number).files)

    def forget(self, numbers: Iterable[int]) -> None:
        """Versions that are gone."""
        for number in numbers:
            self._known.pop(number, None)

    def _lives(self, number: int, decisions: Decisions) -> bool:
        facts = self._facts(number)
        return not facts.readable or not decisions.abandoned(number, facts.decisions)

    def _facts(self, number: int) -> Facts:
        if number not in self._known:
            try:
                manifest = self._read(number)
            except VersionError as error:
                if isinstance(error.__cause__, OSError):  # it may be readable in a moment
                    raise
                return Facts(0, False, readable=False)
            held, files = manifest.held is not None, frozenset(manifest.files)
            self._known[number] = Facts(manifest.decisions, held, files)
        return self._known[number]
