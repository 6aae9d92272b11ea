"""Tables of two backends against dictionaries that take one occurrence at a time, in any order."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.store.budget import row_bytes
from tests.service.store.walk import START_MS, Kind, gradients, walk_of
from tests.service.store.wander import WALKS, Wanderer

POOL = [0, 1, -1, 2**63 - 1, -(2**63) + 1, *range(100, 112), *(j << 50 for j in range(1, 6))]
"""Keys that come again; of the last ones many share a shard."""
SEEDS = st.integers(0, 2**32)
KINDS = {"reference": Kind("reference"), "numba": Kind(), "twin": Kind(threads=2)}
SLOTS = [
    {},
    {"min_count": 3},
    {"min_count": 2, "max_waiting": 12, "optimizer": "sgd"},
    {"probability": 0.3, "optimizer": "frequency_sgd"},
    {"optimizer": "adam", "half_life_seconds": 0.5},
    {"ttl_seconds": None, "optimizer": "frequency_sgd"},
]
CAPS = [(None, "evict"), (12, "evict"), (30, "evict"), (12, "refuse")]
"""Rows that fit, roughly, and what happens when they do not."""


class TableAgainstOracle(RuleBasedStateMachine):
    """Whatever is done, in any order, every table is what the oracle says."""

    @initialize(slot=st.sampled_from(SLOTS), cap=st.sampled_from(CAPS))
    def build(self, slot: dict[str, object], cap: tuple[int | None, str]) -> None:
        self.walk = walk_of(KINDS, slot, *cap)
        self.now_ms, self.fresh = START_MS, 1000

    @rule(count=st.integers(1, 300), again=st.integers(0, 3), seed=SEEDS)
    def new_ids_come(self, count: int, again: int, seed: int) -> None:
        keys = list(range(self.fresh, self.fresh + count)) * (1 + again)
        self.fresh += count
        self.walk.admit(keys, [self.now_ms] * len(keys))
        self.train(seed)

    @rule(ms=st.sampled_from([0, 1, 500, 5000, 70_000]), budget=st.sampled_from([0, 3, 30, 10_000]))
    def time_passes(self, ms: int, budget: int) -> None:
        self.now_ms += ms
        self.walk.expire(self.now_ms, budget)

    @rule(size=st.sampled_from([1, 5]), seed=SEEDS)
    def ids_are_erased(self, size: int, seed: int) -> None:
        self.walk.remove(random.Random(seed).choices(POOL, k=size))

    @rule(lands=st.booleans(), whole=st.booleans(), seed=SEEDS)
    def publish(self, lands: bool, whole: bool, seed: int) -> None:
        if self.walk.failed:
            self.walk.put_back()
        elif lands:
            self.walk.publish(whole)
        else:
            self.walk.publish_in_vain(whole)
        self.train(seed)

    @precondition(lambda self: self.walk.saved)
    @rule(turn=st.integers(0, 2), seed=SEEDS)
    def restore(self, turn: int, seed: int) -> None:
        self.walk.restore(turn)
        self.train(seed)

    @rule(name=st.sampled_from(list(KINDS)), seed=SEEDS)
    def restart(self, name: str, seed: int) -> None:
        self.walk.restart(name)
        self.train(seed)

    @precondition(lambda self: self.walk.cap.max_bytes)
    @rule(rows=st.sampled_from([0, 3, 20]), seed=SEEDS)
    def others_take_memory(self, rows: int, seed: int) -> None:
        self.walk.others.charged = rows * row_bytes(self.walk.slot)
        self.train(seed)

    def train(self, seed: int) -> None:
        """A step of training, as there are many between all other things; 0 is none."""
        draw = random.Random(seed)
        size, spread_ms = draw.choice([1, 5, 40, 80]), draw.choice([1, 300, 9000])
        keys = draw.choices(POOL, k=size if seed else 0)
        self.walk.admit(keys, [self.now_ms - draw.randrange(spread_ms) for _ in keys])
        self.walk.update(keys, gradients(len(keys), self.walk.slot.dim, seed))

    @invariant()
    def all_agree(self) -> None:
        if hasattr(self, "walk"):
            self.walk.check()


TestTableAgainstOracle = TableAgainstOracle.TestCase
TestTableAgainstOracle.settings = settings(
    derandomize=True, deadline=None, max_examples=40, stateful_step_count=50
)


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_by_chance_never_leaves_the_oracle(name: str) -> None:
    walk = walk_of(KINDS, *WALKS[name])
    Wanderer(walk, seed=len(name), window=300, largest=300).go(800, check_every=20)
    assert walk.oracle.expired > 100 or walk.slot.ttl_seconds is None
    assert walk.oracle.evicted > 100 or "evicting" not in name
    assert walk.oracle.refused > 100 or "refusing" not in name
    assert walk.oracle.waiting.rotations_early > 20 or "rotations" not in name
