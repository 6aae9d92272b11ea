"""The half of a version that servers load: model settings, dense weights, rows of every slot."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from service.errors import VersionError
from service.versions.channels import ChannelCodes
from service.versions.directory import Draft, VersionDirectory
from service.versions.manifest import FileEntry
from service.versions.rows import SlotRows
from service.versions.tensors import header

KIND = "snapshot"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Built in full precision by the trainer; `quantized()` gives what is usually published.

    `model` holds the model's settings, `dense` its weights by name, `slots` the rows by slot.
    """

    number: int
    model: dict[str, Any]
    dense: dict[str, Tensor | ChannelCodes]
    slots: dict[str, SlotRows]

    def __post_init__(self) -> None:
        """Raise ValueError for weights with NaN and for slot names that no file can hold."""
        for name, weight in self.dense.items():
            if isinstance(weight, Tensor) and not bool(weight.isfinite().all()):
                raise ValueError(f"dense weight {name!r} has NaN or infinite values")
        for name in [*self.dense, *self.slots]:
            if not name or "/" in name:
                raise ValueError(f"name {name!r} of a weight or slot is empty or has a '/'")

    @property
    def precision(self) -> Literal["int8", "fp32"]:
        """What `write` will write: "int8" as soon as anything is quantized."""
        rows = (not isinstance(slot.codes, Tensor) for slot in self.slots.values())
        dense = (isinstance(weight, ChannelCodes) for weight in self.dense.values())
        return "int8" if any(rows) or any(dense) else "fp32"

    def quantized(self, exact: Collection[str] = ()) -> "Snapshot":
        """Rows and 2-D dense weights as int8; norms, biases and those named in `exact` stay.

        Heads and calibration belong in `exact`: they scale scores directly. Raises ValueError for
        a name in `exact` that the model has not.
        """
        if unknown := set(exact) - set(self.dense):
            raise ValueError(f"exact names {sorted(unknown)}, known are {sorted(self.dense)}")
        dense = {
            name: weight if name in exact else _quantized(weight)
            for name, weight in self.dense.items()
        }
        slots = {name: rows.quantized() for name, rows in self.slots.items()}
        return replace(self, dense=dense, slots=slots)

    def weights(self) -> dict[str, Tensor]:
        """The dense weights in full precision, as a model's `load_state_dict` takes them."""
        return {
            name: weight.decode() if isinstance(weight, ChannelCodes) else weight
            for name, weight in self.dense.items()
        }

    def write(self, draft: Draft) -> FileEntry:
        """Write it as one file of the draft."""
        metadata = header(KIND, model=self.model)
        tensors = {
            f"dense/{name}/{kind}": tensor
            for name, weight in self.dense.items()
            for kind, tensor in _dense_parts(weight).items()
        }
        for slot, rows in self.slots.items():
            tensors |= {f"slots/{slot}/{kind}": part for kind, part in rows.to_tensors().items()}
        return draft.write("snapshot/base.safetensors", tensors, metadata)

    @classmethod
    def read(cls, directory: VersionDirectory, number: int) -> "Snapshot":
        """Read and check the snapshot of a version. Raises VersionError with file and reason."""
        manifest = directory.manifest(number)
        name = manifest.only("snapshot")
        file = directory.open(manifest, name)
        model = file.facts(name, KIND, "model")
        dense, slots = _grouped(file.tensors)
        try:
            weights = _build("dense weight", _parse_dense, dense)
            return cls(number, model, weights, _build("slot", SlotRows.from_tensors, slots))
        except ValueError as error:
            raise VersionError(f"{name} cannot be served: {error}") from None


Parts = dict[str, Tensor]
"""The tensors of one weight or slot, by what is left of their names."""

Built = TypeVar("Built")


def _grouped(tensors: Parts) -> tuple[dict[str, Parts], dict[str, Parts]]:
    """Tensors named GROUP/NAME/KIND by group and name; names of other groups are not for us."""
    groups: dict[str, dict[str, Parts]] = {"dense": {}, "slots": {}}
    for path, tensor in tensors.items():
        match path.split("/", 2):
            case [("dense" | "slots") as group, name, kind]:
                groups[group].setdefault(name, {})[kind] = tensor
    return groups["dense"], groups["slots"]


def _build(what: str, parse: Callable[[Parts], Built], named: dict[str, Parts]) -> dict[str, Built]:
    built = {}
    for name, parts in named.items():
        try:
            built[name] = parse(parts)
        except ValueError as error:
            raise ValueError(f"{what} {name!r}: {error}") from None
    return built


def _dense_parts(weight: Tensor | ChannelCodes) -> Parts:
    if isinstance(weight, ChannelCodes):
        return {"codes": weight.codes_RI, "scale": weight.scale_R}
    return {"values": weight}


def _parse_dense(parts: Parts) -> Tensor | ChannelCodes:
    match parts:
        case {"values": values}:
            return values
        case {"codes": codes_RI, "scale": scale_R}:
            return ChannelCodes(codes_RI, scale_R)
    raise ValueError(f"values, or codes and scale, are expected, not {sorted(parts)}")


def _quantized(weight: Tensor | ChannelCodes) -> Tensor | ChannelCodes:
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
        return ChannelCodes.encode(weight)
    return weight
