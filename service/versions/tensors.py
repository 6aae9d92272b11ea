"""Tensor files: safetensors, with what they are as one JSON object in the header. Never pickle.

The same tensors and facts give the same bytes, so that equal state has equal SHA-256: safetensors
orders tensors but not the strings of its header, hence one string.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from service.errors import VersionError
from service.versions.manifest import FORMAT, check_format


class TensorFile(NamedTuple):
    """Tensors by name, and the JSON object of the header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def facts(self, where: str, kind: str, field: str) -> dict[str, Any]:
        """The object `field` of the metadata of a file of this kind.

        Raises VersionError naming `where` for another kind, an unknown format or no such object.
        """
        if self.metadata.get("kind") != kind:
            raise VersionError(f"{where} is of kind {self.metadata.get('kind')!r}, not {kind!r}")
        number = self.metadata.get("format")
        if not isinstance(number, int):
            raise VersionError(f"{where} has no format number but {number!r}")
        check_format(where, number)
        facts = self.metadata.get(field)
        if not isinstance(facts, dict):
            raise VersionError(f"{where} has no {field!r} object in its header but {facts!r}")
        return facts


def header(kind: str, **facts: object) -> dict[str, Any]:
    """The metadata of a file of this kind, in the format of this release."""
    return {"kind": kind, "format": FORMAT, **facts}


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Tensors of any device and layout as the bytes of a safetensors file."""
    ready: dict[str, Tensor] = {}
    storages = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory; as a copy each is just a tensor.
        ready[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    text = msgspec.json.encode(metadata, order="deterministic").decode()
    return bytes(safetensors.torch.save(ready, {"freshet": text}))


def unpack(where: str, data: bytes) -> TensorFile:
    """Parse a safetensors file. Raises VersionError naming `where` if it is none."""
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        head = msgspec.json.decode(data[8 : 8 + size], type=_Header)
        metadata = msgspec.json.decode(head.metadata.get("freshet", "{}"), type=dict[str, Any])
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise VersionError(f"{where} is not a safetensors file: {error}") from None
    return TensorFile(tensors, metadata)


class _Header(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)
