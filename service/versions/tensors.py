"""Tensor files: safetensors, with what they are as one JSON object in the header. Never pickle.

The same tensors and facts give the same bytes, so that equal state has equal SHA-256. The format is
eight bytes with the header's length, the header, the tensors; the library for it copies every byte
several times while it holds the interpreter's lock, hence our own reading and writing (the tests
compare both).
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.errors import VersionError
from service.versions.formats import FORMAT, Part, check_format

Fact = TypeVar("Fact", int, dict[str, Any])


class TensorFile(NamedTuple):
    """Tensors by name, and the JSON object of the header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def check(self, where: str, *kinds: str) -> str:
        """The kind of the file, one of those given, in a format that this release reads.

        Raises VersionError naming `where` and what it is instead.
        """
        kind, number = self.metadata.get("kind"), self.metadata.get("format")
        if kind not in kinds:
            raise VersionError(f"{where} is of kind {kind!r}, not {' or '.join(map(repr, kinds))}")
        if not isinstance(number, int):
            raise VersionError(f"{where} has no format number but {number!r}")
        check_format(where, number)
        return str(kind)

    def fact(self, where: str, name: str, kind: type[Fact]) -> Fact:
        """An entry of the metadata. Raises VersionError naming `where` if it is of no such type."""
        fact = self.metadata.get(name)
        if not isinstance(fact, kind) or isinstance(fact, bool):
            said = {dict: "object", int: "number"}[kind]
            raise VersionError(f"{where} has no {name!r} {said} in its header but {fact!r}")
        return fact


def header(kind: str, **facts: object) -> dict[str, Any]:
    """The metadata of a file of this kind, in the format of this release."""
    return {"kind": kind, "format": FORMAT, **facts}


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> list[Part]:
    """Tensors of any device and layout as a safetensors file, in parts.

    The parts are the tensors' own memory: a base of some hundred megabytes is hashed and written
    without a copy, and without the interpreter's lock, which the training thread wants.
    """
    entries: dict[str, Any] = {_METADATA: {"freshet": _text(metadata)}}
    parts, end = [], 0
    ready = {name: _dense(tensor.detach().cpu()) for name, tensor in tensors.items()}
    for name, tensor in sorted(ready.items(), key=_wide_first):
        part = _bytes_of(tensor).data
        entries[name] = _Entry(_NAMES[tensor.dtype], list(tensor.shape), (end, end + len(part)))
        parts.append(part)
        end += len(part)
    head = msgspec.json.encode(entries)
    head += b" " * (-len(head) % _ALIGNED)
    return [len(head).to_bytes(_SIZE, "little") + head, *parts]


def unpack(where: str, data: bytes) -> TensorFile:
    """Parse a safetensors file. Raises VersionError naming `where` if it is none."""
    try:
        size = int.from_bytes(data[:_SIZE], "little")
        if len(data) < _SIZE + size:
            raise ValueError(f"its header of {size} bytes is cut off")
        raw = _decode_entries(data[_SIZE : _SIZE + size])
        texts = _decode_metadata(raw.pop(_METADATA, msgspec.Raw(b"{}")))
        entries = {name: _decode_entry(entry) for name, entry in raw.items()}
        _check(entries, len(data) - _SIZE - size)
        metadata = _decode_text(texts.get("freshet", "{}"))
        body = np.frombuffer(data, np.uint8, offset=_SIZE + size)
        tensors = {name: _tensor(entry, body) for name, entry in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise VersionError(f"{where} is not a safetensors file: {error}") from None
    return TensorFile(tensors, metadata)


_SIZE, _ALIGNED = 8, 8
_METADATA = "__metadata__"
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class _Entry(msgspec.Struct):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _TYPES[self.dtype].itemsize


# Made once, here: two threads that decode a type for the first time at once can crash msgspec.
_decode_entries = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_decode_text = msgspec.json.Decoder(dict[str, Any]).decode


def _text(metadata: Mapping[str, Any]) -> str:
    return msgspec.json.encode(metadata, order="deterministic").decode()


def _wide_first(named: tuple[str, Tensor]) -> tuple[int, str]:
    """Wide numbers first, so that all are aligned."""
    name, tensor = named
    return -tensor.element_size(), name


def _check(entries: Mapping[str, _Entry], length: int) -> None:
    """Raise ValueError unless the tensors lie side by side and fill the file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda named: named[1].data_offsets):
        if entry.dtype not in _TYPES:
            raise ValueError(f"tensor {name!r} is of the type {entry.dtype!r}")
        if entry.data_offsets != (end, end + entry.bytes):
            raise ValueError(
                f"tensor {name!r} of {entry.bytes} bytes lies at {entry.data_offsets}, not at {end}"
            )
        end += entry.bytes
    if end != length:
        raise ValueError(f"its tensors have {end} bytes, the file has {length}")


def _tensor(entry: _Entry, body: npt.NDArray[np.uint8]) -> Tensor:
    """A copy, which may be written to."""
    copy = torch.empty(entry.shape, dtype=_TYPES[entry.dtype])
    first, end = entry.data_offsets
    _bytes_of(copy)[:] = body[first:end]
    return copy


def _dense(tensor: Tensor) -> Tensor:
    """One number after another; torch calls a single one contiguous, whatever its stride."""
    tensor = tensor.contiguous()
    return torch.cat([tensor.view(-1)]).view(tensor.shape) if tensor.numel() == 1 else tensor


def _bytes_of(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """A contiguous tensor's memory."""
    if not tensor.numel():
        return np.empty(0, np.uint8)
    memory: npt.NDArray[np.uint8] = tensor.view(-1).view(torch.uint8).numpy()
    return memory
