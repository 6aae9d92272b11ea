"""Every record of a posted batch is judged alone: good ones go in, the others get a reason."""

import json

import pytest

from service.metrics import ServingMetrics
from serving.batches import Rules, read_actions, read_impressions
from serving.guard import Guard, Meter
from serving.keys import anybody
from serving.limits import MAX_BATCH, LimitSettings, Spent
from serving.problems import Problem

NOW = 1_732_096_800.0
RULES = Rules(("click", "hide"), max_future_seconds=300, max_late_seconds=86_400)
GOOD = {"user": "u1", "item": "i9", "action": "click", "at": NOW - 5}


def unlimited() -> Meter:
    limits = LimitSettings()
    spent = Spent.here(limits)
    return Meter(Guard(None, limits, ServingMetrics(), spent), anybody(limits, spent.keys))


def body(*actions: object) -> bytes:
    return json.dumps({"actions": actions}).encode()


def test_good_actions_are_taken_and_bad_ones_reported_by_index():
    batch = read_actions(body(GOOD, {"user": "u1"}, GOOD | {"item": 7}), RULES, NOW, unlimited())
    assert [action.item for action in batch.accepted] == ["i9", 7]
    assert [(r.index, r.field, r.reason) for r in batch.rejected] == [(1, "item", "is missing")]


def test_an_action_without_a_time_happened_now():
    batch = read_actions(body({"user": 1, "item": 2, "action": "hide"}), RULES, NOW, unlimited())
    assert batch.accepted[0].at == NOW


@pytest.mark.parametrize(
    ("changed", "field", "reason"),
    [
        ({"user": ""}, "user", "is empty"),
        ({"user": 1.5}, "user", "Expected int | str, got float"),
        ({"user": True}, "user", "Expected int | str, got bool"),
        ({"item": "é" * 200}, "item", "is longer than 256 bytes"),
        ({"item": 2**63}, "item", "is outside 64 bits"),
        ({"action": "buy"}, "action", "is not one of click, hide"),
        ({"at": -1}, "at", "is not in seconds since the epoch"),
        ({"at": NOW + 301}, "at", "is 301 s in the future; 300 are allowed"),
        ({"at": NOW - 2e5}, "at", "is 200000 s in the past; 86400 are allowed"),
        ({"at": "now"}, "at", "Expected float | null, got str"),
        ({"id": "x" * 300}, "id", "is longer than 256 bytes"),
        ({"request": ""}, "request", "is empty"),
        ({"value": "much"}, "value", "Expected float | null, got str"),
        ({"context": {"device": []}}, "context[...]", "Expected"),
        ({"colour": "red"}, "colour", "is not a known field"),
    ],
)
def test_a_bad_action_names_its_field(changed, field, reason):
    batch = read_actions(body(GOOD | changed), RULES, NOW, unlimited())
    assert not batch.accepted
    assert batch.rejected[0].field == field
    assert batch.rejected[0].reason.startswith(reason)


@pytest.mark.parametrize("element", [b"7", b"null", b"[]", b'"x"', b'{"user": 1e999}'])
def test_an_element_that_is_no_action_spoils_only_itself(element):
    whole = b'{"actions": [%s, %s]}' % (element, json.dumps(GOOD).encode())
    batch = read_actions(whole, RULES, NOW, unlimited())
    assert len(batch.accepted) == len(batch.rejected) == 1


def test_text_that_is_not_utf8_spoils_only_its_element():
    whole = b'{"actions": [{"user": "\xff"}, %s]}' % json.dumps(GOOD).encode()
    assert len(read_actions(whole, RULES, NOW, unlimited()).accepted) == 1


@pytest.mark.parametrize(
    ("whole", "status", "field"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"actions": [NaN]}', 400, None),
        (b'{"actions": %s}' % (b"[" * 100_000), 400, None),
        (b"[]", 422, "actions"),
        (b"{}", 422, "actions"),
        (b'{"actions": []}', 422, "actions"),
        (b'{"actions": 7}', 422, "actions"),
        (b'{"actions": [{}], "more": 1}', 422, "more"),
        (b'{"actions": [%s]}' % b",".join([b"{}"] * (MAX_BATCH + 1)), 422, "actions"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(whole, status, field):
    with pytest.raises(Problem) as caught:
        read_actions(whole, RULES, NOW, unlimited())
    assert (caught.value.status, caught.value.field) == (status, field)


SHOWN = {"request": "r1", "user": "u1", "items": ["a", "b"], "at": NOW}


def test_impressions_keep_every_field():
    full = SHOWN | {
        "positions": [0, 1],
        "propensities": [0.9, 0.1],
        "history": 3,
        "version": 2,
    }
    batch = read_impressions(
        json.dumps({"impressions": [full]}).encode(), RULES, NOW + 1, unlimited()
    )
    assert not batch.rejected
    assert {name: getattr(batch.accepted[0], name) for name in full} == full


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"items": []}, "items"),
        ({"items": ["a"] * 4097}, "items"),
        ({"items": ["a", ""]}, "items[1]"),
        ({"positions": [0]}, "positions"),
        ({"propensities": [0.5]}, "propensities"),
        ({"request": ""}, "request"),
        ({"at": -1}, "at"),
    ],
)
def test_a_bad_impression_names_its_field(changed, field):
    batch = read_impressions(
        json.dumps({"impressions": [SHOWN | changed]}).encode(), RULES, NOW, unlimited()
    )
    assert [refused.field for refused in batch.rejected] == [field]
