"""What the topic `items` says: which records are taken, and why the others are not."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.action_types import ActionTypes
from service.actions import partition_of_key
from service.blocks import Block
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.items import (
    MAX_CATEGORIES,
    MAX_CATEGORY_BYTES,
    MAX_FEATURE_BYTES,
    MAX_FEATURES,
    Item,
    ItemError,
    check_item,
    item_key,
    of_tombstone,
)
from service.streams import LocalStream, LocalStreamSettings, Record

NOW_MS = 1_732_096_800_000
NOW = NOW_MS / 1000


def record(**fields: Any) -> bytes:
    return json.dumps({"item": "i9", "at": NOW} | fields).encode()


def read(tmp_path: Path, payloads: list[bytes], append_ms: int = NOW_MS) -> Block:
    stream = LocalStream(tmp_path, LocalStreamSettings())
    stream.append("items", 0, payloads, append_ms)
    intake = Intake(stream, IntakeSettings(topics=("items",), idle_ms=0), ActionTypes())
    block = intake.block(10**6, wait_seconds=0, ended=lambda: True)
    stream.close()
    assert block is not None
    return block


def test_records_come_in_stream_order_with_everything_that_they_say(tmp_path: Path) -> None:
    whole = {"categories": ["news", "sport"], "hidden": True, "expires_at": NOW + 60, "v": 1}
    features = {"language": "en", "pages": 3, "price": 1.5, "new": False}
    block = read(tmp_path, [record(**whole, features=features), record(item=7), record()])
    first, second, third = block.described
    assert (first.item, first.categories, first.hidden) == ("i9", ["news", "sport"], True)
    assert (first.expires_at, first.features) == (NOW + 60, features)
    assert second == Item(item=7, at=NOW)
    assert third == Item(item="i9", at=NOW)
    assert (len(block.events), block.records, block.watermark_ms) == (0, 3, 0)
    assert block.offsets == {"items": {0: 3}}


REFUSED = {
    "no JSON": (b"{", "bad_json"),
    "no item": (json.dumps({"at": NOW}).encode(), "bad_field"),
    "an empty id": (record(item=""), "bad_id"),
    "an id of another type": (record(item=1.5), "bad_field"),
    "text for categories": (record(categories="news"), "bad_field"),
    "an empty category": (record(categories=["a", ""]), "bad_field"),
    "a long category": (record(categories=["x" * (MAX_CATEGORY_BYTES + 1)]), "bad_field"),
    "half a character": (record(categories=["\ud800"]), "bad_json"),
    "too many categories": (
        record(categories=[f"c{n}" for n in range(MAX_CATEGORIES + 1)]), "bad_field",
    ),
    "too many features": (
        record(features={f"f{n}": 1 for n in range(MAX_FEATURES + 1)}), "bad_field",
    ),
    "a list as a feature": (record(features={"tags": ["a"]}), "bad_field"),
    "a long feature": (record(features={"f": "x" * (MAX_FEATURE_BYTES + 1)}), "bad_field"),
    "a feature without a name": (record(features={"": 1}), "bad_field"),
    "an end before time": (record(expires_at=-1), "bad_time"),
    "an end that is no number": (b'{"item":"i9","expires_at":1e999}', "bad_field"),
    "a time in the future": (record(at=NOW + 3600), "too_early"),
    "nothing, and no key": (b"", "bad_id"),
}  # fmt: skip


@pytest.mark.parametrize(("payload", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_record_is_rejected_with_its_reason_and_its_place(
    tmp_path: Path, payload: bytes, reason: str
) -> None:
    block = read(tmp_path, [record(), payload, record()])
    assert len(block.described) == 2
    [told] = block.rejected
    assert (told.topic, told.offset) == ("items", 1)
    assert told.reason == reason, told.detail


def test_however_old_a_record_is_it_counts(tmp_path: Path) -> None:
    assert len(read(tmp_path, [record(at=1.0)]).described) == 1


def test_a_record_without_a_time_is_of_when_it_was_appended(tmp_path: Path) -> None:
    stream = LocalStream(tmp_path, LocalStreamSettings())
    stream.append("items", 0, [b'{"item": "i9"}'], NOW_MS)
    intake = Intake(stream, IntakeSettings(topics=("items",), idle_ms=0), ActionTypes())
    assert intake.block(10, wait_seconds=0) is not None
    assert intake.largest_ms == {"items:0": NOW_MS}
    stream.close()


@pytest.mark.parametrize("item", [7, -3, "7", "i9", "é", '"', "a b", 2**62])
def test_a_tombstone_s_key_names_its_item(item: int | str) -> None:
    key = item_key(item)
    assert of_tombstone(key) == Item(item=item, deleted=True)
    assert Record(3, NOW_MS, b"", key).key == key


def test_a_key_of_plain_text_names_an_item_too() -> None:
    assert of_tombstone(b"i9").item == "i9"
    assert of_tombstone(b"7").item == 7
    with pytest.raises(ItemError, match="is empty"):
        of_tombstone(b"")
    with pytest.raises(ItemError, match="lone surrogate"):
        of_tombstone(b"\xff\xfe")


def test_seven_and_its_text_have_two_keys_and_partitions_are_kafka_s() -> None:
    assert item_key(7) != item_key("7")
    assert partition_of_key(b"i9", 1) == 0
    assert 0 <= partition_of_key(item_key("i9"), 8) < 8


def test_items_travel_without_what_they_do_not_say() -> None:
    assert msgspec.json.encode(Item(item="i9", at=1.0)) == b'{"item":"i9","at":1.0}'


def test_a_good_item_passes() -> None:
    check_item(Item(item="i9", categories=["é" * 64], features={"empty": "", "on": True}))
