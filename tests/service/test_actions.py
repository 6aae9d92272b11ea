import math

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from service.actions import (
    MAX_ID_BYTES,
    RESERVED_KEY,
    Action,
    Impression,
    Rejected,
    id_problem,
    key_of,
    murmur2,
    partition_of,
    stream_key,
    time_problem,
)

ids = st.one_of(st.text(min_size=1, max_size=40), st.integers(-(2**63) + 1, 2**63 - 1))
numbers = st.floats(allow_nan=False, allow_infinity=False)
actions = st.builds(
    Action,
    user=ids,
    item=ids,
    action=st.text(max_size=10),
    at=numbers,
    id=st.none() | st.text(max_size=10),
    request=st.none() | st.text(max_size=10),
    value=st.none() | numbers,
    context=st.none()
    | st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.text(max_size=5)),
)
impressions = st.builds(
    Impression,
    request=st.text(max_size=10),
    user=ids,
    at=numbers,
    items=st.lists(ids, max_size=5),
    positions=st.none() | st.lists(st.integers(0, 100), max_size=5),
    propensities=st.none() | st.lists(numbers, max_size=5),
    history=st.none() | st.integers(0, 1000),
    version=st.none() | st.integers(0, 1000),
)


@given(actions)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_actions_come_back_as_they_were_sent(action: Action) -> None:
    assert msgspec.json.decode(msgspec.json.encode(action), type=Action) == action


@given(impressions)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_impressions_come_back_as_they_were_sent(impression: Impression) -> None:
    assert msgspec.json.decode(msgspec.json.encode(impression), type=Impression) == impression


def test_rejected_records_come_back_as_they_were_sent() -> None:
    rejected = Rejected(topic="actions", partition=1, offset=7, reason="malformed", payload="{")
    assert msgspec.json.decode(msgspec.json.encode(rejected), type=Rejected) == rejected


def test_the_documented_examples_are_read() -> None:
    action = msgspec.json.decode(
        b'{"v":1,"id":"a-81f","user":"u1","item":"i9","action":"click","at":1732096800.123,'
        b'"request":"r-5c1","value":1.0,"context":{"device":"phone"}}',
        type=Action,
    )
    assert (action.user, action.item, action.at) == ("u1", "i9", 1732096800.123)
    impression = msgspec.json.decode(
        b'{"v":1,"request":"r-5c1","user":"u1","at":1732096798.9,"items":["i9","i4"],'
        b'"positions":[0,1],"propensities":[0.9,0.8],"history":37,"version":42}',
        type=Impression,
    )
    assert (impression.items, impression.history) == (["i9", "i4"], 37)


def test_fields_of_a_later_release_are_ignored() -> None:
    action = msgspec.json.decode(
        b'{"v":2,"user":1,"item":2,"action":"click","at":3,"mood":{"deep":[1,2]}}', type=Action
    )
    assert action == Action(user=1, item=2, action="click", at=3.0, v=2)


def test_only_what_was_said_is_sent() -> None:
    sent = msgspec.json.encode(Action(user=1, item="i", action="click", at=3.0))
    assert msgspec.json.decode(sent) == {"user": 1, "item": "i", "action": "click", "at": 3.0}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"user":"u","item":"i","action":"click"}',
        b'{"user":"u","action":"click","at":1}',
        b'{"user":"u","item":"i","action":"click","at":NaN}',
        b'{"user":"u","item":"i","action":"click","at":"1"}',
        b'{"user":1.5,"item":"i","action":"click","at":1}',
        b'{"user":true,"item":"i","action":"click","at":1}',
        b'{"user":"u","item":null,"action":"click","at":1}',
        b'{"user":"u","item":"i","action":1,"at":1}',
        b'{"user":"u","item":"i","action":"click","at":1,"context":{"a":[]}}',
    ],
)
def test_malformed_actions_are_refused(sent: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(sent, type=Action)


def test_bytes_that_are_no_utf8_are_refused_with_an_error_of_their_own() -> None:
    with pytest.raises(UnicodeDecodeError):  # no msgspec.DecodeError: who reads must expect both
        msgspec.json.decode(b'{"user":"\xff","item":"i","action":"click","at":1}', type=Action)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_integers_are_their_own_keys(identifier: int) -> None:
    assert key_of(identifier) == identifier


@given(st.text(max_size=60))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_strings_have_the_signed_xxh3_of_their_utf8(identifier: str) -> None:
    key = key_of(identifier)
    assert key % 2**64 == xxhash.xxh3_64_intdigest(identifier.encode())
    assert RESERVED_KEY < key < 2**63


def test_keys_of_strings_never_change() -> None:
    assert [key_of(text) for text in ("", "u1", "i9")] == KEYS_OF_RELEASE_0_1


@pytest.mark.parametrize("identifier", [RESERVED_KEY, RESERVED_KEY - 1, 2**63, 10**30])
def test_integers_outside_the_keys_are_refused(identifier: int) -> None:
    with pytest.raises(ValueError, match="send it as a string"):
        key_of(identifier)
    assert id_problem(identifier) == "is outside 64 bits"


@pytest.mark.parametrize(
    ("identifier", "problem"),
    [
        (RESERVED_KEY + 1, None),
        (2**63 - 1, None),
        ("u", None),
        ("x" * MAX_ID_BYTES, None),
        ("é" * (MAX_ID_BYTES // 2), None),
        ("", "is empty"),
        ("x" * (MAX_ID_BYTES + 1), "is longer than 256 bytes"),
        ("é" * (MAX_ID_BYTES // 2 + 1), "is longer than 256 bytes"),
        ("x" * 10**6, "is longer than 256 bytes"),
    ],
)
def test_ids_that_cannot_be_used_say_why(identifier: int | str, problem: str | None) -> None:
    assert id_problem(identifier) == problem


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_times_that_are_no_numbers_say_so(at: float) -> None:
    assert time_problem(at) == "is not a finite number"


@pytest.mark.parametrize(
    ("at", "usable"), [(0, True), (1732096800.123, True), (2**40 - 1, True), (-1e-9, False),
                       (2**40, False), (1732096800123, False)]
)  # fmt: skip
def test_times_must_be_seconds_since_the_epoch(at: float, usable: bool) -> None:
    problem = time_problem(at)
    assert (problem is None) == usable
    assert usable or (problem is not None and "seconds since the epoch" in problem)


@given(ids, st.integers(1, 100))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_a_user_has_one_partition(user: int | str, partitions: int) -> None:
    assert 0 <= partition_of(user, partitions) < partitions
    assert partition_of(user, partitions) == partition_of(user, partitions)
    assert partition_of(user, 1) == 0


KAFKA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""What Apache Kafka's own tests expect of its murmur2, as signed 32-bit integers."""


@pytest.mark.parametrize("key", KAFKA_VECTORS)
def test_users_go_where_kafkas_default_partitioner_sends_their_keys(key: bytes) -> None:
    expected = KAFKA_VECTORS[key]
    assert murmur2(key) == expected % 2**32
    assert partition_of(key.decode(), 7) == (expected & 0x7FFFFFFF) % 7


@given(ids)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_the_hash_is_the_kafka_clients(user: int | str) -> None:
    assert murmur2(stream_key(user)) == kafka_murmur2(stream_key(user))


KEYS_OF_RELEASE_0_1 = [3244421341483603138, -7079617629412041231, -6409552224829101354]
