"""How soon an action changes what is ranked: through the history, and through the weights.

`history_seconds`: from sending POST /v1/actions to the end of the first ranking that differs, no
trainer running. `weights_seconds`: from sending it to the server answering with a version whose
offsets cover the action, a trainer learning from a steady feed beside it.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from benchmarks import live, report
from benchmarks.live import WATCHED, Live
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.visits import ITEMS
from service.client import Client
from service.streams import LocalStream
from service.versions import VersionDirectory

CANDIDATES = 50
TOO_LONG_SECONDS = 60.0
RANK_AT = 4_000_000_000.0
"""One fixed time, so that only an action can change a ranking, not the clock."""


def main() -> int:
    """The command `python -m benchmarks.freshness`."""
    options = report.parser(__doc__)
    options.add_argument("--actions", type=int, help="actions per run (100; quick: 40)")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--feed", type=int, default=500, help="actions/s that the trainer learns")
    options.add_argument("--without-trainer", action="store_true", help="history_seconds only")
    options.parse_args()  # help and mistakes before the work
    with live.learned() as folder, live.served(folder) as site:

        def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
            return _measure(site, chosen)

        return report.run(options, lambda _: check(site), measure)


def check(site: Live) -> None:
    """Without an action nothing changes; an action changes its own user's ranking only."""
    with live.client(site) as client:
        question, other = Question(client, WATCHED[0]), Question(client, WATCHED[1])
        before, untouched = question.scores(), other.scores()
        if question.scores() != before:
            raise CheckFailed("a ranking changed without an action")
        seconds_until(lambda: question.scores() != before, question.act)
        if other.scores() != untouched:
            raise CheckFailed("an action changed another user's ranking")


class Question:
    """A fixed ranking of one user, and an action that must change it."""

    def __init__(self, client: Client, user: str) -> None:
        self._client, self._user = client, user
        self._rng = random.Random(user)
        self._items = self._rng.sample(ITEMS, CANDIDATES)

    def scores(self) -> dict[str, float]:
        """The score of every candidate."""
        answer = self._client.rank(self._user, self._items, at=RANK_AT)
        return {scored["item"]: scored["score"] for scored in answer["items"]}

    def act(self) -> None:
        """Click on something."""
        item = self._rng.choice(ITEMS)
        self._client.act([{"user": self._user, "item": item, "action": "click"}])


def seconds_until(holds: Callable[[], bool], act: Callable[[], None]) -> float:
    """Seconds from calling `act` until `holds`. Raises CheckFailed when it takes too long."""
    started = time.perf_counter()
    act()
    while not holds():
        if time.perf_counter() - started > TOO_LONG_SECONDS:
            raise CheckFailed(f"an action changed nothing within {TOO_LONG_SECONDS} s")
    return time.perf_counter() - started


def _measure(site: Live, chosen: argparse.Namespace) -> Iterator[Figure]:
    count = chosen.actions or (40 if chosen.quick else 100)
    with live.client(site) as client:
        runs = [_through_history(client, count, run) for run in range(chosen.runs)]
        yield from _quantiles("freshness.history_seconds", runs, trainer="none")
        if chosen.without_trainer:
            return
        progress("starting a trainer")
        with live.training(site.folder, chosen.feed):
            time.sleep(live.SETTLE_SECONDS)
            actions = 4 if chosen.quick else 20
            weights = [_through_weights(site, client, actions)]
            yield from _quantiles("freshness.weights_seconds", weights, feed_per_second=chosen.feed)


def _through_history(client: Client, count: int, run: int) -> list[float]:
    rng, times = random.Random(run), []
    for _ in range(count):
        question = Question(client, rng.choice(WATCHED))
        before = question.scores()
        # Not in step with the server's clock of polls.
        time.sleep(rng.random() * 0.02)
        times.append(seconds_until(lambda: question.scores() != before, question.act))  # noqa: B023
    return times


def _through_weights(site: Live, client: Client, count: int) -> list[float]:
    rng, times = random.Random(0), []
    directory = VersionDirectory(site.folder.root / "versions")
    with closing(LocalStream(site.folder.stream)) as stream:
        for _ in range(count):
            time.sleep(rng.random() * 2)
            offset: list[int] = []

            def act() -> None:
                client.act([{"user": "fresh", "item": rng.choice(ITEMS), "action": "click"}])
                offset.append(stream.bounds("actions", 0)[1])  # noqa: B023

            def learned() -> bool:
                time.sleep(0.02)
                served = client.versions()["served"]["number"]
                end = directory.manifest(served).offsets["actions"]["0"]
                return end >= offset[0]  # noqa: B023

            times.append(seconds_until(learned, act))
            progress(f"learned and served after {times[-1]:.2f} s")
    return times


def _quantiles(figure: str, runs: list[list[float]], **settings: object) -> Iterator[Figure]:
    samples = sum(map(len, runs))
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        values = [float(np.quantile(times, share)) for times in runs]
        yield Figure.of(figure, "s", values, quantile=name, actions=samples, **settings)


if __name__ == "__main__":
    raise SystemExit(main())
