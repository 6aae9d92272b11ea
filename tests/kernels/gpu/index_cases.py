"""The Triton index does what the reference does, key by key.

Run by test_interpreted.py in Triton's interpreter, by `python -m benchmarks.gpu` on a GPU.
"""

import random

import pytest
import torch

from kernels.key_index import RESERVED_KEY, KeyIndex, key_index
from kernels.key_index.gpu import TritonIndex
from tests.kernels.gpu.moving import DEVICE, Moved

MASK = 2**64 - 1


def unmix(word: int) -> int:
    """The signed key that the index mixes to `word`."""
    word ^= (word >> 31) ^ (word >> 62)
    word = word * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    word ^= (word >> 27) ^ (word >> 54)
    word = word * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    word ^= (word >> 30) ^ (word >> 60)
    return word - 2**64 if word >= 2**63 else word


def tensor(keys: list[int]) -> torch.Tensor:
    return torch.tensor(keys, dtype=torch.int64)


ONE_SHARD = [unmix(7 << 56 | j * 0x9E3779B9) for j in range(140)]
"""Keys of shard 7, spread over its slots."""
LAST_HOME = [unmix(9 << 56 | j << 40 | 0xFFFFFFFF) for j in range(12)]
"""Keys of one shard whose home is its last slot: probing wraps around."""
EDGES = [0, -1, 1, 2**63 - 1, -(2**63) + 1, *range(2**62, 2**62 + 10), *range(-(2**62), 10 - 2**62)]
POOL = sorted({*ONE_SHARD[:60], *LAST_HOME, *EDGES})


def both(*keys: list[int]) -> tuple[KeyIndex, Moved]:
    """Reference and Triton after the same inserts."""
    reference, index = key_index("reference"), Moved(TritonIndex(DEVICE))
    for batch in keys:
        reference.insert(tensor(batch))
        index.insert(tensor(batch))
    return reference, index


def assert_same(reference: KeyIndex, index: Moved) -> None:
    for name, expected in reference.state().items():
        assert torch.equal(index.state()[name], expected)
    assert torch.equal(index.keys(), reference.keys())
    assert (len(index), index.rows_end) == (len(reference), reference.rows_end)


def test_a_walk_of_all_operations_over_adversarial_keys() -> None:
    reference, index = both()
    draw = random.Random(0)
    for _ in range(50):
        keys = tensor(draw.choices(POOL, k=draw.choice([0, 1, 40, 90])))
        match draw.choice(["insert", "insert", "look up", "remove", "restore"]):
            case "insert":
                expected, got = reference.insert(keys), index.insert(keys)
                assert torch.equal(got[0], expected[0])
                assert torch.equal(got[1], expected[1])
            case "look up":
                assert torch.equal(index.lookup(keys), reference.lookup(keys))
            case "remove":
                assert torch.equal(index.remove(keys), reference.remove(keys))
            case "restore":
                state = draw.choice([reference, index]).state()
                reference.load(state)
                index.load(state)
        assert_same(reference, index)


def test_a_batch_that_fills_its_shard_several_times_over_is_numbered_by_position() -> None:
    keys = random.Random(1).choices(ONE_SHARD, k=350)
    reference, index = both(keys)
    assert_same(reference, index)
    assert torch.equal(index.lookup(tensor(keys)), reference.lookup(tensor(keys)))


def test_only_the_full_shard_grows_and_to_no_more_than_its_load_asks_for() -> None:
    _, index = both(ONE_SHARD)
    slots = index._shards._slots_S.tolist()
    assert slots[7] == 256
    assert {*slots[:7], *slots[8:]} == {64}
    assert index._shards._most_live_S[7] == int(256 * (0.60 + 0.25 * 7 / 255))


def test_keys_that_come_and_go_do_not_grow_their_shard() -> None:
    reference, index = both()
    for turn in range(8):
        keys = tensor(ONE_SHARD[15 * turn : 15 * turn + 30])
        assert torch.equal(index.insert(keys)[0], reference.insert(keys)[0])
        assert torch.equal(index.remove(keys), reference.remove(keys))
    assert_same(reference, index)
    assert index._shards._slots_S[7] == 64


def test_removed_rows_are_taken_again_the_last_freed_first() -> None:
    reference, index = both(ONE_SHARD[:20])
    gone, back = ONE_SHARD[:10], [*ONE_SHARD[5:8], 1, 2, *ONE_SHARD[:3], 3, 4, 5, 6]
    assert torch.equal(index.remove(tensor(gone + gone)), reference.remove(tensor(gone + gone)))
    assert torch.equal(index.insert(tensor(back))[0], reference.insert(tensor(back))[0])
    assert_same(reference, index)


def test_key_at_gives_the_keys_of_rows_and_refuses_rows_past_the_end() -> None:
    _, index = both([5, 6, 7])
    index.remove(tensor([6]))
    assert index.key_at(tensor([2, 1, 0, 2])).tolist() == [7, RESERVED_KEY, 5, 7]
    for row in (3, -1):
        with pytest.raises(IndexError, match=f"row {row} "):
            index.key_at(tensor([0, row]))


@pytest.mark.parametrize("call", ["lookup", "insert", "remove"])
def test_the_reserved_key_is_refused_and_changes_nothing(call: str) -> None:
    reference, index = both([5, 6])
    # More new keys than the shard has slots: the claims of the others have to be withdrawn.
    keys = [5, *ONE_SHARD[:80], RESERVED_KEY, 9, RESERVED_KEY]
    with pytest.raises(ValueError, match="key 81 of the batch is the reserved key"):
        getattr(index, call)(tensor(keys))
    assert_same(reference, index)
    usable = tensor([key for key in reversed(keys) if key != RESERVED_KEY])
    assert torch.equal(index.lookup(usable), reference.lookup(usable))
    assert torch.equal(index.insert(usable)[1], reference.insert(usable)[1])
    assert_same(reference, index)


def test_keys_of_another_type_shape_or_device_are_refused() -> None:
    index = Moved(TritonIndex(DEVICE))
    wrong = [torch.zeros(3), torch.zeros(3).int(), torch.zeros(1, 3).long()]
    for keys in [*wrong, torch.zeros(3, dtype=torch.int64, device="meta")]:
        with pytest.raises(TypeError, match=f"one-dimensional int64 tensor on {DEVICE}"):
            index.lookup(keys)


def test_a_strided_batch_is_read_as_it_looks() -> None:
    _, index = both()
    index.insert(torch.arange(20)[::2])
    assert index.lookup(torch.arange(20)[::2]).tolist() == list(range(10))


def test_bytes_follow_the_shards_and_slabs() -> None:
    _, index = both([1])
    before = index.nbytes
    assert 256 * 64 * 16 + 65_536 * 8 <= before <= 1.02 * (256 * 64 * 16 + 65_536 * 8)
    index.insert(tensor(ONE_SHARD[:40]))
    assert index.nbytes - before == (128 - 64) * 16
