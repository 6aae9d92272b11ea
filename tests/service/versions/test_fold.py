"""Folding: a base and any cut of what followed it are the state itself."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.row_codes import Codes
from service.actions import RESERVED_KEY, Id
from service.errors import VersionError
from service.versions import RowIds, SlotRows, Snapshot, fold

WIDTH = 4
SLOTS = ("item", "user")


@cache
def row(key: int, at: int) -> tuple[torch.Tensor, torch.Tensor, Id]:
    """What a key was written with at a step: vector, extra and id, all told apart."""
    make = torch.Generator().manual_seed(abs(key) % 1000 * 1000 + at)
    name = key if key % 3 else f"näme-{key}" * (abs(key) % 5)
    return torch.randn(WIDTH, generator=make), torch.rand(2, generator=make), name


def rows_of(written: dict[int, int], unknown: int, precision: str = "int8") -> SlotRows:
    """Rows of keys, as they were written at their steps."""
    keys = [RESERVED_KEY, *written]
    parts = [row(RESERVED_KEY + 1, unknown), *(row(key, at) for key, at in written.items())]
    return SlotRows(
        torch.tensor(keys),
        torch.stack([vector for vector, _, _ in parts]),
        {"counts": torch.stack([counts for _, counts, _ in parts])},
        RowIds.from_list(["", *(name for _, _, name in parts[1:])]),
    ).quantized(precision)


Steps = list[dict[str, tuple[set[int], list[int]]]]
"""Of each version, by slot: keys removed first, keys written then."""

KEYS = st.integers(-8, 12)
CHANGE = st.tuples(st.sets(KEYS, max_size=6), st.lists(KEYS, max_size=6, unique=True))
HISTORY = st.lists(st.fixed_dictionaries(dict.fromkeys(SLOTS, CHANGE)), min_size=1, max_size=9)


def state_after(steps: Steps, slot: str) -> dict[int, int]:
    """Keys and the steps that wrote them last."""
    state: dict[int, int] = {}
    for at, step in enumerate(steps):
        gone, written = step[slot]
        state = {key: was for key, was in state.items() if key not in gone}
        state |= dict.fromkeys(written, at)
    return state


def part_of(steps: Steps, first: int, end: int, precision: str) -> Snapshot:
    """Everything that steps first..end-1 changed, as version `end`: a base if first is 0."""
    slots, removed = {}, {}
    for slot in SLOTS:
        written: dict[int, int] = {}
        gone: set[int] = set()
        for at in range(first, end):
            was_gone, now = steps[at][slot]
            gone |= was_gone
            written = {k: w for k, w in written.items() if k not in was_gone}
            written |= dict.fromkeys(now, at)
        slots[slot] = rows_of(written, end, precision)
        removed[slot] = torch.tensor(sorted(gone), dtype=torch.int64)
    dense = {"w": torch.full((2, 2), float(end // 3))} if first == 0 or end % 3 == 0 else {}
    parent = first if first else None
    return Snapshot(end, {"seed": end}, dict(dense), slots, parent, removed if first else {}, end)


def by_key(rows: SlotRows) -> dict[int, tuple[object, ...]]:
    """Everything of each row, to the bit."""
    columns = rows.columns()
    assert rows.ids is not None
    return {
        key: (name, *(columns[name][r].numpy().tobytes() for name in sorted(columns)))
        for r, (key, name) in enumerate(zip(rows.keys_R.tolist(), rows.ids, strict=True))
    }


@settings(derandomize=True, deadline=None, max_examples=150)
@given(HISTORY, st.data(), st.sampled_from(["int8", "int4", "fp16", "fp32"]))
def test_any_cut_of_a_history_folds_to_the_state_itself(
    steps: Steps, data: st.DataObject, precision: str
) -> None:
    inner = data.draw(st.sets(st.integers(1, max(1, len(steps) - 1))), label="cuts")
    cuts = [0, *sorted(cut for cut in inner if cut < len(steps)), len(steps)]
    parts = [part_of(steps, a, b, precision) for a, b in pairwise(cuts)]
    found = fold(parts)
    assert (found.number, found.parent, found.removed) == (len(steps), None, {})
    assert (found.at_ms, found.model) == (len(steps), {"seed": len(steps)})
    for slot in SLOTS:
        direct = rows_of(state_after(steps, slot), len(steps), precision)
        assert by_key(found.slots[slot]) == by_key(direct)
        assert found.slots[slot].precision == precision
        order = list(dict.fromkeys(k for part in parts for k in part.slots[slot].keys_R.tolist()))
        assert found.slots[slot].keys_R.tolist() == [k for k in order if k in by_key(direct)]
    last = max(b for b in cuts[1:] if b == cuts[1] or b % 3 == 0)
    assert torch.equal(found.weights()["w"], torch.full((2, 2), float(last // 3)))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(HISTORY.filter(lambda steps: len(steps) > 2))
def test_folding_in_two_goes_is_folding_at_once(steps: Steps) -> None:
    parts = [part_of(steps, at, at + 1, "int8") for at in range(len(steps))]
    middle = len(steps) // 2 + 1
    twice, once = fold([fold(parts[:middle]), *parts[middle:]]), fold(parts)
    for slot in SLOTS:
        assert by_key(twice.slots[slot]) == by_key(once.slots[slot])
    assert torch.equal(twice.weights()["w"], once.weights()["w"])


def test_a_key_that_is_removed_and_written_in_one_delta_stays() -> None:
    steps: Steps = [
        dict.fromkeys(SLOTS, (set(), [1, 2])),
        dict.fromkeys(SLOTS, ({1, 2, 99}, [2, 5])),
    ]
    found = fold([part_of(steps, 0, 1, "int8"), part_of(steps, 1, 2, "int8")])
    assert found.slots["item"].keys_R.tolist() == [RESERVED_KEY, 2, 5]
    assert torch.equal(found.slots["item"].vectors()[1:], rows_of({2: 1, 5: 1}, 0).vectors()[1:])


def test_a_base_alone_is_itself() -> None:
    base = part_of([dict.fromkeys(SLOTS, (set(), [1]))], 0, 1, "fp32")
    assert fold([base]) is base


def three() -> list[Snapshot]:
    steps: Steps = [dict.fromkeys(SLOTS, ({at}, [at, 20 + at])) for at in range(3)]
    return [part_of(steps, at, at + 1, "int8") for at in range(3)]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ([], "a chain of no links"),
        ([1, 2], "snapshot of version 2 changes version 1, and no base comes before it"),
        ([0, 2], "snapshot of version 3 changes version 2 and stands after version 1: deltas betw"),
        ([0, 1, 1], "version 2 stands twice in the chain"),
        ([0, 2, 1], "version 3 changes version 2 and stands after version 1"),
        ([0, 1, 2, 1], "version 2 changes version 1 and stands after version 3: out of order"),
        ([0, 0], "version 1 stands twice in the chain"),
        ([0, 1, 0], "version 1 is a base, and stands after version 2"),
    ],
)
def test_a_gap_a_duplicate_or_another_order_is_refused(order: list[int], reason: str) -> None:
    parts = three()
    with pytest.raises(VersionError, match=reason):
        fold([parts[part] for part in order])


def item(delta: Snapshot, rows: SlotRows) -> Snapshot:
    return replace(delta, slots={**delta.slots, "item": rows})


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda s: item(s, s.slots["item"].quantized("int4")), "slot 'item' is .*'int4'.*'int8'"),
        (lambda s: item(s, replace(s.slots["item"], ids=None)), "'ids': False.*'ids': True"),
        (lambda s: item(s, replace(s.slots["item"], extra={})), "in the base .*extra counts"),
        (
            lambda s: item(s, replace(s.slots["item"], extra={"counts": torch.zeros(3, 5)})),
            r"'extra counts': \[5\].*'extra counts': \[2\]",
        ),
        (
            lambda s: item(s, replace(s.slots["item"], codes=Codes(
                torch.zeros(3, 6, dtype=torch.uint8), *s.slots["item"].codes[1:]))),
            "'width': 6.*'width': 4",
        ),
        (
            lambda s: replace(s, slots={"item": s.slots["item"]}, removed={}),
            r"it has the slots \['item'\], the base \['item', 'user'\]",
        ),
        (lambda s: replace(s, dense={"w": torch.ones(2, 3)}), r"dense weights are .*\[2, 3\]"),
        (lambda s: replace(s, dense={"v": torch.ones(2, 2)}), "dense weights are .*'v'"),
    ],
)  # fmt: skip
def test_a_delta_that_is_not_like_its_base_is_refused(
    alter: Callable[[Snapshot], Snapshot], reason: str
) -> None:
    base, delta, _ = three()
    with pytest.raises(VersionError, match=f"version 2 does not fit the base of .*: .*{reason}"):
        fold([base, alter(delta)])


def test_a_million_rows_fold_in_no_time() -> None:
    """The bound is generous; docs/formats.md has what was measured."""
    make = np.random.default_rng(0)
    keys = make.permutation(1_050_000) * 7919

    def part(number: int, keys_M: np.ndarray, gone: np.ndarray) -> Snapshot:
        count = len(keys_M) + 1
        codes = Codes(
            torch.from_numpy(make.integers(0, 256, (count, 64), np.uint8)),
            torch.ones(count, dtype=torch.float16), torch.zeros(count, dtype=torch.float16),
        )  # fmt: skip
        every = torch.from_numpy(np.concatenate([[RESERVED_KEY], keys_M]))
        ids = RowIds(
            torch.full((count,), 9, dtype=torch.int16),
            torch.full((9 * count,), ord("a"), dtype=torch.uint8), every,
        )  # fmt: skip
        slots = {"item": SlotRows(every, codes, {"counts": torch.zeros(count, 3)}, ids)}
        removed = {"item": torch.from_numpy(gone)} if number > 1 else {}
        return Snapshot(number, {}, {}, slots, number - 1 or None, removed)

    parts = [part(1, keys[:1_000_000], keys[:0])]
    for number in range(2, 12):
        touched = make.choice(1_000_000, 10_000, replace=False)
        new = keys[1_000_000 + 1000 * (number - 2) :][:1000]
        parts.append(
            part(number, np.concatenate([keys[touched[:9000]], new]), keys[touched[9000:]])
        )
    fold([part(1, keys[:2], keys[:0]), part(2, keys[:2], keys[1:3])])  # compiles
    began = time.process_time()
    found = fold(parts)
    assert time.process_time() - began < 1.5
    alive = {int(k) for k in keys[:1_000_000]}
    for one in parts[1:]:
        alive -= set(one.removed["item"].tolist())
        alive |= set(one.slots["item"].keys_R[1:].tolist())
    assert set(found.slots["item"].keys_R[1:].tolist()) == alive
