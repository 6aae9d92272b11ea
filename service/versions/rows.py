"""The rows of one slot as servers get them: keys, vectors, exact extras and original ids.

Checks are numpy's: on a machine whose cores are all busy torch's threads wait for each other, and
fifty thousand keys took 300 ms to sort instead of 1.

R rows, D width, N rows asked for. Row 0 is the slot's *unknown* row; its key is RESERVED_KEY.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kernels.row_codes import Codes, decode, encode, gather_decode
from service.actions import MAX_ID_BYTES, RESERVED_KEY, Id

_IS_KEY = -1
"""In place of a length: the id is an integer, hence its own key, and has no bytes."""


@dataclass(frozen=True, eq=False)
class SlotRows:
    """One slot. `codes` holds int8 row codes, or the fp32 vectors themselves [R, D].

    `extra` are fp32 tensors with one entry per row, kept exactly. `ids` are the original ids by
    row; an integer id equals its key, and row 0 has RESERVED_KEY or "".
    """

    keys_R: Tensor
    codes: Codes | Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    ids: list[Id] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for types, shapes or values that no slot can have."""
        _expect("keys", self.keys_R, torch.int64, [self.keys_R.numel()])
        self._check_keys()
        self._check_vectors()
        for name, tensor in self.extra.items():
            _expect(f"extra {name!r}", tensor, torch.float32, [len(self), *tensor.shape[1:]])
            if np.isnan(tensor.numpy()).any():
                raise ValueError(f"extra {name!r} has NaN")
        if self.ids is not None and len(self.ids) != len(self):
            raise ValueError(f"there are {len(self.ids)} ids for {len(self)} rows")

    def _check_keys(self) -> None:
        if not len(self) or self.keys_R[0] != RESERVED_KEY:
            raise ValueError(f"keys do not begin with the unknown row's {RESERVED_KEY}")
        ordered = np.sort(self.keys_R.numpy())
        if (ordered[1:] == ordered[:-1]).any():
            raise ValueError("keys repeat: two rows would share an id")

    def _check_vectors(self) -> None:
        if isinstance(self.codes, Tensor):
            _expect("values", self.codes, torch.float32, [len(self), self.width])
            _expect_finite("values", self.codes)
            return
        codes_RD, scale_R, bias_R = self.codes.codes_RD, self.codes.scale_R, self.codes.bias_R
        _expect("codes", codes_RD, torch.uint8, [len(self), self.width])
        for name, tensor in (("scale", scale_R), ("bias", bias_R)):
            _expect(name, tensor, torch.float16, [len(self)])
            _expect_finite(name, tensor)

    def __len__(self) -> int:
        return len(self.keys_R)

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        codes = self.codes if isinstance(self.codes, Tensor) else self.codes.codes_RD
        return codes.shape[-1]

    def gather(self, rows_N: Tensor) -> Tensor:
        """The vectors of these rows in fp32, [N, D]; rows may repeat."""
        if isinstance(self.codes, Tensor):
            return self.codes.index_select(0, rows_N)
        return gather_decode(self.codes, rows_N)

    def vectors(self) -> Tensor:
        """All vectors in fp32, [R, D]."""
        return self.codes if isinstance(self.codes, Tensor) else decode(self.codes)

    def quantized(self) -> "SlotRows":
        """The same rows as int8 codes. Raises ValueError for NaN or infinite vectors."""
        return replace(self, codes=encode(self.codes)) if isinstance(self.codes, Tensor) else self

    def to_tensors(self) -> dict[str, Tensor]:
        """As in a snapshot file, below `slots/SLOT/` (docs/formats.md)."""
        tensors = {"keys": self.keys_R}
        if isinstance(self.codes, Tensor):
            tensors["values"] = self.codes
        else:
            tensors |= {
                "codes": self.codes.codes_RD,
                "scale": self.codes.scale_R,
                "bias": self.codes.bias_R,
            }
        tensors |= {f"extra/{name}": tensor for name, tensor in self.extra.items()}
        return tensors | ({} if self.ids is None else _pack_ids(self.ids, self.keys_R))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "SlotRows":
        """The inverse of `to_tensors`. Raises ValueError for rows that are not whole."""
        try:
            keys_R = tensors["keys"]
            codes: Codes | Tensor
            if "values" in tensors:
                codes = tensors["values"]
            else:
                codes = Codes(tensors["codes"], tensors["scale"], tensors["bias"])
            ids = _unpack_ids(tensors, keys_R) if "ids/lengths" in tensors else None
        except KeyError as error:
            raise ValueError(f"tensor {error} is missing") from None
        parts = {name.partition("/"): tensor for name, tensor in tensors.items()}
        extra = {name: tensor for (kind, _, name), tensor in parts.items() if kind == "extra"}
        return cls(keys_R, codes, extra, ids)


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: list[int]) -> None:
    if tensor.dtype != dtype or list(tensor.shape) != shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise ValueError(f"{name} is {found} where {dtype} {shape} is expected")


def _expect_finite(name: str, tensor: Tensor) -> None:
    if not np.isfinite(tensor.numpy()).all():
        raise ValueError(f"{name} has NaN or infinite values")


def _pack_ids(ids: list[Id], keys_R: Tensor) -> dict[str, Tensor]:
    for identifier, key in zip(ids, keys_R.tolist(), strict=True):
        if isinstance(identifier, int) and identifier != key:
            raise ValueError(f"integer id {identifier} stands at the row of key {key}")
    texts = [None if isinstance(identifier, int) else identifier.encode() for identifier in ids]
    lengths = np.array([_IS_KEY if text is None else len(text) for text in texts])
    if lengths.max() > MAX_ID_BYTES:
        raise ValueError(f"an id has {lengths.max()} bytes; the longest may have {MAX_ID_BYTES}")
    utf8 = np.frombuffer(b"".join(filter(None, texts)), np.uint8)
    return {
        "ids/lengths": torch.from_numpy(lengths.astype(np.int16)),
        "ids/utf8": torch.from_numpy(utf8.copy()),
    }


def _unpack_ids(tensors: Mapping[str, Tensor], keys_R: Tensor) -> list[Id]:
    _expect("ids/lengths", tensors["ids/lengths"], torch.int16, [keys_R.numel()])
    lengths_R = tensors["ids/lengths"].numpy()
    if (lengths_R < _IS_KEY).any():
        raise ValueError(f"ids/lengths has values below {_IS_KEY}")
    ends = [0, *lengths_R.clip(min=0).cumsum(dtype=np.int64).tolist()]
    _expect("ids/utf8", tensors["ids/utf8"], torch.uint8, [ends[-1]])
    text = tensors["ids/utf8"].numpy().tobytes()
    rows = zip(lengths_R.tolist(), keys_R.tolist(), pairwise(ends), strict=True)
    return [key if size == _IS_KEY else text[a:b].decode() for size, key, (a, b) in rows]
