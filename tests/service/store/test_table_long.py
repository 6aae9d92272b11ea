"""Hundreds of thousands of steps against the oracle."""

import pytest

from tests.service.store.walk import Kind, walk_of
from tests.service.store.wander import WALKS, Wanderer

KINDS = {"one thread": Kind(), "two threads": Kind(threads=2)}
STEPS = 60_000


@pytest.mark.long
@pytest.mark.parametrize("name", WALKS)
def test_a_long_walk_never_leaves_the_oracle(name: str) -> None:
    walk = walk_of(KINDS, *WALKS[name])
    Wanderer(walk, seed=len(name), window=1500, largest=6000).go(STEPS, check_every=200)
