"""Original ids by key, for a slot whose ids must come back out (items, for retrieval)."""

import sys
from collections.abc import Iterable, Sequence

import msgspec
import torch
from torch import Tensor

from service.actions import Id


class OriginalIds:
    """The first id of each key owns it. A second id with the same key (a hash collision, or an
    integer equal to a string's hash) is a conflict: it must read the unknown row, never the
    owner's. `collisions` counts the conflicts that were met, repeats included."""

    def __init__(self) -> None:
        self.collisions = 0
        self._id_of: dict[int, Id] = {}
        self._id_bytes = 0

    def put(self, keys_N: Tensor, ids_N: Sequence[Id]) -> Tensor:
        """Give each key to its id if nobody owns it; True where another id does (bool [N]).

        Raises ValueError if there is not one id per key.
        """
        if len(keys_N) != len(ids_N):
            raise ValueError(f"{len(keys_N)} keys came with {len(ids_N)} ids; pass one id per key")
        conflicts = [
            self._claim(key, id) != id for key, id in zip(keys_N.tolist(), ids_N, strict=True)
        ]
        self.collisions += sum(conflicts)
        return torch.tensor(conflicts, dtype=torch.bool)

    def get(self, key: int) -> Id | None:
        """The id that owns the key."""
        return self._id_of.get(key)

    def remove(self, keys_N: Tensor) -> None:
        """Give keys up, as their rows expire; the next id to come owns them."""
        for key in keys_N.tolist():
            owner = self._id_of.pop(key, None)
            self._id_bytes -= _size(key, owner) if owner is not None else 0

    def __len__(self) -> int:
        return len(self._id_of)

    @property
    def nbytes(self) -> int:
        """Bytes of the table and of its keys and ids."""
        return sys.getsizeof(self._id_of) + self._id_bytes

    def copy(self) -> "OriginalIds":
        """The same ids and counter, to go their own way."""
        copy = OriginalIds()
        copy.collisions, copy._id_of = self.collisions, self._id_of.copy()
        copy._id_bytes = self._id_bytes
        return copy

    def state(self) -> dict[str, Tensor]:
        """Keys in order of arrival, their ids as one MessagePack list, and the counter."""
        packed = bytearray(msgspec.msgpack.encode(list(self._id_of.values())))
        return {
            "keys": torch.tensor(list(self._id_of), dtype=torch.int64),
            "ids": torch.frombuffer(packed, dtype=torch.uint8),
            "collisions": torch.tensor(self.collisions),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Become the ids that returned `state`."""
        ids: list[Id] = msgspec.msgpack.decode(state["ids"].numpy().tobytes(), type=list[Id])
        self.collisions = int(state["collisions"])
        self._id_of = dict(zip(state["keys"].tolist(), ids, strict=True))
        self._id_bytes = sum(_sizes(self._id_of.items()))

    def _claim(self, key: int, id: Id) -> Id:
        if key not in self._id_of:
            self._id_of[key] = id
            self._id_bytes += _size(key, id)
        return self._id_of[key]


def _sizes(owned: Iterable[tuple[int, Id]]) -> Iterable[int]:
    return (_size(key, id) for key, id in owned)


def _size(key: int, id: Id) -> int:
    return sys.getsizeof(key) + sys.getsizeof(id)
