"""Probing, inserting and removing on a GPU: linear probing in shards, by compare-and-swap.

A shard is one array of (key, row) pairs, 16 bytes each; the highest byte of the mixed key chooses
the shard, its low bits the home slot, as on the CPU. A key that stands in a slot stays there until
its shard is rebuilt; what the row of its pair says is whether it is present:

- `NONE`: absent (every free slot holds it, too), so that removal leaves no gap in a probe
- `FIRST_NEW` + i: new in this batch, i being the smallest position seen that holds it
- `FIRST_GONE` + i: removed by this batch, likewise
- anything else: its row

Positions meet by atomic minimum, so that every result is a function of the batch, never of which
program came first. Between two calls there are rows and `NONE` alone.

`counters`, int32: slots used and keys present by shard; the first position that holds the reserved
key (`ALL_WELL` if none); positions that found their shard full.
"""

import triton
import triton.language as tl

from kernels.gpu import mix64
from kernels.slabs import row_pointer

SHARDS = 256
COUNTERS = 2 * SHARDS + 2
ALL_WELL = 2**31 - 1

EMPTY = tl.constexpr(-(2**63))
NONE = tl.constexpr(2**63 - 1)
FIRST_NEW = tl.constexpr(2**62)
FIRST_GONE = tl.constexpr(-(2**62))

USED = tl.constexpr(0)
LIVE = tl.constexpr(SHARDS)
RESERVED = tl.constexpr(2 * SHARDS)
FULL = tl.constexpr(2 * SHARDS + 1)

BLOCK = 64
"""Keys of a program."""
OPTIONS = {"BLOCK": BLOCK, "num_warps": 1}
"""One warp, which probes until its slowest key is done, and waits for no other."""

WORD = tl.constexpr(tl.pointer_type(tl.int64))
"""What addresses are turned into: a pair's key lies there, its row 8 bytes on."""
ROW = tl.constexpr(8)

_PAIR = tl.constexpr(16)
_ALL_WELL = tl.constexpr(ALL_WELL)


@triton.jit(do_not_specialize=["n"])
def find(
    keys, n, addresses, masks, counters, rows, places, PLACES: tl.constexpr, BLOCK: tl.constexpr
):
    """Row of each key, -1 where it is absent; with PLACES also where its pair lies, 0 likewise."""
    i, there = _positions(n, BLOCK)
    key = tl.load(keys + i, mask=there, other=0)
    usable = _refuse_reserved(key, i, there, counters)
    place, _ = _seek(key, usable, addresses, masks, False)
    row = tl.load((place + ROW).to(WORD), mask=place != 0, other=NONE)
    present = row != NONE
    tl.store(rows + i, tl.where(present, row, -1), mask=there)
    if PLACES:
        tl.store(places + i, tl.where(present, place, 0), mask=there)


@triton.jit(do_not_specialize=["n"])
def claim(keys, n, addresses, masks, counters, places, BLOCK: tl.constexpr):
    """Give every key a slot and mark new ones with their first position; 0 where no slot was left.

    Doing it again after a failure, or after a rebuild, changes nothing that is already done.
    """
    i, there = _positions(n, BLOCK)
    key = tl.load(keys + i, mask=there, other=0)
    usable = _refuse_reserved(key, i, there, counters)
    place, won = _seek(key, usable, addresses, masks, True)
    held = place != 0
    shard = _shard_of(mix64(key))
    tl.store(places + i, place, mask=there)
    row = tl.load((place + ROW).to(WORD), mask=held, other=NONE)
    mine = i.to(tl.int64) + FIRST_NEW
    asked = held & (row > mine)
    before = tl.atomic_min((place + ROW).to(WORD), mine, mask=asked, sem="relaxed")
    tl.atomic_add(counters + LIVE + shard, 1, mask=asked & (before == NONE), sem="relaxed")
    tl.atomic_add(counters + USED + shard, 1, mask=won, sem="relaxed")
    full = tl.sum((usable & ~held).to(tl.int32), axis=0)
    tl.atomic_add(counters + FULL, full, mask=full > 0, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def withdraw(keys, n, addresses, masks, counters, places, BLOCK: tl.constexpr):
    """Undo `claim`: its new keys are absent again."""
    i, there = _positions(n, BLOCK)
    place = tl.load(places + i, mask=there, other=0)
    row = tl.load((place + ROW).to(WORD), mask=place != 0, other=NONE)
    mine = row == i.to(tl.int64) + FIRST_NEW
    key = tl.load(keys + i, mask=there, other=0)
    shard = _shard_of(mix64(key))
    none = tl.full((BLOCK,), NONE, tl.int64)
    tl.store((place + ROW).to(WORD), none, mask=mine)
    tl.atomic_add(counters + LIVE + shard, -1, mask=mine, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def mark_first(places, n, first, MARK: tl.constexpr, BLOCK: tl.constexpr):
    """True where a position is the smallest that `claim` or `drop` saw of its key."""
    i, there = _positions(n, BLOCK)
    place = tl.load(places + i, mask=there, other=0)
    row = tl.load((place + ROW).to(WORD), mask=place != 0, other=NONE)
    tl.store(first + i, row == i.to(tl.int64) + MARK, mask=there)


@triton.jit(do_not_specialize=["n", "free_end", "rows_end"])
def number(
    keys, n, places, ranks, free, free_end, keys_by_row, rows_end, rows, BLOCK: tl.constexpr
):
    """Row of each key after `claim`: the k-th new key takes the k-th free row from the top of the
    stack, or the next one at the end.

    `ranks` counts new keys up to each position. Whether another program has numbered a key already
    or not yet, its row is the same.
    """
    i, there = _positions(n, BLOCK)
    place = tl.load(places + i, mask=there, other=0)
    row = tl.load((place + ROW).to(WORD), mask=there, other=0)
    new = row >= FIRST_NEW
    first = tl.where(new, row - FIRST_NEW, 0)
    rank = tl.load(ranks + first, mask=new, other=1).to(tl.int64) - 1
    reused = new & (rank < free_end)
    top = row_pointer(free, tl.where(reused, free_end - 1 - rank, 0), tl.int64, 1)
    freed = tl.load(top, mask=reused, other=0)
    row = tl.where(reused, freed, tl.where(new, rows_end + rank - free_end, row))
    tl.store(rows + i, row, mask=there)
    mine = new & (first == i)
    key = tl.load(keys + i, mask=mine, other=0)
    key_at = row_pointer(keys_by_row, tl.where(mine, row, 0), tl.int64, 1)
    tl.store(key_at, key, mask=mine)
    tl.store((place + ROW).to(WORD), row, mask=mine)


@triton.jit(do_not_specialize=["n"])
def drop(keys, n, addresses, masks, counters, places, BLOCK: tl.constexpr):
    """Mark the keys that `find` placed with their first position; nothing if it met the reserved
    key."""
    i, there = _positions(n, BLOCK)
    there = there & (tl.load(counters + RESERVED) == _ALL_WELL)
    place = tl.load(places + i, mask=there, other=0)
    held = place != 0
    key = tl.load(keys + i, mask=there, other=0)
    shard = _shard_of(mix64(key))
    mine = i.to(tl.int64) + FIRST_GONE
    before = tl.atomic_min((place + ROW).to(WORD), mine, mask=held, sem="relaxed")
    tl.atomic_add(counters + LIVE + shard, -1, mask=held & (before >= 0), sem="relaxed")


@triton.jit(do_not_specialize=["n", "free_end"])
def release(places, n, ranks, first, free, free_end, keys_by_row, rows, BLOCK: tl.constexpr):
    """Put the rows of keys dropped on the free stack in batch order; a key's later positions had
    none."""
    i, there = _positions(n, BLOCK)
    mine = tl.load(first + i, mask=there, other=0) != 0
    row = tl.load(rows + i, mask=there, other=-1)
    tl.store(rows + i, tl.where(mine, row, -1), mask=there)
    rank = tl.load(ranks + i, mask=mine, other=1).to(tl.int64) - 1
    top = row_pointer(free, tl.where(mine, free_end + rank, 0), tl.int64, 1)
    tl.store(top, row, mask=mine)
    key_at = row_pointer(keys_by_row, tl.where(mine, row, 0), tl.int64, 1)
    tl.store(key_at, tl.full((BLOCK,), EMPTY, tl.int64), mask=mine)
    place = tl.load(places + i, mask=mine, other=0)
    tl.store((place + ROW).to(WORD), tl.full((BLOCK,), NONE, tl.int64), mask=mine)


@triton.jit
def move(moves, addresses, masks, counters, BLOCK: tl.constexpr):
    """Copy shards' pairs from where they were, absent keys left behind; the grid's second axis
    counts the moves: shard, old address, old slots."""
    moves += tl.program_id(1) * 3
    shard = tl.load(moves)
    old = tl.load(moves + 1)
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < tl.load(moves + 2)
    place = old + slot.to(tl.int64) * _PAIR
    key = tl.load(place.to(WORD), mask=inside, other=EMPTY)
    row = tl.load((place + ROW).to(WORD), mask=inside, other=NONE)
    present = row != NONE
    _put(key, row, present, addresses, masks)
    moved = tl.sum(present.to(tl.int32), axis=0)
    tl.atomic_add(counters + USED + shard, moved, mask=moved > 0, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def count(keys, n, counters, BLOCK: tl.constexpr):
    """Keys by shard, where EMPTY is none."""
    i, there = _positions(n, BLOCK)
    key = tl.load(keys + i, mask=there, other=EMPTY)
    shard = _shard_of(mix64(key))
    tl.atomic_add(counters + LIVE + shard, 1, mask=key != EMPTY, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def place_all(keys, n, addresses, masks, BLOCK: tl.constexpr):
    """Put distinct keys in empty shards that have room, each with its position as its row."""
    i, there = _positions(n, BLOCK)
    key = tl.load(keys + i, mask=there, other=EMPTY)
    _put(key, i.to(tl.int64), key != EMPTY, addresses, masks)


@triton.jit
def _positions(n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return i, i < n


@triton.jit
def _refuse_reserved(key, i, there, counters):
    """Note the first position that holds the reserved key; where the others are."""
    reserved = there & (key == EMPTY)
    first = tl.min(tl.where(reserved, i, _ALL_WELL), axis=0)
    tl.atomic_min(counters + RESERVED, first, mask=first != _ALL_WELL, sem="relaxed")
    return there & (key != EMPTY)


@triton.jit
def _shard_of(mixed):
    return (mixed >> 56).to(tl.int32)


@triton.jit
def _seek(key, looking, addresses, masks, CLAIM: tl.constexpr):
    """Place of each key's pair and whether this call took a free slot for it, as CLAIM allows.

    0 where there is none: the key is absent, or the shard full. Plain loads are safe beside claims:
    a slot's key changes once, from EMPTY, and whoever reads EMPTY asks again by compare-and-swap.
    """
    mixed = mix64(key)
    shard = _shard_of(mixed)
    base = tl.load(addresses + shard)
    mask = tl.load(masks + shard)
    slot = mixed.to(tl.int64) & mask
    place = base * 0
    won = looking & (place != 0)
    empty = place + EMPTY
    left = mask + 1
    while tl.max(looking.to(tl.int32), axis=0) > 0:
        at = base + slot * _PAIR
        seen = tl.load(at.to(WORD), mask=looking, other=EMPTY)
        vacant = looking & (seen == EMPTY)
        if CLAIM and tl.max(vacant.to(tl.int32), axis=0) > 0:
            # There is no mask: keys that want nothing swap EMPTY for EMPTY wherever they are.
            wish = tl.where(vacant, key, empty)
            seen = tl.atomic_cas(at.to(WORD), empty, wish, sem="relaxed")
            taken = vacant & (seen == EMPTY)
            won = won | taken
            seen = tl.where(taken, key, seen)
            vacant = vacant & (seen == EMPTY)
        here = looking & (seen == key)
        place = tl.where(here, at, place)
        left -= 1
        looking = looking & ~here & ~vacant & (left > 0)
        slot = (slot + 1) & mask
    return place, won


@triton.jit
def _put(key, row, wanted, addresses, masks):
    """Store pairs of distinct absent keys."""
    place, _ = _seek(key, wanted, addresses, masks, True)
    tl.store((place + ROW).to(WORD), row, mask=wanted)
