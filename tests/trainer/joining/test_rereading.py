"""The joiner made again from the streams is the one that was, bit for bit."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from service.action_types import ActionTypes
from service.actions import key_of
from service.blocks import Block, BlockBuilder, Offsets
from service.histories.erased import Erased
from service.intake_settings import IntakeSettings
from service.streams import LocalStream
from service.streams.local import LocalStreamSettings
from tests.trainer.joining.stories import Told, decode_action, decode_impression, messy
from trainer.joining import Joiner, JoinRules, Settled
from trainer.joining.groups import TOPICS, Groups
from trainer.joining.joiner import Facts
from trainer.joining.rereading import Source, reread

RULES = JoinRules(join_ms=10_000, correct_ms=25_000)
NOBODY = Erased.of({})
PARTITIONS = 2


def appended(story: list[Told], stream: LocalStream) -> None:
    for told in story:
        payload = msgspec.json.encode(told.what)
        partition = {"u0": 0, "u1": 1, "u2": 0}.get(str(told.what.user), 1)
        stream.append(told.topic, partition, [payload], told.arrives_ms)


class Reader:
    """Reads a stream in an order that nobody can foresee, as live intakes do."""

    def __init__(self, stream: LocalStream, seed: int) -> None:
        self.stream, self.draw = stream, np.random.default_rng(seed)
        self.offsets: Offsets = {t: dict.fromkeys(range(PARTITIONS), 0) for t in TOPICS}
        self.largest_ms = dict.fromkeys(range(PARTITIONS), 0)

    def block(self) -> Block | None:
        """Some more records of any partitions; None at the end."""
        builder = BlockBuilder(ActionTypes().codes, 1e15, 1e15)
        for _ in range(self.draw.integers(1, 4)):
            # The topics stay together, but for a few records.
            ages = {
                (topic, p): offset for topic in TOPICS for p, offset in self.offsets[topic].items()
                if offset < self.stream.bounds(topic, p)[1]
            }  # fmt: skip
            if not ages:
                break
            heads = {one: self.stream.read(*one, at, 1)[0].append_ms for one, at in ages.items()}
            topic, partition = min(heads, key=lambda one: heads[one] + self.draw.integers(3000))
            offset = self.offsets[topic][partition]
            for record in self.stream.read(topic, partition, offset, int(self.draw.integers(1, 7))):
                if topic == "actions":
                    at_ms = builder.action(record, (topic, partition), decode_action)
                    self.largest_ms[partition] = max(self.largest_ms[partition], at_ms)
                else:
                    builder.impression(record, (topic, partition), decode_impression)
                self.offsets[topic][partition] = record.offset + 1
                builder.records += 1
        if not builder.records:
            return None
        offsets = {topic: dict(partitions) for topic, partitions in self.offsets.items()}
        spoke = [at_ms for at_ms in self.largest_ms.values() if at_ms]
        return builder.build(offsets, min(spoke, default=0))


@pytest.fixture
def stream(tmp_path: Path):  # type: ignore[no-untyped-def]
    with closing(LocalStream(tmp_path, LocalStreamSettings(partitions=PARTITIONS))) as stream:
        yield stream


def remade(
    joiner: Joiner, offsets: Offsets, stream: LocalStream, erased: Erased = NOBODY
) -> tuple[Joiner, int]:
    """What a trainer that starts again makes of a checkpoint."""
    facts = msgspec.msgpack.decode(joiner.state()["facts"].numpy().tobytes(), type=Facts)
    ids = {topic: stream.topic_id(topic) for topic in TOPICS}
    settings = IntakeSettings(max_future_seconds=1e12, max_late_seconds=1e12)
    other = Joiner(RULES)
    lost = reread(other, facts, Source(stream, settings, ActionTypes(), ids, erased), offsets)
    return other, lost


def facts_of(joiner: Joiner) -> bytes:
    return joiner.state()["facts"].numpy().tobytes()


def same(joiner: Joiner, other: Joiner) -> None:
    assert other.waiting.contents() == joiner.waiting.contents()
    assert facts_of(other) == facts_of(joiner)


def step(joiner: Joiner, block: Block) -> Settled:
    joiner.take(block)
    settled = joiner.settle(block.offsets, block.watermark_ms)
    joiner.give_up([entry.key for entry in settled.closed if entry.key % 7 == 0])
    return settled


@pytest.mark.parametrize("seed", range(4))
def test_at_any_block_the_streams_give_the_same_state_again(stream: LocalStream, seed: int) -> None:
    """And from there on the same comes of it: labels, corrections and counts."""
    appended(
        messy(seed, 180, join_ms=10_000, correct_ms=25_000, impressions_late_ms=30_000,
              actions_late_ms=90_000), stream,
    )  # fmt: skip
    reader, joiner, draw = Reader(stream, seed), Joiner(RULES), np.random.default_rng(seed)
    joiner.begin({t: dict.fromkeys(range(PARTITIONS), 0) for t in TOPICS})
    others: list[Joiner] = []
    counts: Counter[str] = Counter()
    while block := reader.block():
        settled = step(joiner, block)
        counts += settled.counts
        for other in others:
            assert step(other, block) == settled
        if draw.random() < 0.08:
            other, lost = remade(joiner, block.offsets, stream)
            assert lost == 0
            same(joiner, other)
            others = [*others[-1:], other]
    assert len(others) == 2
    for other in others:
        same(joiner, other)
    starts = joiner.join_from
    assert min(min(partitions.values()) for partitions in starts.values()) > 0
    for outcome in ("joined", "corrected", "repeated", "orphan"):
        assert counts[outcome] > 0, outcome
    assert len(joiner.groups.rows) <= 1100


@pytest.mark.parametrize("seed", range(2))
def test_erased_users_are_not_read_back(stream: LocalStream, seed: int) -> None:
    appended(
        messy(seed, 180, join_ms=10_000, correct_ms=25_000, impressions_late_ms=30_000,
              actions_late_ms=90_000), stream,
    )  # fmt: skip
    reader, joiner, erased = Reader(stream, seed), Joiner(RULES), NOBODY
    joiner.begin({t: dict.fromkeys(range(PARTITIONS), 0) for t in TOPICS})
    number = 0
    while block := reader.block():
        step(joiner, block.without(erased))
        number += 1
        if number == 40:
            erased = Erased.of({key_of("u1"): block.watermark_ms - 3000})
            joiner.erase(erased)
            users = {user for (user,) in joiner.waiting.rows("SELECT user FROM shown")}
            assert key_of("u1") not in users
        if number in (40, 41, 60, 90):
            other, _ = remade(joiner, block.offsets, stream, erased)
            same(joiner, other)
    assert number > 70


def test_without_impressions_next_to_nothing_is_read_again(stream: LocalStream) -> None:
    story = [t for t in messy(1, 200, join_ms=10_000, correct_ms=25_000, impressions_late_ms=1,
                              actions_late_ms=1) if t.topic == "actions"]  # fmt: skip
    appended([t for t in story if t.what.request is None], stream)  # type: ignore[union-attr]
    reader, joiner = Reader(stream, 0), Joiner(RULES)
    joiner.begin(reader.offsets)
    while block := reader.block():
        step(joiner, block)
    behind = [end - joiner.join_from["actions"][p] for p, end in reader.offsets["actions"].items()]
    assert sum(behind) < 20
    assert joiner.waiting.contents() == [[], [], []]


def test_a_log_remembers_what_was_never_read() -> None:
    log = Groups.at({"actions": {0: 10}, "impressions": {0: 5}})
    log.matters(900)
    log.end({"actions": {0: 15}, "impressions": {0: 6}}, 100)
    log.end({"actions": {0: 15}, "impressions": {0: 9}}, 200)
    assert log.places(log.starts) == {"actions": {0: 10}, "impressions": {0: 5}}
    log.forget()
    assert (log.first, log.number, log.start_ms) == (0, 2, 0)
    log.end({"actions": {0: 16}, "impressions": {0: 9}}, 900)
    log.forget()
    assert (log.first, log.number, log.start_ms) == (3, 3, 900)
    assert log.places(log.starts) == {"actions": {0: 16}, "impressions": {0: 9}}
