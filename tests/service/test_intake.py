"""Intake on real streams: what is refused and why, the merge, and progress that can be resumed."""

import itertools
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.action_types import ActionTypes
from service.actions import MAX_ID_BYTES, MAX_LIST, key_of
from service.blocks import MAX_TEXT_SHOWN, Block
from service.errors import OffsetError
from service.histories.erased import Erased
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.streams import LocalStream, LocalStreamSettings

NOW_MS = 1_732_096_800_000
NOW = NOW_MS / 1000
HOUR = 3600
TYPES = ActionTypes()

Streams = Callable[..., LocalStream]


@pytest.fixture
def stream_of(tmp_path: Path) -> Iterator[Streams]:
    """Streams with some partitions per topic, closed in the end."""
    opened: list[LocalStream] = []

    def build(partitions: int = 1) -> LocalStream:
        opened.append(LocalStream(tmp_path / "log", LocalStreamSettings(partitions=partitions)))
        return opened[-1]

    yield build
    for stream in opened:
        stream.close()


def action(**fields: Any) -> bytes:
    whole = {"user": 1, "item": "i9", "action": "click", "at": NOW} | fields
    return json.dumps({k: v for k, v in whole.items() if v is not ...}).encode()


def impression(**fields: Any) -> bytes:
    whole = {"request": "r", "user": 1, "at": NOW, "items": ["a", 2]} | fields
    return json.dumps({k: v for k, v in whole.items() if v is not ...}).encode()


def intake_of(stream: LocalStream, **changes: Any) -> Intake:
    return Intake(stream, IntakeSettings(idle_ms=0, **changes), TYPES)


def whole(stream: LocalStream, **changes: Any) -> Block:
    """Everything in the stream as one block."""
    block = intake_of(stream, **changes).block(10**6, wait_seconds=0, ended=lambda: True)
    assert block is not None
    return block


def raw(user: str = "1", item: str = "2", at: str = str(NOW), more: str = "") -> bytes:
    return f'{{"user":{user},"item":{item},"action":"click","at":{at}{more}}}'.encode()


LONG = "x" * (MAX_ID_BYTES + 1)
HUGE = "y" * 3_000_000

REFUSED_ACTIONS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "bad_json"),
    "no JSON": (b"click!", "bad_json"),
    "half of it": (action()[:-5], "bad_json"),
    "two of it": (action() * 2, "bad_json"),
    "binary": (bytes(range(256)), "bad_json"),
    "invalid UTF-8 in an id": (raw(user='"\xff"').decode().encode("latin-1"), "bad_json"),
    "half a surrogate pair": (raw(user='"\\ud800"'), "bad_json"),
    "NaN": (raw(at="NaN"), "bad_json"),
    "infinity": (raw(at="Infinity"), "bad_json"),
    "nested beyond reason": (raw(more=',"new":' + "[" * 100_000), "bad_json"),
    "an array": (b"[1, 2]", "bad_field"),
    "a number": (b"5", "bad_field"),
    "no user": (action(user=...), "bad_field"),
    "no item": (action(item=...), "bad_field"),
    "no action": (action(action=...), "bad_field"),
    "no time": (action(at=...), "bad_field"),
    "user null": (action(user=None), "bad_field"),
    "user true": (action(user=True), "bad_field"),
    "user with a fraction": (action(user=1.5), "bad_field"),
    "user a list": (action(user=["a"]), "bad_field"),
    "time a string": (action(at="now"), "bad_field"),
    "context nested": (action(context={"a": {"b": 1}}), "bad_field"),
    "time beyond fp64": (raw(at="1e400"), "bad_field"),
    "value beyond fp64": (raw(more=',"value":1e400'), "bad_field"),
    "user beyond any integer": (raw(user="1" + "0" * 5000), "bad_field"),
    "empty user": (action(user=""), "bad_id"),
    "empty item": (action(item=""), "bad_id"),
    "long user": (action(user=LONG), "bad_id"),
    "long item in characters of two bytes": (action(item="é" * (MAX_ID_BYTES // 2 + 1)), "bad_id"),
    "huge user": (action(user=HUGE), "bad_id"),
    "user above 64 bits": (action(user=2**63), "bad_id"),
    "item below 64 bits": (action(item=-(2**63) - 1), "bad_id"),
    "user the reserved key": (action(user=-(2**63)), "bad_id"),
    "item of 30 digits": (action(item=10**30), "bad_id"),
    "unknown action": (action(action="clicked"), "unknown_action"),
    "huge action": (action(action=HUGE), "unknown_action"),
    "negative time": (action(at=-1), "bad_time"),
    "time in milliseconds": (action(at=NOW_MS), "bad_time"),
    "time beyond 64 bits": (action(at=1e300), "bad_time"),
    "2099": (action(at=4_070_908_800), "too_early"),
    "just too far in the future": (action(at=NOW + 300.002), "too_early"),
    "just too late": (action(at=NOW - 30 * 24 * HOUR - 0.002), "too_late"),
    "1970": (action(at=0), "too_late"),
}
REFUSED_IMPRESSIONS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "bad_json"),
    "an action": (action(), "bad_field"),
    "no request": (impression(request=...), "bad_field"),
    "items no list": (impression(items="abc"), "bad_field"),
    "items with null": (impression(items=[1, None]), "bad_field"),
    "history negative": (impression(history=-3), "bad_field"),
    "history beyond 64 bits": (impression(history=10**30), "bad_field"),
    "history with a fraction": (impression(history=1.5), "bad_field"),
    "no items": (impression(items=[]), "bad_list"),
    "too many items": (impression(items=list(range(MAX_LIST + 1))), "bad_list"),
    "empty user": (impression(user=""), "bad_id"),
    "an empty item": (impression(items=["a", ""]), "bad_id"),
    "an item above 64 bits": (impression(items=[2**63]), "bad_id"),
    "2099": (impression(at=4_070_908_800), "too_early"),
    "1970": (impression(at=0), "too_late"),
}


@pytest.mark.parametrize("topic", ["actions", "impressions"])
def test_what_cannot_be_used_is_told_with_reason_and_place_and_stops_nothing(
    stream_of: Streams, topic: str
) -> None:
    refused = REFUSED_ACTIONS if topic == "actions" else REFUSED_IMPRESSIONS
    good = action() if topic == "actions" else impression()
    payloads = [p for payload, _ in refused.values() for p in (payload, good)]
    stream = stream_of(2)
    stream.append(topic, 1, payloads, NOW_MS)
    block = whole(stream)
    assert block.records == 2 * len(refused)
    accepted = len(block.events) if topic == "actions" else len(block.impressions)
    assert accepted == len(refused)
    found = {name: r.reason for name, r in zip(refused, block.rejected, strict=True)}
    assert found == {name: reason for name, (_, reason) in refused.items()}
    places = [(r.topic, r.partition, r.offset) for r in block.rejected]
    assert places == [(topic, 1, 2 * n) for n in range(len(refused))]
    for told, (payload, _) in zip(block.rejected, refused.values(), strict=True):
        assert told.detail
        assert len(told.detail) <= MAX_TEXT_SHOWN
        assert told.payload == payload[:MAX_TEXT_SHOWN].decode(errors="replace")


def test_a_refusal_says_what_is_wrong(stream_of: Streams) -> None:
    stream = stream_of()
    wrong = [action(action="tap"), action(at=NOW + HOUR), action(user=""), action(at=-5), b"{}"]
    stream.append("actions", 0, wrong, NOW_MS)
    assert [told.detail for told in whole(stream).rejected] == [
        "action 'tap'; known are click, view, like, buy, hide",
        "at is 3600 s in the future",
        "user is empty",
        "at = -5.0 is not in seconds since the epoch (0 .. 2^40)",
        "Object missing required field `user`",
    ]


def test_columns_hold_what_was_sent_and_fields_of_the_future_are_ignored(
    stream_of: Streams,
) -> None:
    stream = stream_of()
    sent = [
        action(),
        action(
            user="ü", item=-7, action="hide", at=NOW + 300, id="a-1", request="r-5", value=1.5,
            context={"device": "phone"}, v=9, mood={"new": [1, None]},
        ),
        action(user=2**63 - 1, item=-(2**63) + 1, action="buy", at=NOW - 30 * 24 * HOUR, id=""),
        action(item="x" * MAX_ID_BYTES, at=NOW + 0.0004, id="a-1"),
    ]  # fmt: skip
    stream.append("actions", 0, sent, NOW_MS)
    stream.append("impressions", 0, [impression(history=37, version=42, mood=1)], NOW_MS)
    block = whole(stream)
    assert not block.rejected
    events = block.events
    assert events.user_T.tolist() == [1, key_of("ü"), 2**63 - 1, 1]
    assert events.item_T.tolist() == [key_of("i9"), -7, -(2**63) + 1, key_of("x" * MAX_ID_BYTES)]
    assert events.action_T.tolist() == [TYPES.codes[name] for name in ("click", "hide", "buy")] + [
        0
    ]
    month_ms = 30 * 24 * HOUR * 1000
    assert events.at_ms_T.tolist() == [NOW_MS, NOW_MS + 300_000, NOW_MS - month_ms, NOW_MS]
    assert (events.id_T != 0).tolist() == [False, True, False, True]
    assert events.id_T[1] == events.id_T[3] > 0
    assert block.requests == [None, "r-5", None, None]
    assert block.items == ["i9", -7, -(2**63) + 1, "x" * MAX_ID_BYTES]
    (shown,) = block.impressions
    assert (shown.items, shown.history, shown.version) == (["a", 2], 37, 42)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_no_payload_stops_the_stream(tmp_path_factory: Any, data: st.DataObject) -> None:
    def mutated(payload: bytes) -> bytes:
        broken = bytearray(payload)
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)))):
            broken[place % len(broken)] = byte
        return bytes(broken)

    good = action(id="é", value=2, context={"a": 1.5}), impression(history=3, positions=[1])
    stream = LocalStream(tmp_path_factory.mktemp("log"))
    try:
        for topic, payload in zip(("actions", "impressions"), good, strict=True):
            sent = [mutated(payload) for _ in range(8)] + [data.draw(st.binary(max_size=40))]
            stream.append(topic, 0, [*sent, payload], NOW_MS)
        block = whole(stream)
    finally:
        stream.close()
    assert block.records == 20
    assert len(block.events) + len(block.impressions) + len(block.rejected) == 20
    assert len(block.events) >= 1
    assert len(block.impressions) >= 1


Sent = dict[tuple[str, int], list[tuple[int, bytes]]]


def fill(stream: LocalStream, partitions: int, seed: int, most: int = 40) -> Sent:
    """Random records, some late, some refused; returns accepted time (0: refused) and payload."""
    make, number = random.Random(seed), itertools.count()
    sent: Sent = {}
    for topic, partition in itertools.product(("actions", "impressions"), range(partitions)):
        records, at_ms = [], NOW_MS
        for _ in range(make.randrange(most)):
            at_ms += make.choice([0, 0, 1000, -5000, 20_000])
            name = f"{next(number)}"
            if topic == "actions":
                payload = action(item=name, at=at_ms / 1000)
            else:
                payload = impression(items=[name], at=at_ms / 1000)
            if make.random() < 0.1:
                records.append((0, b"refused " + name.encode()))
            else:
                records.append((at_ms, payload))
        sent[topic, partition] = records
        times = [at or NOW_MS for at, _ in records]
        stream.append(topic, partition, [payload for _, payload in records], times)
    return sent


def merged(sent: Sent) -> list[tuple[str, int, int]]:
    """Topic, partition and offset in merge order: the smallest (largest time so far, topic,
    partition) first."""
    largest = dict.fromkeys(sent, 0)
    taken = dict.fromkeys(sent, 0)
    order = []
    while left := [place for place in sent if taken[place] < len(sent[place])]:
        place = min(left, key=lambda p: (largest[p], *p))
        order.append((*place, taken[place]))
        largest[place] = max(largest[place], sent[place][taken[place]][0])
        taken[place] += 1
    return order


def names(blocks: list[Block]) -> dict[str, list[Any]]:
    """What the blocks hold, each kind in order."""
    return {
        "items": [item for block in blocks for item in block.items],
        "shown": [i.items[0] for block in blocks for i in block.impressions],
        "refused": [(r.topic, r.partition, r.offset) for block in blocks for r in block.rejected],
    }


@pytest.mark.parametrize("partitions", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_the_merge_follows_its_rule_and_blocks_are_full(
    stream_of: Streams, partitions: int, size: int
) -> None:
    stream = stream_of(partitions)
    sent = fill(stream, partitions, seed=partitions)
    order = merged(sent)
    expected: dict[str, list[Any]] = {"items": [], "shown": [], "refused": []}
    for topic, partition, offset in order:
        at_ms, payload = sent[topic, partition][offset]
        if not at_ms:
            expected["refused"].append((topic, partition, offset))
        elif topic == "actions":
            expected["items"].append(json.loads(payload)["item"])
        else:
            expected["shown"].append(json.loads(payload)["items"][0])
    intake = intake_of(stream)
    blocks = list(iter(lambda: intake.block(size, 0, ended=lambda: True), None))
    assert names(blocks) == expected
    sizes = [block.records for block in blocks]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert sum(sizes) == len(order)
    done = 0
    for block in blocks:
        done += block.records
        prefix = order[:done]
        for topic, partition in sent:
            taken = sum(place[:2] == (topic, partition) for place in prefix)
            assert block.offsets[topic][partition] == taken


def same(a: Block, b: Block) -> bool:
    columns = ("user_T", "item_T", "action_T", "at_ms_T", "id_T")
    fields = ("requests", "items", "impressions", "rejected", "offsets", "watermark_ms", "records")
    return all(
        np.array_equal(getattr(a.events, name), getattr(b.events, name)) for name in columns
    ) and all(getattr(a, name) == getattr(b, name) for name in fields)


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_run_takes_the_same_blocks_as_one_that_never_stopped(
    stream_of: Streams, seed: int
) -> None:
    make = random.Random(seed)
    stream = stream_of(3)
    fill(stream, 3, seed, most=200)
    sizes = [make.randrange(1, 30) for _ in range(2000)]
    intake, blocks, states = intake_of(stream), [], []
    for size in sizes:
        states.append((intake.offsets, intake.watermark_ms, intake.largest_ms))
        block = intake.block(size, 0, ended=lambda: True)
        if block is None:
            break
        blocks.append(block)
    assert len(blocks) > 10
    for cut in make.sample(range(len(blocks)), 6):
        resumed = Intake(stream, IntakeSettings(idle_ms=0), TYPES, *states[cut])
        for number in range(cut, len(blocks)):
            block = resumed.block(sizes[number], 0, ended=lambda: True)
            assert block is not None
            assert same(block, blocks[number])
        assert resumed.block(1, 0, ended=lambda: True) is None


def test_a_watermark_is_that_of_the_slowest_partition_and_never_goes_back(
    stream_of: Streams,
) -> None:
    stream, watermarks = stream_of(2), []
    intake = intake_of(stream)

    def arrive(partition: int, seconds: float, topic: str = "actions") -> None:
        payload = action(at=NOW + seconds) if topic == "actions" else impression(at=NOW + seconds)
        stream.append(topic, partition, [payload], NOW_MS)
        assert intake.block(10, 0) is not None
        watermarks.append((intake.watermark_ms - NOW_MS) // 1000)

    arrive(0, 10)
    arrive(0, 20)
    arrive(1, 15)  # speaks for the first time: the other waits for it from now on
    arrive(0, 30)
    arrive(1, 12)  # late
    arrive(1, 25)
    arrive(1, 22, topic="impressions")  # lists wait for actions, not the other way round
    arrive(1, 50)
    arrive(1, 26)  # late: what was seen stays seen
    arrive(0, 40)
    assert watermarks == [10, 20, 20, 20, 20, 25, 25, 30, 30, 40]


def test_one_event_of_2099_moves_nothing(stream_of: Streams) -> None:
    stream = stream_of()
    stream.append("actions", 0, [action(), action(at=4_070_908_800), action(at=NOW + 1)], NOW_MS)
    intake = intake_of(stream)
    block = intake.block(10, 0)
    assert block is not None
    assert [told.reason for told in block.rejected] == ["too_early"]
    assert block.watermark_ms == intake.watermark_ms == NOW_MS + 1000
    assert intake.largest_ms == {
        "actions:0": NOW_MS + 1000,
        "impressions:0": 0,
        "items:0": 0,
    }


def test_lateness_is_judged_by_the_append_time_and_no_clock(stream_of: Streams) -> None:
    stream = stream_of()
    payload = action(at=NOW)
    times = [NOW_MS - 300_001, NOW_MS - 300_000, NOW_MS + 3_600_000, NOW_MS + 3_600_001]
    stream.append("actions", 0, [payload] * 4, times)
    block = whole(stream, max_late_seconds=HOUR)
    assert [(told.offset, told.reason) for told in block.rejected] == [
        (0, "too_early"),
        (3, "too_late"),
    ]


def test_an_idle_partition_holds_the_others_up_for_idle_ms_and_no_longer(
    stream_of: Streams,
) -> None:
    stream = stream_of(2)
    stream.append("actions", 0, [action()] * 5, NOW_MS)
    waiting = Intake(stream, IntakeSettings(idle_ms=10**9), TYPES)
    assert waiting.block(5, wait_seconds=0.05) is None
    passing = Intake(stream, IntakeSettings(idle_ms=30), TYPES)
    block = passing.block(5, wait_seconds=600)  # returns as soon as it is full
    assert block is not None
    assert block.records == 5


def test_a_block_is_whatever_came_within_the_wait(stream_of: Streams) -> None:
    stream = stream_of()
    intake = intake_of(stream)
    assert intake.block(10, wait_seconds=0.01) is None
    stream.append("actions", 0, [action()] * 3, NOW_MS)
    block = intake.block(10, wait_seconds=0.01)
    assert block is not None
    assert block.records == 3
    assert intake.block(10, wait_seconds=0) is None


def test_a_counted_replay_waits_for_every_partition_and_fills_its_blocks(
    stream_of: Streams,
) -> None:
    stream, complete = stream_of(3), threading.Event()
    rows = [(n % 3 if n % 50 else 2, action(item=n, at=NOW + n)) for n in range(500)]

    def feed() -> None:
        for partition, payload in rows:
            stream.append("actions", partition, [payload], NOW_MS + 600_000)
        complete.set()

    intake = intake_of(stream, topics=("actions",), max_future_seconds=3600)
    assert intake.block(10, wait_seconds=0.01, ended=lambda: False) is None
    feeder = threading.Thread(target=feed)
    feeder.start()
    blocks = list(iter(lambda: intake.block(64, math.inf, ended=complete.is_set), None))
    feeder.join()
    assert [block.records for block in blocks] == [64] * 7 + [52]
    again = intake_of(stream, topics=("actions",), max_future_seconds=3600)
    repeated = list(iter(lambda: again.block(64, 0, ended=lambda: True), None))
    assert all(same(a, b) for a, b in zip(blocks, repeated, strict=True))


@pytest.mark.parametrize("offset", [-1, 4, 10**9])
def test_an_offset_outside_the_stream_is_refused_with_the_remedy(
    stream_of: Streams, offset: int
) -> None:
    stream = stream_of()
    stream.append("actions", 0, [action()] * 3, NOW_MS)
    words = rf"offset {offset} of actions/0 is outside the stream \(0 .. 3\): start from a stream"
    with pytest.raises(OffsetError, match=words):
        Intake(stream, IntakeSettings(), TYPES, {"actions": {0: offset}})


def test_offsets_of_another_number_of_partitions_are_refused_with_the_remedy(
    stream_of: Streams,
) -> None:
    words = r"topic actions has 2 partitions, the offsets are of partitions \[0\]: restore"
    with pytest.raises(OffsetError, match=words):
        Intake(stream_of(2), IntakeSettings(), TYPES, {"actions": {0: 0}})


def test_a_topic_without_offsets_starts_at_its_first_record(stream_of: Streams) -> None:
    stream = stream_of()
    stream.append("actions", 0, [action()] * 3, NOW_MS)
    stream.append("impressions", 0, [impression()], NOW_MS)
    stream.append("items", 0, [b'{"item": "i9"}'], NOW_MS)
    intake = Intake(stream, IntakeSettings(idle_ms=0), TYPES, {"actions": {0: 2}})
    assert intake.offsets == {"actions": {0: 2}, "impressions": {0: 0}, "items": {0: 0}}
    block = intake.block(10, 0)
    assert block is not None
    assert (len(block.events), len(block.impressions), len(block.described)) == (1, 1, 1)


def test_more_records_than_one_read_returns_are_taken_in_order(stream_of: Streams) -> None:
    stream = stream_of()
    count = 10_000
    payloads = [action(item=n) for n in range(count)]
    stream.append("actions", 0, payloads, NOW_MS)
    assert whole(stream).items == list(range(count))


def test_records_of_erased_users_are_counted_and_leave_no_payload(stream_of: Streams) -> None:
    stream = stream_of()
    then, later = NOW - 1, NOW + 1
    sent = [
        action(user="gone", at=then, item=1, request="r-1"),
        action(user="gone", at=NOW, item=2),
        action(user="gone", at=later, item=3, request="r-3"),
        action(user="other", at=then, item=4, request="r-4"),
        action(user=7, at=then, item=5),
        action(user="7", at=then, item=6),
    ]
    stream.append("actions", 0, sent, NOW_MS)
    shown = [("gone", then), ("other", then), ("gone", later)]
    lists = [impression(user=u, at=at, request=f"{u} {at}") for u, at in shown]
    stream.append("impressions", 0, lists, NOW_MS)
    read = whole(stream)
    block = read.without(Erased.of({key_of("gone"): NOW_MS, 7: NOW_MS}))
    assert block.items == [3, 4, 6]
    assert block.events.item_T.tolist() == [3, 4, 6]
    assert block.events.user_T.tolist() == [key_of("gone"), key_of("other"), key_of("7")]
    assert block.requests == ["r-3", "r-4", None]
    assert [(one.user, one.at) for one in block.impressions] == [("other", then), ("gone", later)]
    assert (block.erased, block.records, block.rejected) == (4, 9, [])
    assert (block.offsets, block.watermark_ms) == (read.offsets, read.watermark_ms)


WRONG = {
    "unknown action": action(user="gone", action="tap"),
    "no item": action(user="gone", item=...),
    "empty item": action(user="gone", item=""),
    "too late": action(user="gone", at=NOW - 40 * 24 * HOUR),
    "in 2099, but appended before": action(user="gone", at=4_070_908_800),
    "time no number": action(user="gone", at="now"),
    "time in milliseconds": action(user="gone", at=NOW_MS),
    "no time": action(user="gone", at=...),
    "a broken field": action(user="gone", context={"a": {"b": 1}}),
}


def test_what_is_wrong_with_an_erased_users_record_is_not_told_either(stream_of: Streams) -> None:
    stream = stream_of()
    others = [payload.replace(b"gone", b"here") for payload in WRONG.values()]
    nobodys = [b"{", action(user=""), action(user=1.5), b"\xff" + action(user="gone")]
    stream.append("actions", 0, [*WRONG.values(), *others, *nobodys], NOW_MS)
    stream.append("actions", 0, [action(user="gone", action="tap", at=NOW + 9)], NOW_MS + 9000)
    stream.append("impressions", 0, [impression(user="gone", items=[])], NOW_MS)
    read = whole(stream)
    block = read.without(Erased.of({key_of("gone"): NOW_MS}))
    assert len(read.rejected) - len(block.rejected) == block.erased == len(WRONG) + 1
    told = [one.payload.encode() for one in block.rejected if one.reason != "bad_json"]
    assert told == [*others, *nobodys[1:3], action(user="gone", action="tap", at=NOW + 9)]
    assert block.without(Erased.of({key_of("here"): NOW_MS})).erased == len(read.rejected) - 5


def test_without_anyone_erased_a_block_is_itself(stream_of: Streams) -> None:
    stream = stream_of()
    fill(stream, 1, seed=4)
    block = whole(stream)
    assert block.without(Erased.of({})) is block
    assert block.without(Erased.of({key_of("nobody"): 2**60})) is block


def test_old_actions_appended_again_stay_erased_wherever_they_are_appended(
    stream_of: Streams,
) -> None:
    """However late they are: what is too late would else be told with its payload."""
    stream = stream_of(2)
    old = [action(user="gone", at=NOW - n * 24 * HOUR) for n in range(60)]
    for partition in range(2):
        stream.append("actions", partition, old, NOW_MS + 3_600_000)
    block = whole(stream).without(Erased.of({key_of("gone"): NOW_MS}))
    assert (len(block.events), block.rejected, block.erased) == (0, [], 120)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.data())
def test_whose_record_it_is_can_be_told_or_not_but_stops_nothing(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    def mutated(payload: bytes) -> bytes:
        broken = bytearray(payload)
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)))):
            broken[place % len(broken)] = byte
        return bytes(broken)

    stream = LocalStream(tmp_path_factory.mktemp("log"))
    try:
        stream.append("actions", 0, [mutated(action(user="gone")) for _ in range(12)], NOW_MS)
        stream.append("impressions", 0, [mutated(impression(user="gone"))], NOW_MS)
        read = whole(stream)
    finally:
        stream.close()
    block = read.without(Erased.of({key_of("gone"): NOW_MS}))
    left = len(block.events) + len(block.impressions) + len(block.rejected)
    assert left + block.erased == block.records == 13
    assert len(block.suspects) == len(block.rejected)
    assert key_of("gone") not in block.events.user_T[block.events.at_ms_T <= NOW_MS]
