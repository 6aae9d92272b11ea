"""The simulated world: seeded, drifting, and predictable from order rather than popularity."""

from collections import Counter

from service.commands.feed import FOLLOWER_SHARES, TOPICS, World, WorldSettings, topic_of

SMALL = WorldSettings(seed=3, users=300, turn_every=2_000)


def test_the_same_seed_gives_the_same_actions_however_they_are_drawn() -> None:
    once = World(SMALL).draw(6_000)
    world = World(SMALL)
    assert world.draw(6_000) == once
    assert World(WorldSettings(seed=4, users=300)).draw(6_000) != once


def test_tastes_turn_new_items_appear_and_old_ones_leave() -> None:
    world = World(SMALL)
    early = Counter(item for _, item in world.draw(2_000))
    for _ in range(10):
        world.draw(2_000)
    late = Counter(item for _, item in world.draw(2_000))
    top = {item for item, _ in early.most_common(20)}
    assert len(top & {item for item, _ in late.most_common(20)}) < 10
    assert set(late) - set(early)
    assert set(early) - set(late)


def test_the_last_item_says_more_than_popularity() -> None:
    world = World(SMALL)
    seen = world.draw(20_000)
    followed: dict[str, Counter[str]] = {}
    popular: Counter[str] = Counter()
    last: dict[str, str] = {}
    by_order = by_popularity = 0
    for number, (user, item) in enumerate(seen):
        if number > 10_000 and user in last:
            best = followed.get(last[user], Counter()).most_common(10)
            by_order += item in dict(best)
            by_popularity += item in dict(popular.most_common(10))
        if user in last:
            followed.setdefault(last[user], Counter())[item] += 1
        popular[item] += 1
        last[user] = item
    assert by_order > 3 * by_popularity


def test_visitors_are_left_to_the_visits() -> None:
    world = World(SMALL)
    drawn = {user for user, _ in world.draw(5_000)}
    assert world.visitor() not in drawn


def test_a_click_follows_the_truth_and_moves_the_visitor_on() -> None:
    world = World(SMALL)
    clicked: Counter[str] = Counter()
    for _ in range(2_000):
        user = world.visitor()
        last = world.act(user)
        followers = world._followers[last]
        other = world.surprise(user)
        shown = [followers[0], other]
        assert world.liking(user, other) == "other"
        assert world.liking(user, followers[0]) == "follower"
        item = world.click(user, shown)
        if item:
            clicked["other" if item == other else "follower"] += 1
            assert world.surprise(user) != item
    assert 0.5 < clicked["follower"] / 2_000 < 0.7
    assert clicked["other"] < 0.05 * 2_000


def test_every_item_has_four_followers_of_its_own_topic() -> None:
    world = World(SMALL)
    world.draw(10_000)
    assert len(world._followers) == len(TOPICS) * SMALL.items_per_topic
    for item, followers in world._followers.items():
        assert len(set(followers)) == len(FOLLOWER_SHARES)
        assert {topic_of(follower) for follower in followers} == {topic_of(item)}
        assert item not in followers
