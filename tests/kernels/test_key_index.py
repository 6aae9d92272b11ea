"""The key index against a plain dict, for both CPU backends, with keys chosen to hurt."""

import itertools
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernels.crew import SMALL, Crew
from kernels.key_index import RESERVED_KEY, KeyIndex, key_index
from kernels.key_index.cpu import NumbaIndex
from kernels.key_index.shards import blocks_left, held_bytes
from kernels.mixing import mix64
from service.actions import RESERVED_KEY as ACTIONS_RESERVED_KEY

BACKENDS = ("reference", "numba")
MASK = 2**64 - 1
RESERVED_MIX = int(mix64(np.uint64(2**63)))


def unmix(word: int) -> int:
    """The signed key that the index mixes to `word`: its shard in the highest byte, its home in
    the low bits."""
    word ^= RESERVED_MIX
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
            assert index.free().tolist() == index.state()["free"].tolist() == self.free
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


def test_any_number_of_keys_of_one_shard_is_found_and_others_stay_small() -> None:
    low_bits = random.Random(0).sample(range(2**56), 100_000)
    keys = tensor([unmix(200 << 56 | low) for low in low_bits])
    index = NumbaIndex(Crew())
    for batch in keys.split(30_000):
        index.insert(batch)
    assert torch.equal(index.lookup(keys), torch.arange(100_000))
    assert torch.equal(index.remove(keys[1::2]), torch.arange(1, 100_000, 2))
    assert torch.equal(index.lookup(keys[::2]), torch.arange(0, 100_000, 2))
    assert (index.lookup(keys[1::2]) == -1).all()
    assert set(np.flatnonzero(index._shards.slots_S > 8)) == {200}


def test_only_the_full_shard_grows() -> None:
    index = NumbaIndex(Crew())
    index.insert(tensor(ONE_HOME))
    assert [s for s, slots in enumerate(index._shards.slots_S) if slots > 8] == [7]


def test_a_shard_without_addresses_to_grow_into_is_an_error_that_loses_nothing() -> None:
    index = NumbaIndex(Crew())
    index._shards.words = index._shards.words[: 64 * 512 * 2]  # ends behind the places of 64
    with pytest.raises(MemoryError, match="no addresses are left for the shard of key"):
        index.insert(torch.arange(100_000))
    assert 0 < len(index) < 100_000
    assert torch.equal(index.lookup(torch.arange(len(index))), torch.arange(len(index)))


def test_shards_grow_at_staggered_loads_between_060_and_085() -> None:
    index = NumbaIndex(Crew())
    index.insert(torch.arange(200_000))
    shards = [(int(mix64(np.uint64(key))) ^ RESERVED_MIX) >> 56 for key in range(200_000)]
    limits = (index._shards.room_S + np.bincount(shards, minlength=256)) / index._shards.slots_S
    assert all(0.59 <= limit <= 0.85 for limit in limits)
    assert limits[0] < limits[128] < limits[255]


@pytest.mark.parametrize("page", [4_096, 65_536, 1 << 21])
def test_a_page_is_held_from_its_first_shard_s_arrival_until_its_last_one_s_departure(
    page: int,
) -> None:
    visits: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for shard, size in itertools.product(range(256), (8 << i for i in range(13))):
        first = size * (256 + shard) * 16
        for number in range(first // page, -(-(first + size * 16) // page)):
            visits[number].append((shard, size))
    slots_S, given_back, random_numbers = np.full(256, 8, np.uint64), [], np.random.default_rng(0)
    for most in (1, 5, 1, 2, 2, 1):
        before_S = slots_S.copy()
        slots_S <<= random_numbers.integers(0, most, 256, np.uint64, endpoint=True)
        for first, end in blocks_left(before_S, slots_S, page):
            given_back += range(first // page, end // page)
        reached = {n for n, who in visits.items() if any(slots_S[s] >= size for s, size in who)}
        left = {n for n, who in visits.items() if all(slots_S[s] > size for s, size in who)}
        assert sorted(given_back) == sorted(left)
        assert held_bytes(slots_S, page) == page * len(reached - left)


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, 30_001])
def test_a_crew_finds_what_one_thread_finds(size: int) -> None:
    index = NumbaIndex(Crew(3))
    index.insert(torch.arange(0, 40_000, 2))
    keys = torch.randint(0, 40_000, (size,), generator=torch.Generator().manual_seed(size))
    expected = torch.where(keys % 2 == 0, keys // 2, -1)
    assert torch.equal(index.lookup(keys), expected)


def test_the_reserved_key_is_found_in_any_thread_s_part() -> None:
    index, keys = NumbaIndex(Crew(2)), torch.arange(20_000)
    keys[19_999] = RESERVED_KEY
    with pytest.raises(ValueError, match="key 19999 of the batch"):
        index.lookup(keys)
    keys[[7_000, 12_000]] = RESERVED_KEY
    with pytest.raises(ValueError, match="key 7000 of the batch"):
        index.lookup(keys)


def test_a_loaded_index_goes_on_as_the_one_that_was_saved() -> None:
    index, loaded = NumbaIndex(Crew()), NumbaIndex(Crew())
    index.insert(torch.arange(30_000))
    index.remove(torch.arange(0, 30_000, 3))
    loaded.insert(torch.arange(5))  # what it held before is forgotten
    loaded.load(index.state())
    for step in range(5):
        keys = torch.arange(step * 11_000, step * 11_000 + 20_000)
        for ours, theirs in zip(index.insert(keys), loaded.insert(keys), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(index.remove(keys[::7]), loaded.remove(keys[::7]))
    assert torch.equal(index.keys(), loaded.keys())


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
def test_the_key_of_a_row(backend: str) -> None:
    index = key_index(backend)
    index.insert(tensor([70, 71, 72]))
    index.remove(tensor([71]))
    assert index.key_at(tensor([2, 1, 0, 2])).tolist() == [72, RESERVED_KEY, 70, 72]
    assert index.key_at(tensor([])).tolist() == []
    for row in (3, -1):
        with pytest.raises(IndexError, match=f"row {row} is none of the index's rows 0..2"):
            index.key_at(tensor([0, row]))


def test_a_view_of_the_keys_stays_true_while_the_index_grows() -> None:
    index = key_index("numba")
    index.insert(tensor([70, 71]))
    keys = index.keys()
    index.insert(torch.arange(1_000, 300_000))
    index.remove(tensor([70]))
    assert keys.tolist() == [RESERVED_KEY, 71]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_grow_with_the_keys(backend: str) -> None:
    index = key_index(backend)
    empty = index.nbytes
    index.insert(torch.arange(300_000))
    assert index.nbytes - empty >= 300_000 * 16


RESIDENT = """
import torch
from pathlib import Path
from kernels.key_index import key_index

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

def fill(index, batches):
    for batch in batches:
        index.insert(batch)
        index.lookup(batch)
    index.remove(batches[0])

def growth_per_byte(batches):
    before, index = resident(), key_index()
    fill(index, batches)
    return (resident() - before) / index.nbytes

keys = torch.arange(1_000_000) * 977
for end, size in (200_000, 8_192), (1_000_000, 8_192), (1_000_000, 250_000):
    batches = keys[:end].split(size)
    fill(key_index(), batches[:1])
    print(growth_per_byte(batches))
"""


def test_bytes_are_the_growth_of_resident_memory() -> None:
    command = [sys.executable, "-c", RESIDENT]
    ratios = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [float(ratio) for ratio in ratios] == pytest.approx([1] * 3, abs=0.05)


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cuckoo' is unknown; known are reference, numba, triton"):
        key_index("cuckoo")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_that_a_backend_does_not_know_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=f"'{backend}' runs on the CPU alone, not on 'cuda'"):
        key_index(backend, device="cuda")


def test_no_id_maps_to_the_index_reserved_key() -> None:
    assert RESERVED_KEY == ACTIONS_RESERVED_KEY
