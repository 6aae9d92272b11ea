"""A made-up product's log: who clicks what, now and then on a list that was shown."""

import random
from collections.abc import Sequence

import msgspec

from service.actions import Action, Id, Impression
from service.streams import LocalStream

ITEMS = [f"item-{number}" for number in range(10_000)]
SHOWN_EVERY = 4
"""One action in so many follows an impression: enough for the action head to be on."""
SHOWN_ITEMS = 5

_encode = msgspec.json.Encoder().encode


def visit(rng: random.Random, user: Id, at: float) -> list[Action | Impression]:
    """One click, and the list that it was on where there was one."""
    if rng.random() * SHOWN_EVERY >= 1:
        return [Action(user=user, item=rng.choice(ITEMS), action="click", at=at)]
    request, items = f"r-{rng.getrandbits(48):x}", rng.sample(ITEMS, SHOWN_ITEMS)
    shown = Impression(request=request, user=user, at=at - 1, items=list(items))
    click = Action(user=user, item=items[0], action="click", at=at, request=request)
    return [shown, click]


def append(stream: LocalStream, records: Sequence[Action | Impression]) -> None:
    """Append records as if they had arrived when they happened."""
    for kind, topic in ((Action, "actions"), (Impression, "impressions")):
        chosen = [record for record in records if isinstance(record, kind)]
        if chosen:
            times = [round(record.at * 1000) for record in chosen]
            stream.append(topic, 0, [_encode(record) for record in chosen], times)
