"""Rings against deques, over long random sequences."""

from collections import defaultdict, deque

import numpy as np
import pytest

from service.histories.rings import Rings


@pytest.mark.parametrize("capacity", [0, 1, 4, 7, 12, 100, 513])
def test_a_capacity_that_is_no_power_of_two_of_at_least_8_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"{capacity} must be a power of two of at least 8"):
        Rings(1, capacity)


@pytest.mark.parametrize(("capacity", "fields", "seed"), [(8, 1, 0), (16, 3, 1), (128, 2, 2)])
def test_rings_hold_what_deques_hold(capacity: int, fields: int, seed: int) -> None:
    make = np.random.default_rng(seed)
    rings = Rings(fields, capacity)
    held: dict[int, deque[list[int]]] = defaultdict(lambda: deque(maxlen=capacity))
    count: dict[int, int] = defaultdict(int)
    for step in range(300):
        owners = (make.random(int(make.integers(0, 40))) ** 3 * (1 + step)).astype(np.int64)
        rings.reserve(int(owners.max(initial=-1)) + 1)
        records = make.integers(-(2**63), 2**63, (len(owners), fields))
        ordinals = np.empty(len(owners), np.int64)
        for t, owner in enumerate(owners.tolist()):
            if make.random() < 0.02:
                count[owner] = 0
                held[owner].clear()
            ordinals[t] = count[owner]
            count[owner] += 1
            held[owner].append(records[t].tolist())
        rings.push(owners, ordinals, records)
        if step % 3 == 0:
            gone = np.unique(make.integers(0, len(rings.count) or 1, 3))
            rings.reserve(int(gone.max()) + 1)
            rings.clear(gone)
            for owner in gone.tolist():
                count[owner] = 0
                held[owner].clear()
        assert rings.live_records == sum(map(len, held.values()))
        asked = make.integers(0, len(rings.count), 10)
        most = int(make.integers(0, 2 * capacity))
        offsets, found = rings.read(asked, most)
        for b, owner in enumerate(asked.tolist()):
            expected = list(held[owner])[-most:] if most else []
            assert found[offsets[b] : offsets[b + 1]].tolist() == expected
            assert rings.count[owner] == count[owner]


def test_freed_pieces_of_every_size_are_used_again() -> None:
    rings = Rings(2, 64)
    rings.reserve(50)
    owners = np.repeat(np.arange(50), np.arange(50))
    ordinals = np.concatenate([np.arange(n) for n in range(50)])
    sizes = []
    for _ in range(6):
        rings.push(owners, ordinals, np.ones((len(owners), 2), np.int64))
        sizes.append(rings.nbytes)
        rings.clear(np.arange(50))
        assert rings.live_records == 0
    assert sizes == sizes[:1] * 6


def test_a_ring_costs_what_its_owner_holds_and_not_the_limit() -> None:
    rings = Rings(2, 16_384)
    rings.reserve(1000)
    rings.push(np.arange(1000), np.zeros(1000, np.int64), np.ones((1000, 2), np.int64))
    assert rings.nbytes < 1000 * (8 * 16 * 2 + 3 * 8 * 2)
