"""Hundreds of thousands of steps against the oracle."""

import pytest

from tests.service.store.walk import Kind, walk_of
from tests.service.store.wander import WALKS, Wanderer

KINDS = {"one thread": Kind(), "two threads": Kind(threads=2)}
STEPS = 35_000


@pytest.mark.long
@pytest.mark.parametrize("name", WALKS)
def test_a_long_walk_never_leaves_the_oracle(name: str) -> None:
    slot, rows, when_full = WALKS[name]
    walk = walk_of(KINDS, slot, None if rows is None else 5 * rows, when_full)
    Wanderer(walk, seed=len(name), window=1500, largest=6000).go(STEPS, check_every=200)
