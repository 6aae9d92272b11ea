"""A whole stack under a modest load while one part of it after another dies and comes back."""

import gc
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks.stack import accounts
from benchmarks.stack.plan import Plan
from benchmarks.stack.processes import OWN, Shape, Site, started
from benchmarks.stack.run import learned
from benchmarks.stack.sent import REQUEST, UNANSWERED, Sent, column
from service.commands.processes import Child
from service.errors import StreamError
from service.streams.kafka.settings import KafkaSettings

pytestmark = [
    pytest.mark.stack,
    # kafka-python leaves the sockets of connections that failed to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLAN = Plan(
    ports=[], seconds=600, actions_per_second=150, rankings_per_second=15, probes_per_second=0,
    users=2_000, items=1_000, candidates=64, shown=10, body=10, direct=0.3,
)  # fmt: skip
DEAD_SECONDS = 3.0
NO_BROKER_SECONDS = KafkaSettings().append_timeout_seconds + 3.0
"""Longer than an append waits for its acknowledgement."""
CALM_SECONDS = 3.0
BETWEEN_SECONDS = 1.0
SLOW_SECONDS = 10.0
"""No ranking takes so long, whatever is away; two cores run all of this."""
PATIENCE_SECONDS = 90.0


@pytest.fixture(autouse=True)
def _sockets_collected() -> Iterator[None]:
    """Here, and not in whatever test runs later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Story:
    """What happened when: stretches of monotonic time by name."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site, self._stack = site, stack
        self.times: dict[str, tuple[float, float]] = {}

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A stretch with a name; what was due right before it belongs to none."""
        time.sleep(BETWEEN_SECONDS)
        began = time.monotonic()
        yield
        self.times[name] = began, time.monotonic()

    def kill(self, child: Child) -> None:
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(DEAD_SECONDS)

    def start(self, child: Child) -> Child:
        return self._stack.enter_context(child)

    def statuses(self, rows: list[tuple[float, ...]], name: str) -> Counter[int]:
        """How what was due in that stretch was answered: 0 is not at all."""
        began, ended = self.times[name]
        due, status = column(rows, REQUEST, "due"), column(rows, REQUEST, "status")
        return Counter(int(one) for one in status[(due >= began) & (due <= ended)])


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


def test_nothing_is_lost_or_learned_twice_whatever_dies() -> None:
    shape = Shape(servers=2, kafka=OWN, redis=True)
    with started(PLAN, shape, past=3_000) as (site, plan), ExitStack() as stack:
        begun, before, story = accounts.ends(site.stream), learned(site), Story(site, stack)
        with site.load(plan, "faults") as load:
            until(lambda: _grown(site, begun), "the load's first action in the log")
            with story.during("calm"):
                time.sleep(CALM_SECONDS)
            with story.during("no trainer"):
                _trainer_dies(story)
            with story.during("one server"):
                story.kill(site.servers[0])
            with story.during("a server starts"):
                _server_starts(story)
            with story.during("no redis"):
                _redis_dies(story)
            with story.during("no broker"):
                _broker_dies(story)
            with story.during("calm again"):
                time.sleep(CALM_SECONDS)
            sent = load.finish()
        until(lambda: site.drained, "a version that has learned everything")
        site.look()
        _check_answers(story, sent)
        _check_accounts(site, begun, before, sent)


def _trainer_dies(story: Story) -> None:
    """Killed at any instant; another one goes on from the newest version."""
    site = story.site
    story.kill(site.trainer)
    newest = site.folder.newest_manifest()
    assert newest is not None
    site.trainer = story.start(site.folder.trainer(site.trainer.port))
    until(lambda: (site.folder.newest_manifest() or {})["number"] > newest["number"], "a version")


def _server_starts(story: Story) -> None:
    site = story.site
    site.servers[0] = story.start(site.folder.server(site.servers[0].port))
    with site.client(0) as client:
        until(client.ready, "the server that was started again to be ready")


def _redis_dies(story: Story) -> None:
    """With all it knew; the writer of histories fills it again."""
    redis = story.site.redis
    assert redis is not None
    redis.kill()
    time.sleep(DEAD_SECONDS)
    redis.start()
    with redis.client() as client:
        until(lambda: client.dbsize() > 100, "histories in the new Redis")


def _broker_dies(story: Story) -> None:
    """No action is taken meanwhile, and every one of them is sent again."""
    broker, site = story.site.broker, story.site
    assert broker is not None
    ends = accounts.ends(site.stream)
    broker.kill()
    time.sleep(NO_BROKER_SECONDS)
    broker.start()
    until(lambda: _grown(site, ends), "an action in the log again")


def _grown(site: Site, ends: dict[str, list[int]]) -> bool:
    try:
        return sum(accounts.ends(site.stream)["actions"]) > sum(ends["actions"])
    except StreamError:
        return False


def _check_answers(story: Story, sent: Sent) -> None:
    """Rankings go on whatever is away; only a killed server does not answer. Actions wait for the
    log, and for nothing else."""
    for name in ("calm", "no trainer", "no redis", "calm again"):
        assert set(story.statuses(sent.posts, name)) == {202}, name
    for name in ("calm", "no trainer", "no redis", "no broker", "calm again"):
        assert set(story.statuses(sent.rankings, name)) == {200}, name
    for rows, good in ((sent.rankings, 200), (sent.posts, 202)):
        answers = story.statuses(rows, "one server")
        assert set(answers) == {good, UNANSWERED}
        assert answers[good] >= 0.4 * answers.total()
        assert story.statuses(rows, "a server starts")[good] >= 0.4 * answers.total()
    assert set(story.statuses(sent.posts, "no broker")) == {202, 503}
    answered = [row for row in sent.rankings if row[REQUEST.index("status")] == 200]
    assert column(answered, REQUEST, "seconds").max() < SLOW_SECONDS


def _check_accounts(
    site: Site, begun: dict[str, list[int]], before: dict[str, float], sent: Sent
) -> None:
    """Every action is taken in the end, and counted once, however often it was sent."""
    assert all(sent.accepted)
    assert not sent.refused
    found = accounts.kept(site.stream, begun, sent)
    assert (found.missing, found.strangers, found.double_impressions) == (0, 0, 0)
    assert found.impressions <= sent.ranked
    accounts.check_learned(found, before, learned(site))
