"""The columns of a row table: names, types, the packed record, and what an empty row holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

NEVER_MS = 2**63 - 1
"""Last use of a row that nobody holds: no sweep finds it too old."""

CHANGED, KNOWN = 1, 2
"""Bits of a mark: changed since the last version was taken; was in the last version."""

RECORD_BYTES = 32
RECORD_OFFSETS = {
    "last_seen_ms": 0,
    "admitted_ms": 8,
    "weight": 16,
    "gradient_norm": 20,
    "square": 24,
    "steps": 28,
}
"""Place of each column in a row's record, in bytes: together, a touch or a step reads one line."""

DTYPES = {
    "vectors": torch.float32,
    "moments": torch.float32,
    "last_seen_ms": torch.int64,
    "admitted_ms": torch.int64,
    "weight": torch.float32,
    "gradient_norm": torch.float32,
    "square": torch.float32,
    "steps": torch.int32,
    "marks": torch.uint8,
}

EMPTY = {name: NEVER_MS if name == "last_seen_ms" else 0 for name in DTYPES}
"""What every entry of an empty row's column is."""


def names_of(moments: bool) -> tuple[str, ...]:
    """The columns of a table with or without moments."""
    return tuple(name for name in DTYPES if moments or name != "moments")


def shape_of(name: str, rows: int, width: int) -> tuple[int, ...]:
    """Shape of that many rows of a column."""
    return (rows, width) if name in ("vectors", "moments") else (rows,)


def row_bytes(width: int, moments: bool) -> int:
    """Bytes of one row in all columns together."""
    return (2 if moments else 1) * 4 * width + RECORD_BYTES + 1


def check_names(names: Sequence[str], moments: bool) -> None:
    """ValueError for a name that is no column of such a table."""
    for name in names:
        if name not in names_of(moments):
            raise ValueError(f"{name!r} is no column; columns are {', '.join(names_of(moments))}")


def check_columns(columns: dict[str, Tensor], rows: int, width: int, moments: bool) -> None:
    """ValueError unless every column is known and has that many rows of its type."""
    check_names(list(columns), moments)
    for name, tensor in columns.items():
        shape = shape_of(name, rows, width)
        if tensor.dtype != DTYPES[name] or tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} is {form(tensor)}; {rows} rows need {type_name(DTYPES[name])} "
                f"{list(shape)}"
            )


def form(tensor: Tensor) -> str:
    """Type and shape in words, for errors."""
    return f"{type_name(tensor.dtype)} {list(tensor.shape)} on {tensor.device}"


def type_name(dtype: torch.dtype) -> str:
    """A type's name without `torch.`."""
    return str(dtype).removeprefix("torch.")
