"""How long a ranking takes over HTTP, and how many a server sustains.

256 events of history, 512 candidates all returned with every head, d=64, 2 layers, one action head
on. This process is the load and nothing else: server, trainer and feed are processes of their own.
`--with-trainer` measures the same beside a trainer that learns from a steady feed.
"""

import argparse
import http.client
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import msgspec
import numpy as np
import torch

from benchmarks import live, report
from benchmarks.live import HISTORY, WATCHED, Live
from benchmarks.report import CheckFailed, Figure
from benchmarks.visits import ITEMS
from service.actions import Impression, key_of
from service.histories.local import Histories
from service.model.ranker import Ranker
from service.streams import LocalStream
from service.versions import Snapshot, VersionDirectory

CANDIDATES = 512
CONNECTIONS = 8
WARM_REQUESTS = 30
SHAPE = {"history": HISTORY, "candidates": CANDIDATES, "dim": 64, "layers": 2, "action_heads": 1}


def main() -> int:
    """The command `python -m benchmarks.ranking`."""
    options = report.parser(__doc__)
    options.add_argument("--with-trainer", action="store_true", help="a trainer learns beside it")
    options.add_argument("--feed", type=int, default=1000, help="actions/s that the trainer learns")
    options.add_argument("--seconds", type=float, help="length of a run (5; quick: 2)")
    options.add_argument("--runs", type=int, help="runs (5; quick: 3)")
    options.parse_args()  # help and mistakes before the work
    with live.learned() as folder, live.served(folder) as site:

        def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
            return _measure(site, chosen)

        return report.run(options, lambda _: check(site), measure)


def check(site: Live) -> None:
    """A full answer by a full history; the same scores in another order and in halves."""
    items = live.candidates(random.Random(2), CANDIDATES)
    now = time.time()
    with live.client(site) as client:
        whole = client.rank(WATCHED[0], items, at=now, request="check")
        scores = {scored["item"]: scored["score"] for scored in whole["items"]}
        if len(scores) != CANDIDATES or whole["items"][0]["actions"] is None:
            raise CheckFailed("the answer does not hold every candidate with an action head")
        for part in (items[::-1], items[: CANDIDATES // 2], items[:1]):
            for scored in client.rank(WATCHED[0], part, at=now)["items"]:
                if abs(scored["score"] - scores[scored["item"]]) > 1e-4:
                    raise CheckFailed(f"{scored['item']} scores differently beside other items")
    if (seen := _history_seen(site)) != HISTORY:
        raise CheckFailed(f"the scoring saw {seen} events, not {HISTORY}")


def _history_seen(site: Live) -> int | None:
    """The history length that the server logged with the check's ranking."""
    stream = LocalStream(site.folder.stream)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        _, end = stream.bounds("impressions", 0)
        for record in stream.read("impressions", 0, max(0, end - 10), 10):
            shown = msgspec.json.decode(record.payload, type=Impression)
            if shown.request == "check":
                return shown.history
        time.sleep(0.05)
    raise CheckFailed("the ranking was not logged as shown")


def _measure(site: Live, chosen: argparse.Namespace) -> Iterator[Figure]:
    seconds = chosen.seconds or (2.0 if chosen.quick else 5.0)
    runs = chosen.runs or (3 if chosen.quick else 5)
    settings = {**SHAPE, "trainer": "learning" if chosen.with_trainer else "idle"}
    with ExitStack() as stack:
        if chosen.with_trainer:
            stack.enter_context(live.training(site.folder, chosen.feed))
            time.sleep(live.SETTLE_SECONDS)
            settings["feed_per_second"] = chosen.feed
        load(site, WARM_REQUESTS, 60.0, seed=0)
        results = [load(site, 10**9, seconds, seed=run) for run in range(runs)]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            values = [float(np.quantile(times, share)) for times in results]
            requests = sum(map(len, results))
            yield Figure.of(f"ranking.{name}_seconds", "s", values, requests=requests, **settings)
        yield _sustained(site, seconds, runs, settings)
    if not chosen.with_trainer:
        yield _over_model_call(site, statistics.median(itertools.chain(*results)), settings)


def load(site: Live, requests: int, seconds: float, seed: int) -> list[float]:
    """Rank one after the other on one connection; seconds of each, from send to the last byte."""
    rng = random.Random(seed)
    times: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    bodies = [_body(rng) for _ in range(64)]
    deadline = time.perf_counter() + seconds
    while len(times) < requests and (started := time.perf_counter()) < deadline:
        connection.request("POST", "/v1/rank", rng.choice(bodies), JSON)
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - started)
        if answer.status != 200:
            raise CheckFailed(f"a ranking was answered with {answer.status}")
    connection.close()
    return times


JSON = {"Content-Type": "application/json"}


def _body(rng: random.Random) -> bytes:
    items = live.candidates(rng, CANDIDATES)
    return json.dumps({"user": rng.choice(WATCHED), "items": items}).encode()


def _sustained(site: Live, seconds: float, runs: int, settings: Mapping[str, object]) -> Figure:
    """Rankings per second on several connections that never pause."""
    rates, tails = [], []
    for run in range(runs):
        seeds = range(run * CONNECTIONS, (run + 1) * CONNECTIONS)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            parts = pool.map(lambda seed: load(site, 10**9, seconds, seed), seeds)
            times = list(itertools.chain(*parts))
        rates.append(len(times) / seconds)
        tails.append(float(np.quantile(times, 0.99)))
    more = {"connections": CONNECTIONS, "p99_seconds": round(max(tails), 4)}
    return Figure.of("ranking.sustained_per_second", "1/s", rates, **more, **settings)


def _over_model_call(site: Live, request_seconds: float, settings: Mapping[str, object]) -> Figure:
    """What HTTP, JSON, queue and sorting add to tokens, gather, layers and heads."""
    torch.set_num_threads(1)
    directory = VersionDirectory(site.folder.root / "versions")
    number = directory.latest()
    assert number is not None
    ranker = Ranker(Snapshot.read(directory, number))
    rng, values = random.Random(3), []
    history = _history(ranker, rng)
    for _ in range(5):
        times = []
        for _ in range(40):
            keys = np.array([key_of(item) for item in live.candidates(rng, CANDIDATES)])
            started = time.perf_counter()
            ranker.rank(history, keys, int(time.time() * 1000))
            times.append(time.perf_counter() - started)
        values.append(request_seconds / statistics.median(times))
    return Figure.of("ranking.over_model_call_ratio", "", values, **settings)


def _history(ranker: Ranker, rng: random.Random) -> Histories:
    keys: Sequence[int] = [key_of(rng.choice(ITEMS)) for _ in range(HISTORY)]
    now_ms = int(time.time() * 1000)
    return Histories(
        np.array([0, HISTORY]),
        np.array(keys),
        np.zeros(HISTORY, np.int64),
        now_ms - 60_000 * np.arange(HISTORY, 0, -1),
        np.array([HISTORY]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
