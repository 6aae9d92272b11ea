"""The rows of one slot as servers get them: keys, vectors, exact extras and original ids.

R rows, D width, N rows asked for. Row 0 is the slot's *unknown* row; its key is RESERVED_KEY.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.row_codes import Codes, decode, encode, gather_decode
from service.actions import RESERVED_KEY
from service.versions import logs
from service.versions.checks import expect, expect_distinct, expect_finite
from service.versions.ids import IS_KEY, RowIds
from service.versions.precision import check_precision

_TYPES = {torch.float32: "fp32", torch.float16: "fp16"}
LOGARITHMS = ("counts",)
"""Extras of which only the logarithm matters: beside codes they are kept as such (`logs`)."""
_CODES = {8: "codes", 4: "codes4"}
"""Names of codes by their bits."""


@dataclass(frozen=True, eq=False)
class SlotRows:
    """One slot. `codes` holds int8 or int4 row codes, or the vectors as fp32 or fp16 [R, D].

    `extra` are fp32 tensors with one entry per row, kept exactly; those in LOGARITHMS as logarithms
    where rows are codes. `ids` are the original ids by row; an integer id equals its key, and row 0
    has RESERVED_KEY or "". `categories` int16 [R, K] are codes of what speaks in an item's vector
    beside its row, 0 for none; None where no row has any.
    """

    keys_R: Tensor
    codes: Codes | Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    ids: RowIds | None = None
    categories: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for types, shapes or values that no slot can have."""
        expect("keys", self.keys_R, torch.int64, [self.keys_R.numel()])
        if not len(self) or self.keys_R[0] != RESERVED_KEY:
            raise ValueError(f"keys do not begin with the unknown row's {RESERVED_KEY}")
        expect_distinct("keys", self.keys_R)
        self._check_vectors()
        for name, tensor in self.extra.items():
            expect(f"extra {name!r}", tensor, torch.float32, [len(self), *tensor.shape[1:]])
            expect_finite(f"extra {name!r}", tensor)
        if self.ids is not None:
            self._check_ids(self.ids)
        if self.categories is not None:
            shape = [len(self), *self.categories.shape[1:2]]
            expect("categories", self.categories, torch.int16, shape)
            if self.categories.numel() and int(self.categories.min()) < 0:
                raise ValueError("categories has values below 0")

    def _check_vectors(self) -> None:
        if isinstance(self.codes, Tensor):
            wanted = torch.float16 if self.codes.dtype == torch.float16 else torch.float32
            expect("values", self.codes, wanted, [len(self), self.width])
            expect_finite("values", self.codes)
            return
        codes = self.codes
        name, width = _CODES[codes.bits], codes.codes_RB.shape[-1]
        expect(name, codes.codes_RB, torch.uint8, [len(self), width])
        for name, tensor in (("scale", codes.scale_R), ("bias", codes.bias_R)):
            expect(name, tensor, torch.float16, [len(self)])
            expect_finite(name, tensor)

    def _check_ids(self, ids: RowIds) -> None:
        if len(ids) != len(self):
            raise ValueError(f"there are {len(ids)} ids for {len(self)} rows")
        wrong_R = (ids.lengths_R == IS_KEY) & (ids.integers_R != self.keys_R)
        if wrong_R.any():
            row = int(wrong_R.nonzero()[0])
            raise ValueError(
                f"integer id {int(ids.integers_R[row])} stands at the row of key "
                f"{int(self.keys_R[row])}"
            )

    def __len__(self) -> int:
        return len(self.keys_R)

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        return self.codes.shape[-1] if isinstance(self.codes, Tensor) else self.codes.width

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`: "int4", "int8", "fp16" or "fp32"."""
        if isinstance(self.codes, Tensor):
            return _TYPES[self.codes.dtype]
        return f"int{self.codes.bits}"

    def gather(self, rows_N: Tensor) -> Tensor:
        """The vectors of these rows in fp32, [N, D]; rows may repeat."""
        if isinstance(self.codes, Tensor):
            return self.codes.index_select(0, rows_N).float()
        return gather_decode(self.codes, rows_N)

    def vectors(self) -> Tensor:
        """All vectors in fp32, [R, D]."""
        return self.codes.float() if isinstance(self.codes, Tensor) else decode(self.codes)

    def quantized(self, precision: str) -> "SlotRows":
        """The same rows in another precision. Raises ValueError for vectors it cannot hold."""
        check_precision("rows", precision)
        if precision == self.precision:
            return self
        vectors_RD = self.vectors()
        if precision.startswith("int"):
            codes = encode(vectors_RD, int(precision.removeprefix("int")))
            rounded = {n: logs.decode(logs.encode(self.extra[n])) for n in self._logarithms}
            return replace(self, codes=codes, extra={**self.extra, **rounded})
        return replace(self, codes=vectors_RD.half() if precision == "fp16" else vectors_RD)

    def to_tensors(self) -> dict[str, Tensor]:
        """As in a snapshot file, below `slots/SLOT/` (docs/formats.md)."""
        tensors = self.columns()
        if self.ids is not None:
            tensors |= {"ids/lengths": self.ids.lengths_R, "ids/utf8": self.ids.utf8}
        return tensors

    def columns(self) -> dict[str, Tensor]:
        """The tensors of a file with one entry per row: all but the ids."""
        tensors = {"keys": self.keys_R}
        tensors |= {f"extra/{name}": tensor for name, tensor in self.extra.items()}
        if self.categories is not None:
            tensors["categories"] = self.categories
        if isinstance(self.codes, Tensor):
            return tensors | {"values": self.codes}
        for name in self._logarithms:
            tensors[f"logs/{name}"] = logs.encode(tensors.pop(f"extra/{name}"))
        return tensors | {
            _CODES[self.codes.bits]: self.codes.codes_RB,
            "scale": self.codes.scale_R,
            "bias": self.codes.bias_R,
        }

    @property
    def _logarithms(self) -> list[str]:
        return [name for name in LOGARITHMS if name in self.extra]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "SlotRows":
        """The inverse of `to_tensors`. Raises ValueError for rows that are not whole."""
        try:
            keys_R = tensors["keys"]
            codes: Codes | Tensor
            if "values" in tensors:
                codes = tensors["values"]
            else:
                bits = 4 if _CODES[4] in tensors else 8
                codes = Codes(tensors[_CODES[bits]], tensors["scale"], tensors["bias"], bits)
            ids = None
            if "ids/lengths" in tensors:
                ids = RowIds(tensors["ids/lengths"], tensors["ids/utf8"], keys_R).checked()
        except KeyError as error:
            raise ValueError(f"tensor {error} is missing") from None
        parts = {name.partition("/"): tensor for name, tensor in tensors.items()}
        extra = {name: tensor for (kind, _, name), tensor in parts.items() if kind == "extra"}
        for (kind, _, name), tensor in parts.items():
            if kind == "logs":
                expect(f"logs {name!r}", tensor, torch.int16, list(tensor.shape))
                extra[name] = logs.decode(tensor)
        return cls(keys_R, codes, extra, ids, tensors.get("categories"))

    def with_places(self, most: int) -> "SlotRows":
        """The same rows with so many places for categories, of which they use no more."""
        categories_RK = self.categories
        if categories_RK is None:
            categories_RK = torch.zeros(len(self), 0, dtype=torch.int16)
        missing = most - categories_RK.shape[1]
        return replace(self, categories=pad(categories_RK, (0, missing)))
