"""The half of a version that servers load: model settings, dense weights, rows of every slot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from service.errors import VersionError
from service.versions import dense as weights
from service.versions.chains import check_chain, check_end, link_ends, link_header, link_name
from service.versions.checks import expect_removed
from service.versions.dense import Dense
from service.versions.directory import VersionDirectory
from service.versions.draft import Draft
from service.versions.folding import folded
from service.versions.manifest import FileEntry, Manifest
from service.versions.rows import SlotRows

PART = "snapshot"
REMOVED = "removed"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Built in full precision by the trainer; `quantized` gives what is usually published.

    `model` holds the model's settings, `dense` its weights by name, `slots` the rows by slot,
    as of `at_ms` (event time) in version `number`. With a `parent` it is a delta: the rows that
    changed since that version, the keys `removed` from slots (int64 [T]; a key with a row as well
    was removed first), and all dense weights, or none if they are what they were.
    """

    number: int
    model: dict[str, Any]
    dense: dict[str, Dense]
    slots: dict[str, SlotRows]
    parent: int | None = None
    removed: dict[str, Tensor] = field(default_factory=dict)
    at_ms: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for what no server could use, and for names that no file can hold."""
        for name, weight in self.dense.items():
            if isinstance(weight, Tensor) and not bool(weight.isfinite().all()):
                raise ValueError(f"dense weight {name!r} has NaN or infinite values")
        for name in [*self.dense, *self.slots]:
            if not name or "/" in name:
                raise ValueError(f"name {name!r} of a weight or slot is empty or has a '/'")
        if self.parent is not None and not 0 <= self.parent < self.number:
            raise ValueError(f"snapshot {self.number} cannot follow version {self.parent}")
        if self.parent is None and self.removed:
            raise ValueError("a base has removed keys, and nothing that they are removed from")
        if unknown := set(self.removed) - set(self.slots):
            raise ValueError(f"keys are removed from slots without rows: {sorted(unknown)}")
        _build("slot", expect_removed, self.removed)

    @property
    def precision(self) -> dict[str, str]:
        """What is not in full precision: dense weights, and rows as `slots/NAME`."""
        found = {name: weights.precision_of(weight) for name, weight in self.dense.items()}
        found |= {f"slots/{name}": rows.precision for name, rows in self.slots.items()}
        return {name: precision for name, precision in found.items() if precision != "fp32"}

    def quantized(self, precision: Mapping[str, str]) -> "Snapshot":
        """Dense weights and rows (`slots/NAME`) in the precisions given; what is not named stays.

        Raises ValueError for a name that the snapshot has not, and for what a precision cannot
        hold: codes of what is no matrix, values that are not finite or beyond fp16.
        """
        known = {*self.dense, *(f"slots/{name}" for name in self.slots)}
        if unknown := set(precision) - known:
            raise ValueError(f"precision names {sorted(unknown)}, known are {sorted(known)}")
        dense = {
            name: weights.quantized(name, weight, precision[name]) if name in precision else weight
            for name, weight in self.dense.items()
        }
        slots = {
            name: rows.quantized(precision.get(f"slots/{name}", rows.precision))
            for name, rows in self.slots.items()
        }
        return replace(self, dense=dense, slots=slots)

    def weights(self) -> dict[str, Tensor]:
        """The dense weights in fp32, as a model's `load_state_dict` takes them."""
        return {name: weights.values_of(weight) for name, weight in self.dense.items()}

    def write(self, draft: Draft) -> FileEntry:
        """Write it as one file of the draft."""
        metadata = link_header(PART, self, model=self.model, at_ms=self.at_ms)
        tensors = {
            f"dense/{name}/{kind}": tensor
            for name, weight in self.dense.items()
            for kind, tensor in weights.to_tensors(weight).items()
        }
        for slot, rows in self.slots.items():
            tensors |= {f"slots/{slot}/{kind}": part for kind, part in rows.to_tensors().items()}
        tensors |= {f"slots/{slot}/{REMOVED}": keys_T for slot, keys_T in self.removed.items()}
        return draft.write(link_name(PART, self), tensors, metadata)

    def write_step(self, draft: Draft) -> str:
        """Write a delta; its name, for `Manifest.step`."""
        self.write(draft)
        return draft.full(link_name(PART, self))

    @classmethod
    def read_file(cls, directory: VersionDirectory, manifest: Manifest, name: str) -> "Snapshot":
        """One file of a version: a base or a delta. Raises VersionError with file and reason."""
        file = directory.open(manifest, name)
        number, parent = link_ends(PART, file, name, manifest)
        model, timed = file.fact(name, "model", dict), file.metadata["format"] > 1
        at_ms = file.fact(name, "at_ms", int) if timed else manifest.watermark_ms
        dense, slots = _grouped(file.tensors)
        removed = {slot: parts[REMOVED] for slot, parts in slots.items() if REMOVED in parts}
        try:
            return cls(
                number, model, _build("dense weight", weights.from_tensors, dense),
                _build("slot", SlotRows.from_tensors, slots), parent, removed, at_ms,
            )  # fmt: skip
        except ValueError as error:
            raise VersionError(f"{name} cannot be served: {error}") from None

    @classmethod
    def read(cls, directory: VersionDirectory, number: int) -> "Snapshot":
        """The whole snapshot of a version: its chain, every link checked, folded.

        Raises VersionError naming the file and the reason.
        """
        manifest = directory.manifest(number)
        names = manifest.snapshot
        if not names:
            raise VersionError(f"version {number} has no snapshot")
        links = [cls.read_file(directory, manifest, name) for name in names]
        check_chain(links, names)
        check_end(links, names, manifest)
        return folded(links, names)


def fold(parts: "Sequence[Snapshot]") -> Snapshot:
    """A base and deltas as one base, of the last one's number.

    Row order is that of first appearance in any part: the base's order, then what came first.
    Raises VersionError naming the part that is not the next one, or does not fit the base.
    """
    names = [f"the snapshot of version {part.number}" for part in parts]
    check_chain(parts, names)
    return folded(parts, names)


Parts = dict[str, Tensor]
"""The tensors of one weight or slot, by what is left of their names."""

Read = TypeVar("Read")
Built = TypeVar("Built")


def _grouped(tensors: Parts) -> tuple[dict[str, Parts], dict[str, Parts]]:
    """Tensors named GROUP/NAME/KIND by group and name; names of other groups are not for us."""
    groups: dict[str, dict[str, Parts]] = {"dense": {}, "slots": {}}
    for path, tensor in tensors.items():
        match path.split("/", 2):
            case [("dense" | "slots") as group, name, kind]:
                groups[group].setdefault(name, {})[kind] = tensor
    return groups["dense"], groups["slots"]


def _build(what: str, parse: Callable[[Read], Built], named: dict[str, Read]) -> dict[str, Built]:
    built = {}
    for name, parts in named.items():
        try:
            built[name] = parse(parts)
        except ValueError as error:
            raise ValueError(f"{what} {name!r}: {error}") from None
    return built
