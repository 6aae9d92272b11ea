"""The histories in Redis are those that one process would hold, whatever happens on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.actions import Action, key_of
from service.histories.local import Events, LocalHistories
from service.histories.redis.store import HistoryStore
from service.histories.segments import Segment
from service.redis.connection import RedisAway
from service.versions.decisions import Erase
from tests.serving.conftest import Publisher
from tests.stack.followed import DAY, START, Followed, random_actions, same, until
from tests.stack.redises import RedisServer

pytestmark = pytest.mark.stack

USERS = [f"u{number}" for number in range(30)]

Follow = Callable[..., Followed]


@pytest.fixture
def follow(tmp_path: Path, redis_server: RedisServer) -> Iterator[Follow]:
    """A stream and a prefix; the same folder is the same stream."""
    made: list[Followed] = []

    def start(folder: str = "data", server: RedisServer = redis_server, **more: Any) -> Followed:
        followed = Followed(tmp_path / folder, server, **more)
        made.append(followed)
        return followed

    yield start
    for followed in made:
        followed.close()


def assert_equal_to_local(followed: Followed) -> None:
    histories, watermark_ms = followed.local()
    held = 0
    for user in USERS:
        for now_ms in (0, watermark_ms):
            key = np.array([key_of(user)])
            expected = histories.read(key, followed.rules.histories.capacity, now_ms)
            assert same(followed.history(user, now_ms), expected)
            held += int(expected.count_B[0])
    assert held > 200


@pytest.mark.parametrize("seed", range(3))
def test_values_are_what_local_histories_would_read(follow, seed):
    followed = follow()
    followed.append(random_actions(seed, 4000, late_days=2.0))
    followed.write()
    assert_equal_to_local(followed)
    counted = {o: followed.read("history_events_total", outcome=o) for o in ("kept", "duplicate")}
    assert sum(counted.values()) == 4000
    assert min(counted.values()) > 30


def test_the_same_records_again_change_nothing(follow):
    followed = follow()
    followed.append(random_actions(1, 2000))
    followed.write()
    before, topic_id = followed.values(), followed.stream.topic_id("actions")
    # A writer that died before it could say how far it was: everything is read again.
    followed.client.hset(
        f"freshet:progress:{topic_id}", mapping={f"offset:{p}": 0 for p in range(3)}
    )
    followed.write()
    assert followed.values() == before
    assert followed.read("history_events_total", outcome="known") == 2000


def halves(seed: int) -> tuple[list[Action], list[Action]]:
    """One story in two parts."""
    actions = random_actions(seed, 2000)
    return actions[:1000], actions[1000:]


class Dying(HistoryStore):
    """Fails at one of its calls: before it, after it, or in the middle of a batch of values."""

    def __init__(self, followed: Followed, call: int, how: str) -> None:
        super().__init__(followed.client, followed.rules.redis.prefix, followed.rules.histories)
        self.left, self.how = call, how

    def swap(self, users, old, new):
        if self.how == "middle" and self.left == 1:
            half = len(users) // 2
            super().swap(users[:half], old[:half], new[:half])
        return self._dying(super().swap, users, old, new)

    def read(self, users):
        return self._dying(super().read, users)

    def advance(self, topic_id, progress):
        return self._dying(super().advance, topic_id, progress)

    def begin(self, topic_id, progress):
        return self._dying(super().begin, topic_id, progress)

    def _dying(self, call, *arguments):
        self.left -= 1
        if self.left == 0 and self.how != "after":
            raise RedisAway(f"died {self.how}")
        answer = call(*arguments)
        if self.left == 0:
            raise RedisAway("died after")
        return answer


@pytest.mark.parametrize("how", ["before", "middle", "after"])
def test_a_failure_at_any_step_loses_nothing_and_counts_nothing_twice(follow, how):
    whole = follow(prefix="whole:")
    whole.append(random_actions(2, 1500))
    whole.write()
    expected = list(whole.values().values())
    for call in range(1, 20):
        prefix = f"{how}{call}:"
        followed = follow(prefix=prefix)
        store = Dying(followed, call, how)
        with followed.running(store):
            followed.until_written()
        assert list(followed.values().values()) == expected
        assert followed.read("history_failures_total", what="redis") == (store.left <= 0)


def test_two_writers_at_once_end_with_what_one_would_have_written(follow):
    one = follow(prefix="one:")
    one.append(random_actions(3, 6000))
    one.write()
    first, second = follow(prefix="two:", write_records=64), follow(prefix="two:")
    with first.running(), second.running():
        first.until_written()
    _, watermark_ms = one.local()
    found, expected = living(first, watermark_ms), living(one, watermark_ms)
    assert found == expected
    assert len(found) > 5


def living(followed: Followed, watermark_ms: int) -> dict[str, bytes | None]:
    """Values of users whose time is not over. What lies under the others' keys depends on where
    blocks ended, and nobody can read it."""
    return {
        user: followed.value(user)
        for user in USERS
        if followed.history(user, watermark_ms).count_B[0]
    }


def segment_of(items_by_user: dict[str, list[int]], at: float = START) -> Segment:
    rows = [
        (key_of(user), item, round(at * 1000) + n, n)
        for user, items in items_by_user.items()
        for n, item in enumerate(items)
    ]
    user_T, item_T, at_ms_T, ordinal_T = (np.array(column) for column in zip(*rows, strict=True))
    zero_T = np.zeros(len(rows), np.int64)
    return Segment(
        Events(user_T, item_T, zero_T, at_ms_T, zero_T), ordinal_T, np.zeros(0, np.int64)
    )


def publish_after(followed: Followed, history: Segment, number: int = 1, **more: Any) -> None:
    """A version that ends at the end of the log."""
    topic_ids = {"actions": followed.stream.topic_id("actions")}
    offsets = {"actions": {str(p): end for p, end in followed.ends.items()}}
    publish = Publisher(followed.data)
    given = {"offsets": offsets, "topic_ids": topic_ids, **more}
    publish(number, history=history, **given)


def version_of_the_log(followed: Followed, number: int = 1) -> None:
    """A version that learned the whole log, as the trainer would write it."""
    histories, _ = followed.local()
    events, ordinals = [], []
    for user in USERS:
        read = histories.read(np.array([key_of(user)]), 64)
        count = len(read.item_T)
        events.append(
            np.stack([np.full(count, key_of(user)), read.item_T, read.action_T, read.at_ms_T])
        )
        ordinals.append(read.count_B[0] - count + np.arange(count))
    columns = np.concatenate(events, axis=1)
    made = Events(*columns, np.zeros(columns.shape[1], np.int64))
    segment = Segment(made, np.concatenate(ordinals), np.zeros(0, np.int64))
    publish_after(followed, segment, number)


def test_an_empty_redis_is_seeded_from_the_newest_version(follow):
    followed = follow()
    actions = [a for a in random_actions(4, 3000) if a.id is None]
    followed.append(actions[:1000])
    version_of_the_log(followed)
    followed.append(actions[1000:])
    followed.write()
    assert_equal_to_local(followed)
    assert followed.read("history_seeded_total") == 30
    assert followed.read("history_records_total") == len(actions) - 1000


def test_who_died_while_seeding_leaves_nothing_old_behind(follow):
    followed = follow()
    publish_after(followed, segment_of({"u1": [1, 2], "u2": [3]}))
    followed.write()
    # As if the process had died before it said that all were seeded; the trainer went on.
    followed.client.delete(f"freshet:progress:{followed.stream.topic_id('actions')}")
    publish_after(followed, segment_of({"u1": [1, 2, 7], "u2": [3]}), 2)
    followed.write()
    assert followed.items("u1") == [1, 2, 7]


def test_values_that_go_further_than_the_version_are_not_replaced(follow):
    followed = follow()
    followed.append(random_actions(5, 500))
    version_of_the_log(followed)
    followed.append(random_actions(6, 500))
    followed.write()
    before = followed.values()
    followed.client.delete(f"freshet:progress:{followed.stream.topic_id('actions')}")
    followed.write()
    assert followed.values() == before
    assert followed.read("history_events_total", outcome="known") > 400


def test_a_version_of_another_log_is_better_than_nothing(follow):
    followed = follow()
    followed.append(random_actions(7, 300, users=3))
    publish_after(followed, segment_of({"other": [5]}), topic_ids={"actions": "another"})
    followed.write()
    assert followed.items("other") == [5]
    assert len(followed.items("u0")) > 10


def test_a_redis_that_is_emptied_is_filled_again(follow):
    followed = follow()
    first, then = halves(8)
    followed.append(first)
    with followed.running():
        followed.until_written()
        before = followed.values()
        followed.client.flushall()
        until(lambda: followed.progress is not None)
        followed.until_written()
        assert list(followed.values().values()) == list(before.values())
        followed.append(then)
        followed.until_written()
    assert_equal_to_local(followed)
    assert followed.read("history_failures_total", what="contents") == 1


def test_a_redis_that_came_back_from_an_older_copy_is_caught_up(follow, own_redis):
    server = own_redis()
    followed = follow(server=server)
    first, then = halves(10)
    followed.append(first)
    with followed.running():
        followed.until_written()
        older = {key: followed.client.dump(key) for key in followed.client.keys("*")}
        followed.append(then)
        followed.until_written()
        pipeline = followed.client.pipeline(transaction=True)
        pipeline.flushall()
        for key, dumped in older.items():
            pipeline.restore(key, 0, dumped)
        pipeline.execute()
        until(lambda: followed.read("history_failures_total", what="contents") == 1)
        followed.until_written()
    assert_equal_to_local(followed)


def test_a_redis_that_dies_is_waited_for(follow, own_redis):
    server = own_redis(persistent=True)
    followed = follow(server=server)
    first, then = halves(12)
    with followed.running():
        followed.append(first)
        followed.until_written()
        server.kill()
        followed.append(then)
        until(lambda: followed.read("history_failures_total", what="redis"))
        assert followed.read("redis_up") == 0
        server.start()
        followed.until_written()
    assert_equal_to_local(followed)
    assert followed.read("redis_up") == 1


def test_new_partitions_are_followed_from_their_first_record(follow):
    followed = follow(partitions=2)
    followed.append(random_actions(14, 1000))
    followed.write()
    # The log as if it had got a third partition after that: the same records, and new ones.
    topic_id = followed.stream.topic_id("actions")
    followed.client.hdel(f"freshet:progress:{topic_id}", "offset:1")
    followed.write()
    assert_equal_to_local(followed)


def test_an_erased_user_is_forgotten_and_old_actions_stay_out(follow):
    followed = follow()
    followed.append([a for a in random_actions(15, 900) if a.user in ("u0", "u1", "u2")])
    with followed.running():
        followed.until_written()
        assert len(followed.items("u0")) > 10
        before = followed.value("u1")
        middle = followed.history("u2").at_ms_T[-3]
        for user, until_ms in (("u0", 2**50), ("u2", int(middle)), ("nobody", 2**50)):
            decision = Erase(user=key_of(user), before_ms=until_ms, at=START)
            number = followed.directory.decide(decision)
        until(lambda: followed.progress.obeyed == number)
        assert followed.value("u0") is None
        assert followed.value("u1") == before
        assert followed.history("u2").count_B.tolist() == [2]
        again = [a for a in random_actions(15, 900) if a.user == "u0"]
        followed.append(again)
        followed.until_written()
        assert followed.value("u0") is None
    assert followed.read("history_events_total", outcome="erased") == len(again)


def test_what_a_version_still_holds_of_an_erased_user_is_not_seeded(follow):
    followed = follow()
    publish_after(followed, segment_of({"gone": [1, 2], "here": [3]}))
    followed.directory.decide(Erase(user=key_of("gone"), before_ms=2**50, at=START))
    followed.write()
    assert followed.value("gone") is None
    assert followed.items("here") == [3]


def test_redis_forgets_a_value_that_nobody_writes_after_the_time_to_live(follow):
    followed = follow()
    followed.append(random_actions(16, 10))
    followed.write()
    left_ms = [followed.client.pttl(key) for key in followed.client.keys("freshet:h:*")]
    assert left_ms
    assert all(3 * DAY * 1000 - 60_000 < left <= 3 * DAY * 1000 for left in left_ms)
    assert followed.client.ttl(followed.client.keys("freshet:progress:*")[0]) == -1


def test_a_value_never_exceeds_the_cap(follow):
    followed = follow()
    followed.append(random_actions(17, 3000, users=1))
    followed.write()
    assert len(followed.items("u0")) == 64
    assert len(followed.value("u0")) == 8 * (5 + 64 + 2 * 64)


def test_a_damaged_value_begins_anew_and_stops_nobody(follow):
    followed = follow()
    followed.append(random_actions(18, 200, users=2))
    followed.write()
    followed.client.set(f"freshet:h:{key_of('u0')}", b"nonsense")
    more = random_actions(19, 200, users=2)
    followed.append(more)
    followed.write()
    assert followed.read("history_damaged_total") == 1
    kept = followed.history("u0")
    assert kept.count_B[0] <= len([a for a in more if a.user == "u0"])


def test_a_log_that_cannot_be_read_is_waited_for(follow):
    followed = follow()
    followed.append(random_actions(20, 200))
    followed.stream.close()
    with followed.running():
        until(lambda: followed.read("history_failures_total", what="stream") > 2)


def test_seeding_a_large_version_is_one_pass(follow):
    followed = follow()
    items = {f"s{n}": [n, n + 1] for n in range(5000)}
    publish_after(followed, segment_of(items))
    followed.write()
    assert followed.read("history_seeded_total") == 5000
    assert followed.items("s4321") == [4321, 4322]
    assert isinstance(followed.local()[0], LocalHistories)
