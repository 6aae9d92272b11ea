"""What `freshet versions verify` finds: files that are not what their manifest says, and chains
that do not fold."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text
from torch import Tensor

from service.errors import FreshetError, VersionError
from service.store.deltas import folded
from service.versions import Checkpoint, Manifest, Snapshot, VersionDirectory

_ITEMS, _CHANGED = "items/", "changed.rows"
"""What the item table's tensors are named by, and what only a delta of them has."""


@dataclass(frozen=True)
class Verified:
    """One version: what was read of it, and everything that is wrong with it."""

    number: int
    files: int
    bytes: int
    problems: list[str]


@dataclass(frozen=True)
class Verification:
    """Versions that were checked, oldest first."""

    versions: list[Verified]

    @classmethod
    def of(cls, directory: VersionDirectory, numbers: Iterable[int]) -> "Verification":
        """Read and check every file of these versions and fold their chains."""
        return cls([_verified(directory, number) for number in numbers])

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(version.problems for version in self.versions)

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"sound": self.sound, **asdict(self)})

    def show(self, console: Console) -> None:
        """One line per version, and one per problem."""
        for version in self.versions:
            read = f"{version.files} files, {version.bytes:,} bytes"
            word = "is sound" if not version.problems else "is damaged"
            console.print(Text(f"version {version.number} {word}: {read}"))
            for problem in version.problems:
                console.print(Text(f"  {problem}"), soft_wrap=True)


def _verified(directory: VersionDirectory, number: int) -> Verified:
    try:
        manifest = directory.manifest(number)
    except FreshetError as error:
        return Verified(number, 0, 0, [str(error)])
    problems = [
        problem
        for name in manifest.files
        if (problem := _problem(lambda: directory.open(manifest, name)))  # noqa: B023
    ]
    if not problems:
        problems = [problem for fold in _folds(directory, manifest) if (problem := _problem(fold))]
    sizes = [entry.bytes for entry in manifest.files.values()]
    return Verified(number, len(sizes), sum(sizes), problems)


def _folds(directory: VersionDirectory, manifest: Manifest) -> list[Callable[[], object]]:
    """What servers and trainers make of the files, in order to use the version."""
    folds: list[Callable[[], object]] = []
    if manifest.snapshot:
        folds.append(lambda: Snapshot.read(directory, manifest.number))
    if manifest.checkpoint:
        folds.append(lambda: _fold_rows(Checkpoint.chain(directory, manifest)))
    return folds


def _fold_rows(chain: Sequence[Checkpoint]) -> None:
    """Fold the item rows of a chain of checkpoints, as a trainer does that resumes from it."""
    first, *rest = (_items(checkpoint) for checkpoint in chain)
    try:
        if _CHANGED in first:
            folded({}, first, *rest)
        elif first:
            folded(first, *rest)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise VersionError(
            f"the checkpoint of version {chain[-1].number} does not fold: {error!r}"
        ) from None


def _items(checkpoint: Checkpoint) -> dict[str, Tensor]:
    named = checkpoint.tensors.items()
    return {name.removeprefix(_ITEMS): t for name, t in named if name.startswith(_ITEMS)}


def _problem(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except FreshetError as error:
        return str(error)
    return None
