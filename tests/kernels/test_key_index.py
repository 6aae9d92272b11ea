"""The key index against a plain dict, for both backends, with keys chosen to hurt."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernels.key_index import RESERVED_KEY, KeyIndex, key_index
from kernels.key_index.cpu import NumbaIndex
from service.actions import RESERVED_KEY as ACTIONS_RESERVED_KEY

BACKENDS = ("reference", "numba")
MASK = 2**64 - 1


def unmix(word: int) -> int:
    """The signed key that the index mixes to `word`."""
    word ^= (word >> 31) ^ (word >> 62)
    word = word * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    word ^= (word >> 27) ^ (word >> 54)
    word = word * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    word ^= (word >> 30) ^ (word >> 60)
    return word - 2**64 if word >= 2**63 else word


ONE_HOME = [unmix(7 << 56 | j << 40) for j in range(40)]
"""Keys of one shard that all want the same slot, whatever the shard's size."""
LAST_HOME = [unmix(9 << 56 | j << 40 | 0xFFFFFFFF) for j in range(40)]
"""Keys of one shard whose home is its last slot: probing and shifting wrap around."""
EDGES = [0, -1, 1, 2**63 - 1, -(2**63) + 1, *range(2**62, 2**62 + 20), *range(-30, 30)]
POOL = sorted({*ONE_HOME, *LAST_HOME, *EDGES})


def batch(size: int, seed: int) -> list[int]:
    """Keys of the pool, repeats included."""
    return random.Random(seed).choices(POOL, k=size)


# From a seed: hypothesis's own lists stay too short to fill shards.
BATCHES = st.builds(batch, st.sampled_from([0, 1, 10, 60, 120]), st.integers(0, 2**32))


def tensor(keys: list[int]) -> torch.Tensor:
    return torch.tensor(keys, dtype=torch.int64)


class IndexAgainstDict(RuleBasedStateMachine):
    """Every backend does what a dict and a stack of free rows do, key by key."""

    def __init__(self) -> None:
        super().__init__()
        self.indexes: dict[str, KeyIndex] = {name: key_index(name) for name in BACKENDS}
        self.row_of: dict[int, int] = {}
        self.free: list[int] = []
        self.end = 0

    @rule(keys=BATCHES)
    def insert(self, keys: list[int]) -> None:
        expected = [self._insert_one(key) for key in keys]
        for index in self.indexes.values():
            rows, is_new = index.insert(tensor(keys))
            assert list(zip(rows.tolist(), is_new.tolist(), strict=True)) == expected

    @rule(keys=BATCHES)
    def look_up(self, keys: list[int]) -> None:
        for index in self.indexes.values():
            assert index.lookup(tensor(keys)).tolist() == [self.row_of.get(k, -1) for k in keys]

    @rule(keys=BATCHES)
    def remove(self, keys: list[int]) -> None:
        expected = [self._remove_one(key) for key in keys]
        for index in self.indexes.values():
            assert index.remove(tensor(keys)).tolist() == expected

    @rule(source=st.sampled_from(BACKENDS))
    def save_and_restore_in_every_backend(self, source: str) -> None:
        state = self.indexes[source].state()
        for name in BACKENDS:
            self.indexes[name] = key_index(name)
            self.indexes[name].load(state)

    @invariant()
    def all_agree(self) -> None:
        key_of = {row: key for key, row in self.row_of.items()}
        keys = [key_of.get(row, RESERVED_KEY) for row in range(self.end)]
        for index in self.indexes.values():
            assert index.keys().tolist() == index.state()["keys"].tolist() == keys
            assert index.state()["free"].tolist() == self.free
            assert (len(index), index.rows_end) == (len(self.row_of), self.end)

    def _insert_one(self, key: int) -> tuple[int, bool]:
        if key in self.row_of:
            return self.row_of[key], False
        if self.free:
            self.row_of[key] = self.free.pop()
        else:
            self.row_of[key] = self.end
            self.end += 1
        return self.row_of[key], True

    def _remove_one(self, key: int) -> int:
        row = self.row_of.pop(key, -1)
        if row >= 0:
            self.free.append(row)
        return row


TestIndexAgainstDict = IndexAgainstDict.TestCase
TestIndexAgainstDict.settings = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=40
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_growth_keeps_every_row(backend: str) -> None:
    keys = torch.randperm(50_000, generator=torch.Generator().manual_seed(0)) * 977 - 10**7
    index = key_index(backend)
    for batch in keys.split(1_111):
        index.insert(batch)
    assert torch.equal(index.lookup(keys), torch.arange(50_000))
    assert (index.lookup(keys + 1) == -1).all()


def test_a_thousand_keys_with_one_home_are_all_found_and_removed() -> None:
    keys = tensor([unmix(3 << 56 | j << 40) for j in range(1000)])
    index = key_index("numba")
    index.insert(keys)
    assert torch.equal(index.remove(keys[::2]), torch.arange(0, 1000, 2))
    assert torch.equal(index.lookup(keys[1::2]), torch.arange(1, 1000, 2))
    assert (index.lookup(keys[::2]) == -1).all()


def test_only_the_full_shard_grows() -> None:
    index = NumbaIndex()
    index.insert(tensor(ONE_HOME))
    assert len({shard.ctypes.data for shard in index._shards}) == 256
    assert [s for s, shard in enumerate(index._shards) if len(shard) > 16] == [7]


def test_shards_grow_at_staggered_loads_between_060_and_085() -> None:
    index = NumbaIndex()
    index.insert(torch.arange(200_000))
    limits = [
        (int(index._room[s]) + int((shard[::2] != RESERVED_KEY).sum())) / (len(shard) / 2)
        for s, shard in enumerate(index._shards)
    ]
    assert all(0.59 <= limit <= 0.85 for limit in limits)
    assert limits[0] < limits[128] < limits[255]


def test_memory_reaches_a_plateau_when_keys_come_and_go() -> None:
    index = key_index("numba")
    live = torch.arange(10_000)
    index.insert(live)
    sizes = []
    for turn in range(1, 21):
        index.remove(live)
        live = torch.arange(10_000) + turn * 10_000
        index.insert(live)
        sizes.append(index.nbytes)
    assert index.rows_end == 10_000
    assert sizes[-1] <= 1.1 * sizes[9]


def _lookup(index: KeyIndex, keys: torch.Tensor) -> object:
    return index.lookup(keys)


def _insert(index: KeyIndex, keys: torch.Tensor) -> object:
    return index.insert(keys)


def _remove(index: KeyIndex, keys: torch.Tensor) -> object:
    return index.remove(keys)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", [_lookup, _insert, _remove])
def test_the_reserved_key_is_refused_and_changes_nothing(
    backend: str, call: Callable[[KeyIndex, torch.Tensor], object]
) -> None:
    index = key_index(backend)
    index.insert(tensor([5]))
    with pytest.raises(ValueError, match=r"key 1 of the batch is the reserved key"):
        call(index, tensor([5, RESERVED_KEY, 6]))
    assert index.lookup(tensor([5, 6])).tolist() == [0, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_another_type_or_shape_are_refused(backend: str) -> None:
    for keys in (torch.zeros(3), torch.zeros(3, dtype=torch.int32), torch.zeros(1, 3).long()):
        with pytest.raises(TypeError, match="one-dimensional int64"):
            key_index(backend).lookup(keys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_strided_batch_is_read_as_it_looks(backend: str) -> None:
    index = key_index(backend)
    index.insert(torch.arange(20)[::2])
    assert index.lookup(torch.arange(20)[::2]).tolist() == list(range(10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_grow_with_the_keys(backend: str) -> None:
    index = key_index(backend)
    empty = index.nbytes
    index.insert(torch.arange(10_000))
    assert index.nbytes - empty >= 10_000 * 16


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cuckoo' is unknown; known are reference, numba"):
        key_index("cuckoo")


def test_no_id_maps_to_the_index_reserved_key() -> None:
    assert RESERVED_KEY == ACTIONS_RESERVED_KEY
