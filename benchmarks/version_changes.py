"""Two hundred version changes under a steady load: errors, mixtures, and what p99 becomes.

Rankings of 512 candidates by 256 events come at random times whatever became of those before (open
loop) from a process of its own, in periods by turns: quiet ones, and ones in which two versions a
second are published: deltas, of which every third brings new dense weights, and now and then a
base, which is loaded whole. Errors are counted. Afterwards every single answer is held against what
the one version that it names says, computed here. Latencies run from when a request was due.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks import live, report
from benchmarks.live import HISTORY, WATCHED, Live
from benchmarks.publishing import BASE_EVERY, DENSE_EVERY, ROWS, Publisher
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.stack.client import Site, Unanswered
from benchmarks.stack.plan import arrivals
from service.actions import Action, key_of
from service.commands.folder import DataFolder
from service.histories.local import Histories
from service.model.ranker import Ranker
from service.streams import LocalStream
from service.versions import Snapshot

CANDIDATES, SHOWN = 512, 20
PER_SECOND = 2.0
"""Versions published in a period that is not quiet."""
PERIOD_SECONDS = 5.0
FEW, MANY = 30, 200
ROUNDING = 1e-4
LATE_SECONDS = 10.0
QUIET, CHANGING = "quiet", "changing"


@dataclass(frozen=True)
class Question:
    """A fixed ranking: each version has one answer to it."""

    user: str
    items: list[str]
    at: float

    def body(self) -> bytes:
        """As it is asked."""
        return json.dumps({**vars(self), "n": SHOWN}).encode()


@dataclass(frozen=True)
class Answer:
    """What came back of a question: seconds since it was due, and the body; no body on failure."""

    question: int
    seconds: float
    status: int
    body: bytes


class _Item(msgspec.Struct):
    item: str
    score: float


class _Ranked(msgspec.Struct):
    version: int
    items: list[_Item]


_decode = msgspec.json.Decoder(_Ranked).decode


def main() -> int:
    """The command `python -m benchmarks.version_changes`."""
    options = report.parser(__doc__)
    options.add_argument("--changes", type=int, help=f"of version ({MANY}; quick: {FEW})")
    options.add_argument("--rate", type=float, default=20.0, help="rankings a second")
    options.parse_args()
    with live.learned() as folder, live.served(folder, dense="fp32") as site:
        truth = Truth(folder)

        def check(_: argparse.Namespace) -> None:
            asked = (Question(user, truth.questions[0].items, time.time()) for user in WATCHED[:2])
            for question in (*truth.questions[:4], *asked):
                status, body = asyncio.run(_asked(site, question))
                truth.check(question, Answer(0, 0.0, status, body))

        def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
            return _measure(site, truth, chosen)

        return report.run(options, check, measure)


class Truth:
    """What every version must answer, by the published files and the log alone; one version at a
    time is kept."""

    def __init__(self, folder: DataFolder) -> None:
        torch.set_num_threads(1)
        rng, at = random.Random(4), time.time()
        self.publisher = Publisher(folder)
        self.questions = [Question(user, live.candidates(rng, CANDIDATES), at) for user in WATCHED]
        self._histories = _histories(folder)
        self._ranker: Ranker | None = None
        self._scores: dict[tuple[int, str, float], dict[str, float]] = {}

    def check(self, question: Question, answer: Answer) -> int:
        """The version that answered. Raises CheckFailed for an error and for any other score."""
        if answer.status != 200:
            raise CheckFailed(f"a ranking was answered with {answer.status}: {answer.body[:200]!r}")
        ranked = _decode(answer.body)
        scores = self._of(ranked.version, question)
        best = sorted(scores.values(), reverse=True)[:SHOWN]
        for one, expected in zip(ranked.items, best, strict=True):
            if max(abs(one.score - expected), abs(one.score - scores[one.item])) > ROUNDING:
                raise CheckFailed(
                    f"version {ranked.version} gives {question.user} {one.item} at "
                    f"{scores[one.item]:.6f}, and its answer says {one.score:.6f}"
                )
        return ranked.version

    def _of(self, number: int, question: Question) -> dict[str, float]:
        known = (number, question.user, question.at)
        if known not in self._scores:
            if self._ranker is None or self._ranker.number != number:
                self._ranker = Ranker(Snapshot.read(self.publisher.directory, number))
                self._scores.clear()
            keys = np.array([key_of(item) for item in question.items])
            found = self._ranker.rank(self._histories[question.user], keys, int(question.at * 1000))
            self._scores[known] = dict(zip(question.items, found.score_C.tolist(), strict=True))
        return self._scores[known]


def _measure(site: Live, truth: Truth, chosen: argparse.Namespace) -> Iterator[Figure]:
    changes = chosen.changes or (FEW if chosen.quick else MANY)
    periods = -(-changes // round(PER_SECOND * PERIOD_SECONDS))
    found: dict[str, list[list[Answer]]] = {QUIET: [], CHANGING: []}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for number in range(-2, 2 * periods):
            kind = (QUIET, CHANGING)[number % 2]
            answers = _period(process, site, truth, chosen.rate, kind == CHANGING, number)
            if number >= 0:  # the first of each warm up
                found[kind].append(answers)
                p99 = 1000 * _quantile(answers, 0.99)
                progress(f"period {number + 1}/{2 * periods}: {kind}, p99 {p99:.1f} ms")
    _until_served(site, truth.publisher.number)
    yield from _figures(found, truth, chosen.rate)


def _period(
    process: Executor, site: Live, truth: Truth, rate: float, changing: bool, number: int
) -> list[Answer]:
    bodies = [question.body() for question in truth.questions]
    load = process.submit(_load, site.port, bodies, rate, f"period-{number}")
    for _ in range(round(PER_SECOND * PERIOD_SECONDS) if changing else 0):
        due = time.monotonic() + 1 / PER_SECOND
        truth.publisher.publish()
        time.sleep(max(0.0, due - time.monotonic()))
    return load.result()


def _load(port: int, bodies: Sequence[bytes], rate: float, seed: str) -> list[Answer]:
    """Of the load's own process."""
    return asyncio.run(_open_loop(port, bodies, rate, seed))


async def _open_loop(port: int, bodies: Sequence[bytes], rate: float, seed: str) -> list[Answer]:
    site, draw, found, running = Site(port), random.Random(seed), [], []

    async def ask(due: float, question: int) -> None:
        try:
            status, body = await site.post("/v1/rank", bodies[question])
        except Unanswered as error:
            status, body = 0, str(error).encode()
        found.append(Answer(question, time.monotonic() - due, status, body))

    start = time.monotonic() + 0.1
    for due in arrivals(rate, start, start + PERIOD_SECONDS, seed):
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        running.append(asyncio.create_task(ask(due, draw.randrange(len(bodies)))))
    await asyncio.gather(*running)
    site.close()
    return found


def _figures(periods: dict[str, list[list[Answer]]], truth: Truth, rate: float) -> Iterator[Figure]:
    """A mixture ends it; errors are counted; latencies of quiet periods and others, and their
    ratio."""
    answers = [one for kind in periods.values() for period in kind for one in period]
    good = sorted((one for one in answers if one.status == 200), key=_version)
    progress(f"holding {len(good):,} answers against their versions")
    versions = {truth.check(truth.questions[one.question], one) for one in good}
    about: dict[str, Any] = {
        "history": HISTORY, "candidates": CANDIDATES, "returned": SHOWN, "rate": rate,
        "versions_per_second": PER_SECOND, "rows_of_a_delta": ROWS, "dense_every": DENSE_EVERY,
        "base_every": BASE_EVERY,
    }  # fmt: skip
    yield Figure.of("version_changes.answers", "", [len(good)], **about)
    yield Figure.of("version_changes.versions_answering", "", [len(versions)], **about)
    for kind, found in periods.items():
        errors = sum(one.status != 200 for period in found for one in period)
        yield Figure.of("version_changes.errors", "", [errors], period=kind, **about)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            values = [_quantile(period, share) for period in found]
            yield Figure.of(f"version_changes.{name}_seconds", "s", values, period=kind, **about)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        quiet, changing = (
            _quantile(list(chain.from_iterable(periods[kind])), share) for kind in (QUIET, CHANGING)
        )
        yield Figure.of(f"version_changes.{name}_over_quiet", "", [changing / quiet], **about)


def _version(answer: Answer) -> int:
    return _decode(answer.body).version


def _quantile(answers: Sequence[Answer], share: float) -> float:
    """Of the seconds of those that were answered."""
    return float(np.quantile([one.seconds for one in answers if one.status == 200], share))


async def _asked(site: Live, question: Question) -> tuple[int, bytes]:
    asking = Site(site.port)
    answer = await asking.post("/v1/rank", question.body())
    asking.close()
    return answer


def _until_served(site: Live, number: int) -> None:
    deadline = time.monotonic() + LATE_SECONDS
    with live.client(site) as client:
        while (said := client.versions())["served"]["number"] != number:
            if time.monotonic() > deadline:
                raise CheckFailed(f"version {number} is not served: {said}")
            time.sleep(0.05)
        if said["refused"]:
            raise CheckFailed(f"versions were refused: {said['refused']}")


def _histories(folder: DataFolder) -> dict[str, Histories]:
    """What the log says of the watched users."""
    actions: dict[str, list[Action]] = {user: [] for user in WATCHED}
    with closing(LocalStream(folder.stream)) as stream:
        start, end = stream.bounds("actions", 0)
        for record in stream.read("actions", 0, start, end - start):
            action = msgspec.json.decode(record.payload, type=Action)
            actions[str(action.user)].append(action)
    return {
        user: Histories(
            np.array([0, len(done)]), np.array([key_of(one.item) for one in done]),
            np.zeros(len(done), np.int64), np.array([round(one.at * 1000) for one in done]),
            np.array([len(done)]),
        )
        for user, done in actions.items()
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
