"""What is remembered of histories stays within its bytes."""

import numpy as np

from serving.last_seen import ENTRY_BYTES, LastSeen


def test_a_value_is_remembered_until_it_is_known_to_be_gone():
    seen = LastSeen(10_000)
    seen.put(7, b"abc")
    seen.put(8, b"d")
    assert seen.get(7) == b"abc"
    seen.put(7, b"abcd")
    assert seen.get(7) == b"abcd"
    seen.put(7, None)
    assert seen.get(7) is None
    seen.drop([8, 9])
    assert seen.get(8) is None
    assert seen.nbytes == 0


def test_those_longest_unseen_leave_first():
    seen = LastSeen(3 * (ENTRY_BYTES + 10))
    for user in range(3):
        seen.put(user, b"x" * 10)
    assert seen.get(0)
    seen.put(3, b"x" * 10)
    assert [seen.get(user) is not None for user in range(4)] == [True, False, True, True]


def test_the_bytes_are_counted_and_never_exceeded():
    make, limit = np.random.default_rng(0), 20_000
    seen, sizes = LastSeen(limit), {}
    for _ in range(3000):
        user, size = int(make.integers(40)), int(make.integers(0, 3000))
        value = None if size % 7 == 0 else bytes(size)
        seen.put(user, value)
        sizes[user] = size
        assert seen.nbytes <= limit
    held = {user: len(seen.get(user)) for user in range(40) if seen.get(user) is not None}
    assert seen.nbytes == sum(held.values()) + ENTRY_BYTES * len(held)
    assert all(sizes[user] == size for user, size in held.items())


def test_nothing_is_remembered_without_room():
    seen = LastSeen(0)
    seen.put(1, b"abc")
    assert seen.get(1) is None
    assert seen.nbytes == 0
