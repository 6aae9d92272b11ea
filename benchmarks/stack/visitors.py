"""The users of the load: what they do next, what they are shown, and what they click later."""

import heapq
import time
from random import Random

import msgspec

from benchmarks.stack.plan import Plan
from benchmarks.stack.sent import Sent
from benchmarks.stack.world import World
from service.actions import Action

LISTS = 512
"""Different lists of candidates; each is encoded once."""
THINK_SECONDS = (0.5, 2.0)
"""A click follows its list after so long: at least, and so much more on average."""


class Visitors:
    """A world whose actions carry ids, and whose clicks wait until they are due."""

    def __init__(self, plan: Plan, sent: Sent) -> None:
        self.world = World(plan.users, plan.items, plan.seed)
        self._plan, self._sent, self._rng = plan, sent, Random(plan.seed)
        self._clicks: list[tuple[float, str, str, str]] = []
        """(when it is due, user, item, request), as a heap."""
        lists = (self.world.candidates(plan.candidates) for _ in range(LISTS))
        self._lists = [msgspec.json.encode(items).decode() for items in lists]
        self._probes = 0

    def actions(self, count: int) -> list[Action]:
        """What happens now: clicks that are due, then whatever else users do."""
        now = time.time()
        return [self._clicked(now) or self._action(*self.world.act(), now) for _ in range(count)]

    def probe(self, item: str) -> Action:
        """The first action of somebody new."""
        self._probes += 1
        return self._action(f"probe-{self._plan.seed}-{self._probes}", item, time.time())

    def question(self, user: str) -> bytes:
        """A body that asks for a ranking."""
        items = self._rng.choice(self._lists)
        return f'{{"user":"{user}","items":{items},"n":{self._plan.shown}}}'.encode()

    def shown(self, user: str, items: list[str], request: str) -> None:
        """Somebody saw a list, and clicks after a while."""
        for item in self.world.clicks(user, items):
            think = THINK_SECONDS[0] + self._rng.expovariate(1 / THINK_SECONDS[1])
            heapq.heappush(self._clicks, (time.time() + think, user, item, request))

    def _clicked(self, now: float) -> Action | None:
        if not self._clicks or self._clicks[0][0] > now:
            return None
        _, user, item, request = heapq.heappop(self._clicks)
        return self._action(user, item, now, request)

    def _action(self, user: str, item: str, now: float, request: str | None = None) -> Action:
        identifier = self._sent.new_id()
        return Action(user=user, item=item, action="click", at=now, id=identifier, request=request)
