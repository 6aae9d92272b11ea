"""The online join of a messy stream is the offline one."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from service.actions import Impression, key_of
from tests.trainer.joining.offline import KINDS, Joined, full_join
from tests.trainer.joining.stories import Told, block_of, in_blocks, messy
from trainer.joining import Joiner, JoinRules, Shown
from trainer.joining.joiner import request_key
from trainer.joining.waiting import Waiting

RULES = JoinRules(join_ms=10_000, correct_ms=25_000)
LIMITS = {"join_ms": 10_000, "correct_ms": 25_000}


def online(
    blocks: Sequence[Sequence[Told]], joiner: Joiner
) -> tuple[list[Shown], list[Shown], Counter[str]]:
    """What the joiner closes and corrects, and what it counts."""
    closed, late, counts = list[Shown](), list[Shown](), Counter[str]()
    watermark_ms = first = 0
    for block in blocks:
        watermark_ms = max([watermark_ms, *(t.at_ms for t in block if t.topic == "actions")])
        joiner.take(block_of([told.what for told in block], watermark_ms, first))
        first += len(block)
        settled = joiner.settle({}, watermark_ms)
        closed += settled.closed
        late += settled.late
        counts += settled.counts
    return closed, late, counts


def joined(
    blocks: Sequence[Sequence[Told]], closed: list[Shown], late: list[Shown]
) -> Counter[Joined]:
    """The same as the offline join says it, by original ids."""
    shown = [t.what for t in chain(*blocks) if isinstance(t.what, Impression)]
    names = {request_key(key_of(one.user), one.request): one.request for one in shown}
    items = {key_of(item): str(item) for one in shown for item in one.items}
    corrections = defaultdict(list)
    for entry in late:
        corrections[entry.key] += labels(entry, items)
    return Counter(
        Joined(
            names[entry.key], tuple(items[item] for item in entry.items),
            tuple(sorted(labels(entry, items))), tuple(sorted(corrections[entry.key])),
        )
        for entry in closed
    )  # fmt: skip


def labels(entry: Shown, items: dict[int, str]) -> list[tuple[str, str]]:
    """Each action on each item, twice if it is told twice."""
    return [
        (items[item], kind)
        for item, acted in entry.acted.items()
        for code, kind in KINDS.items()
        if acted >> code & 1
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_online_join_is_the_offline_one(seed: int) -> None:
    """Where impressions come within half a window of their time."""
    story = messy(
        seed, 300, impressions_late_ms=4000, actions_late_ms=20_000, stray=False, **LIMITS
    )
    blocks = in_blocks(story, seed)
    closed, late, counts = online(blocks, Joiner(RULES))
    expected = full_join(blocks, RULES.join_ms, RULES.horizon_ms, RULES.kept_ms, RULES.look_ms)
    assert joined(blocks, closed, late) == expected
    assert sum(map(len, (one.labels for one in expected))) > 100
    assert sum(map(len, (one.corrections for one in expected))) > 15
    assert min(counts[name] for name in ("duplicate", "again", "orphan", "too_late")) > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_cut_into_blocks_and_the_order_of_reading_do_not_matter_between_looks(
    seed: int,
) -> None:
    story = messy(seed, 200, impressions_late_ms=9000, actions_late_ms=60_000, **LIMITS)
    blocks, draw = in_blocks(story, seed), np.random.default_rng(seed)
    joiner, other = Joiner(RULES), Joiner(RULES)
    watermark_ms = first = 0
    for block in blocks:
        watermark_ms = max([watermark_ms, *(t.at_ms for t in block if t.topic == "actions")])
        places = range(first, first + len(block))
        joiner.take(block_of([told.what for told in block], watermark_ms, first))
        for n in draw.permutation(len(block)).tolist() if first else range(len(block)):
            other.take(block_of([block[n].what], watermark_ms, places[n]))
        first += len(block)
        assert joiner.settle({}, watermark_ms) == other.settle({}, watermark_ms)
        assert joiner.waiting.contents() == other.waiting.contents()


def test_what_does_not_fit_the_memory_goes_to_disk_and_changes_nothing(tmp_path: Path) -> None:
    rules = JoinRules(join_ms=200_000, correct_ms=800_000)
    story = messy(
        5, 2500, join_ms=10_000, correct_ms=25_000, impressions_late_ms=9000, actions_late_ms=60_000
    )
    blocks = in_blocks(story, 5)
    small = Waiting(tmp_path / "join", budget_bytes=1)
    spilled = Joiner(rules, small)
    assert online(blocks, spilled) == online(blocks, Joiner(rules))
    assert small.spilled_bytes > 200_000
    (file,) = (tmp_path / "join").iterdir()
    file.unlink()  # a cache: whoever removes it does not stop the trainer
    spilled.look(2**50)
    assert spilled.numbers() == {"open": 0, "correctable": 0}
    small.close()
    assert list((tmp_path / "join").iterdir()) == []
