"""A chain of checkpoints as one state: a base, and what each version after it has changed.

The same function makes the state that a trainer resumes from and the bases that end long chains.
A base holds the whole state, a delta the changed rows and all small parts whole.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.key_index import RESERVED_KEY
from service.store import deltas as table
from service.versions import Checkpoint, RowIds
from trainer import categories, popularity
from trainer.state import Tensors, named, part_of

BY_ROW = ("items", "ids", "popularity", "categories")
"""Parts of which a delta holds the changed rows (or items)."""


def folded(chain: Sequence[Checkpoint]) -> Tensors:
    """`State.tensors()` at the end of a chain, bit for bit. The base's tensors may be overwritten;
    a chain that begins with a delta begins with nothing."""
    whole = not _is_delta(chain[0])
    state, deltas = (chain[0].tensors, chain[1:]) if whole else ({}, chain)
    if not deltas:
        return state
    parts = {part: [part_of(delta.tensors, part) for delta in deltas] for part in BY_ROW}
    items = table.folded(part_of(state, "items"), *parts["items"])
    keys_R = torch.cat([torch.tensor([RESERVED_KEY]), items["index.keys"]])
    # The unknown row is nobody's: nothing is kept beside it.
    free_F = (keys_R == RESERVED_KEY).nonzero().squeeze(1)
    rows = [delta["changed.rows"] for delta in parts["items"]]
    kept = {
        "items": items,
        "ids": _ids(part_of(state, "ids"), parts["ids"], rows, free_F, len(keys_R)),
        "popularity": popularity.folded(
            part_of(state, "popularity"), parts["popularity"], rows, free_F
        ),
        "categories": categories.folded(part_of(state, "categories"), parts["categories"]),
    }
    small = deltas[-1].tensors.items()
    return {n: tensor for n, tensor in small if n.split("/")[0] not in BY_ROW} | named(kept)


def _is_delta(checkpoint: Checkpoint) -> bool:
    return "items/changed.rows" in checkpoint.tensors


def _ids(
    state: Tensors, deltas: Sequence[Tensors], rows: Sequence[Tensor], free_F: Tensor, end: int
) -> Tensors:
    """Original ids by row: each from the last delta that has it, free rows without."""
    own = RowIds.from_tensors(state) if state else RowIds.from_list([])
    parts = [RowIds.from_list([RESERVED_KEY]), own, *map(RowIds.from_tensors, deltas)]
    place_R = torch.zeros(end, dtype=torch.int64)
    place_R[: len(own)] = torch.arange(1, len(own) + 1)
    first = 1 + len(own)
    for rows_M in rows:
        place_R[rows_M] = torch.arange(first, first + len(rows_M))
        first += len(rows_M)
    place_R[free_F] = 0
    return RowIds.joined(parts).take(place_R).to_tensors()
