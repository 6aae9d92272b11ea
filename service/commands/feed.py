"""A simulated product with a known truth: what `freshet demo` learns from.

Items belong to topics. A user stays with a topic for a while; the next item is one of the four
followers of the last one, or else a popular item of the topic. Every `turn_every` actions tastes
turn: other topics become hot, the order inside each topic changes, and each topic replaces an item
by a new one. So popularity alone is a poor guess and an old model goes stale, while the order of
a user's last actions says most of what comes next. Everything follows from the seed and the number
of actions drawn, never from a clock.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOPICS = (
    "jazz", "chess", "bread", "kites", "ferns", "maps", "tides", "stars", "clay", "tea",
    "wool", "rails", "birds", "ropes", "stone", "film", "bikes", "glass", "honey", "radio",
)  # fmt: skip
FOLLOWER_SHARES = (0.4, 0.3, 0.2, 0.1)
BY_FOLLOWER = np.cumsum(FOLLOWER_SHARES)
FOLLOW_SHARE = 0.7
STAY_SHARE = 0.95
CLICK_SHARES = {"follower": 0.6, "topic": 0.15, "other": 0.02}
"""How likely a shown item is clicked: it follows the last one, is of the topic, or neither."""


@dataclass(frozen=True)
class WorldSettings:
    """How large the world is and how fast its tastes turn.

    `visitors` are users beside the others: `draw` leaves them to whoever shows them lists.
    """

    seed: int = 0
    users: int = 2_000
    visitors: int = 40
    items_per_topic: int = 20
    turn_every: int = 20_000


class World:
    """Users with a topic and a last item, items with followers, tastes that turn."""

    def __init__(self, settings: WorldSettings | None = None) -> None:
        self.settings = settings or WorldSettings()
        self.drawn = 0
        self._rng = np.random.default_rng(self.settings.seed)
        self._made = dict.fromkeys(TOPICS, 0)
        self._items = {topic: [self._new_item(topic) for _ in self._ranks] for topic in TOPICS}
        self._followers: dict[str, list[str]] = {}
        self._hot = self._shares(len(TOPICS))
        self._by_rank = np.cumsum(self._shares(self.settings.items_per_topic))
        for topic in TOPICS:
            self._link(topic)
        everyone = self.settings.users + self.settings.visitors
        self._topic_of_user = self._rng.choice(len(TOPICS), everyone, p=self._hot)
        self._last: dict[int, str] = {}

    def draw(self, count: int) -> list[tuple[str, str]]:
        """The next `count` actions as (user, item), in order."""
        users = self._rng.integers(self.settings.users, size=count).tolist()
        chances = self._rng.random((count, 3)).tolist()
        return [self._act(user, *chance) for user, chance in zip(users, chances, strict=True)]

    def visitor(self) -> str:
        """A random visitor: someone to show a list to."""
        return f"u{self.settings.users + int(self._rng.integers(self.settings.visitors))}"

    def act(self, user: str) -> str:
        """What `user` does next of their own accord."""
        return self._act(int(user[1:]), *self._rng.random(3).tolist())[1]

    def click(self, user: str, shown: list[str]) -> str | None:
        """What `user` clicks in a list that was shown, or None; a click moves the user on."""
        for item, chance in zip(shown, self._rng.random(len(shown)).tolist(), strict=True):
            if chance < CLICK_SHARES[self.liking(user, item)]:
                self.moved(user, item)
                return item
        return None

    def liking(self, user: str, item: str) -> str:
        """The truth about a shown item: `follower` of the user's last item, `topic` or `other`."""
        number = int(user[1:])
        if item in self._followers.get(self._last.get(number, ""), ()):
            return "follower"
        return "topic" if topic_of(item) == TOPICS[self._topic_of_user[number]] else "other"

    def moved(self, user: str, item: str) -> None:
        """`user` acted on `item`: it is their last one, its topic their topic."""
        number = int(user[1:])
        self._last[number] = item
        self._topic_of_user[number] = TOPICS.index(topic_of(item))

    def surprise(self, user: str) -> str:
        """A current item of a topic that is not the user's."""
        topic = (int(self._topic_of_user[int(user[1:])]) + len(TOPICS) // 2) % len(TOPICS)
        return self._items[TOPICS[topic]][0]

    def _act(self, user: int, stay: float, follow: float, rank: float) -> tuple[str, str]:
        if self.drawn and self.drawn % self.settings.turn_every == 0:
            self._turn()
        self.drawn += 1
        if stay > STAY_SHARE:
            self._topic_of_user[user] = self._rng.choice(len(TOPICS), p=self._hot)
            self._last.pop(user, None)
        followers = self._followers.get(self._last.get(user, ""), [])
        if followers and follow < FOLLOW_SHARE:
            item = followers[_pick(BY_FOLLOWER, rank)]
        else:
            topic = TOPICS[self._topic_of_user[user]]
            item = self._items[topic][_pick(self._by_rank, rank)]
        self.moved(f"u{user}", item)
        return f"u{user}", item

    def _turn(self) -> None:
        self._hot = np.roll(self._hot, 3)
        for topic in TOPICS:
            items = self._items[topic]
            gone = items.pop(int(self._rng.integers(len(items))))
            del self._followers[gone]
            items.insert(0, self._new_item(topic))
            self._rng.shuffle(items)
            self._link(topic)

    def _link(self, topic: str) -> None:
        """Give every item four followers of its topic; only those that lack some change."""
        items = self._items[topic]
        for item in items:
            kept = [follower for follower in self._followers.get(item, []) if follower in items]
            others = [other for other in items if other not in (item, *kept)]
            missing = len(FOLLOWER_SHARES) - len(kept)
            self._followers[item] = [
                *kept, *self._rng.choice(others, missing, replace=False).tolist()
            ]  # fmt: skip

    def _new_item(self, topic: str) -> str:
        self._made[topic] += 1
        return f"{topic}-{self._made[topic]}"

    @property
    def _ranks(self) -> range:
        return range(self.settings.items_per_topic)

    @staticmethod
    def _shares(count: int) -> npt.NDArray[np.float64]:
        """Zipf shares: the first of `count` is the most popular."""
        weights = 1.0 / np.arange(1, count + 1)
        shares: npt.NDArray[np.float64] = weights / weights.sum()
        return shares


def topic_of(item: str) -> str:
    """The topic in an item's name."""
    return item.rsplit("-", 1)[0]


def _pick(cumulated: npt.NDArray[np.float64], chance: float) -> int:
    return min(int(np.searchsorted(cumulated, chance)), len(cumulated) - 1)
