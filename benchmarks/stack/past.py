"""What happened before the run: a log from which a first version can be learned."""

import time
from random import Random

from benchmarks.stack.plan import Plan
from benchmarks.stack.world import World
from service.actions import Action, Impression
from service.streams import Stream
from serving.batches import append_by_user

SPAN_SECONDS = 1_800.0
"""Less than what the gate looks back for: it judges, but what is older than the run is little."""
JOINED_SECONDS = 120.0
"""Ago, it ends: so long that its impressions are joined by then."""
LIST_EVERY = 20
"""One action in so many follows a list that was shown."""
CHUNK = 2_000


def append_past(stream: Stream, plan: Plan, actions: int) -> None:
    """Append `actions` actions of the plan's users; they arrive now, long after they happened."""
    world, rng = World(plan.users, plan.items, plan.seed + 1), Random(plan.seed + 1)
    start = time.time() - SPAN_SECONDS - JOINED_SECONDS
    for first in range(0, actions, CHUNK):
        shown: list[Impression] = []
        acted: list[Action] = []
        for number in range(first, min(first + CHUNK, actions)):
            at, (user, item) = start + number * SPAN_SECONDS / actions, world.act()
            request = f"past-{number}" if number % LIST_EVERY == 0 else None
            if request:
                items = [
                    item,
                    *(f"item-{n}" for n in rng.sample(range(plan.items), plan.shown - 1)),
                ]
                shown.append(Impression(request=request, user=user, at=at - 1, items=list(items)))
            acted.append(Action(user=user, item=item, action="click", at=at, request=request))
        append_by_user(stream, "impressions", shown)
        append_by_user(stream, "actions", acted)
