"""Rings against deques, over long random sequences."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.histories.pieces import words_of
from service.histories.rings import (
    COUNT,
    EVENT_WORDS,
    EVENTS,
    FIRST,
    HELD,
    ID_WORDS,
    IDS,
    LINE,
    PIECE,
    WORD_BYTES,
    Rings,
    grown_words,
    holds_id,
    push,
    ring_at,
)

WIDTHS = {EVENTS: EVENT_WORDS, IDS: ID_WORDS}


@dataclass
class Ring:
    """What a ring holds and how long it is."""

    size: int = 0
    count: int = 0
    held: deque[Any] = field(default_factory=deque)

    def push(self, ordinal: int, record: list[int], capacity: int, room: int) -> int:
        """Append; how many places it grew by."""
        grown = 0
        if ordinal != self.count:
            self.held.clear()
        if len(self.held) == self.size < capacity:
            if self.size == 0:
                self.size = FIRST
            elif self.size <= room:
                grown, self.size = self.size, 2 * self.size
        self.held = deque([*self.held, record], maxlen=self.size)
        self.count = ordinal + 1
        return grown


def found(rings: Rings, owner: int, ring: int) -> list[list[int]]:
    words, _, lines, _ = rings.memory
    at, width = owner * LINE + ring, WIDTHS[ring]
    base, mask = ring_at(lines, at, width)
    last = int(lines[at + COUNT])
    places = [base + (o & mask) * width for o in range(last - int(lines[at + HELD]), last)]
    return [words[place : place + width].tolist() for place in places]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("events", "ids"), [(8, 8), (32, 16), (128, 64)])
def test_rings_hold_what_deques_hold_wherever_they_lie(events: int, ids: int, seed: int) -> None:
    draw, rings, owners = np.random.default_rng(seed), Rings(), 30
    capacity = {EVENTS: events, IDS: ids}
    rings.reserve(owners)
    held: defaultdict[tuple[int, int], Ring] = defaultdict(Ring)
    shortened = longest = 0
    for step in range(4000):
        owner, ring = int(draw.random() ** 4 * owners), int(draw.choice([EVENTS, IDS]))
        known, width = held[owner, ring], WIDTHS[ring]
        ordinal = known.count + int(draw.integers(1, 9)) * int(draw.random() < 0.002)
        record = draw.integers(-(2**63), 2**63, width).tolist()
        room = int(draw.choice([0, known.size - 1, known.size, 10**6], p=[0.3, 0.1, 0.1, 0.5]))
        full = ordinal == known.count and len(known.held) == known.size
        before = known.size
        grown = known.push(ordinal, record, capacity[ring], room)
        longest = max(longest, len(known.held))
        shortened += full and 0 < before < capacity[ring] and not grown
        rings.allow(room * width * WORD_BYTES)
        at = owner * LINE + ring
        push(rings.memory, at, width, capacity[ring], ordinal, record[0], record[-1])
        if step % 5 == 0:
            assert found(rings, owner, ring) == list(known.held)
            assert rings.shortened == shortened
        if step % 200 == 0:
            rings.compact()
            gone = np.unique(draw.integers(0, owners, 2))
            rings.clear(gone)
            for owner in gone.tolist():
                held[owner, EVENTS], held[owner, IDS] = Ring(), Ring()
        if step % 100 == 0:
            check(rings, held, owners)
    assert longest == events
    assert shortened > 0 or events == FIRST


def check(rings: Rings, held: dict[tuple[int, int], Ring], owners: int) -> None:
    grown = 0
    for (owner, ring), known in held.items():
        assert found(rings, owner, ring) == list(known.held)
        assert words_of(rings.lines[owner * LINE + ring + PIECE]) == known.size * WIDTHS[ring]
        grown += max(0, known.size - FIRST) * WIDTHS[ring]
    assert sum(grown_words(rings.lines, o * LINE) for o in range(owners)) == grown
    assert rings.charged_bytes(0) == grown * WORD_BYTES
    assert rings.live_events == sum(len(k.held) for (_, ring), k in held.items() if ring == EVENTS)


def test_an_id_is_held_until_it_is_overwritten() -> None:
    rings = Rings()
    rings.reserve(1)
    rings.allow(10**6)
    for ordinal in range(200):
        push(rings.memory, IDS, ID_WORDS, 64, ordinal, 1000 + ordinal, 0)
        kept = [n for n in range(ordinal + 1) if holds_id(rings.memory, IDS, 1000 + n)]
        assert kept == list(range(max(0, ordinal - 63), ordinal + 1))
    assert not holds_id(rings.memory, IDS, 0)


def filled(lengths: list[int]) -> Rings:
    rings = Rings()
    rings.reserve(len(lengths))
    rings.allow(10**9)
    for owner, length in enumerate(lengths):
        for ordinal in range(length):
            push(rings.memory, owner * LINE + EVENTS, EVENT_WORDS, 512, ordinal, owner, ordinal)
    return rings


def test_memory_that_long_rings_leave_serves_short_ones() -> None:
    rings = filled([512] * 100)
    before = rings.nbytes
    rings.clear(np.arange(100))
    rings.reserve(6000)
    for owner in range(6000):
        push(rings.memory, owner * LINE + EVENTS, EVENT_WORDS, 512, 0, owner, 0)
    assert rings.nbytes == before


def test_memory_is_compacted_once_more_than_a_fifth_of_it_is_free() -> None:
    rings, owners = Rings(), 8000
    rings.lay(np.tile(np.array([512, 0, 0, 0], np.int16), (owners, 1)))
    push(rings.memory, (owners - 1) * LINE + EVENTS, EVENT_WORDS, 512, 0, 4, 5)
    whole = rings.nbytes
    assert whole > owners * 512 * 16
    for gone, left in ((np.arange(1600), 8000), (np.arange(1600, 1610), 6390)):
        rings.clear(gone)
        rings.tidy()
        assert abs(whole - rings.nbytes - (owners - left) * 512 * 16) < 2**22
    assert found(rings, owners - 1, EVENTS) == [[4, 5]]


def test_little_memory_is_not_worth_compacting() -> None:
    rings = Rings()
    rings.lay(np.tile(np.array([512, 0, 0, 0], np.int16), (1000, 1)))
    whole = rings.nbytes
    rings.clear(np.arange(1000))
    rings.tidy()
    assert rings.nbytes == whole


def test_rings_of_given_shapes_are_laid_and_trimmed() -> None:
    lengths = [0, 1, 8, 9, 30, 700]
    rings = filled(lengths)
    shapes = rings.shapes()
    assert shapes[:, 0].tolist() == [0, 8, 8, 16, 32, 512]
    assert shapes[:, 1].tolist() == [0, 1, 8, 9, 30, 512]
    shapes[4, 1] = 20
    again = Rings()
    again.lay(shapes)
    assert again.charged_bytes(0) == rings.charged_bytes(0)
    assert not again.trim(shapes)
    again.allow(0)
    for owner, length in enumerate(lengths):
        for ordinal in range(length):
            push(again.memory, owner * LINE + EVENTS, EVENT_WORDS, 512, ordinal, owner, ordinal)
    assert again.trim(shapes)
    assert (again.shapes() == shapes).all()
    assert found(again, 4, EVENTS) == [[4, ordinal] for ordinal in range(10, 30)]
    assert found(again, 5, EVENTS) == found(rings, 5, EVENTS)


def test_a_ring_costs_what_its_owner_holds_and_not_the_limit() -> None:
    rings = filled([1] * 100_000)
    assert 100_000 * (64 + 128) <= rings.nbytes < 1.1 * 100_000 * (64 + 128) + 2**22
