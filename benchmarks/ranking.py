"""How long a ranking takes over HTTP, what HTTP adds, and how latency grows with the load.

256 events of history, 512 candidates, d=64, 2 layers, one action head on. This process is the load
and nothing else: server, trainer and feed are processes of their own. `kept`: the user's history
was read for an earlier request; `anew`: by a server that keeps nothing. `--with-trainer` measures
the same beside a trainer that learns from a steady feed. The curve is an open loop: arrivals at
random times whatever became of those before, users by a Zipf law from a fixed seed, a version every
ten seconds; latencies run from when a request was due.
"""

import argparse
import asyncio
import itertools
import json
import random
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import msgspec
import numpy as np
import torch

from benchmarks import live, report
from benchmarks.live import HISTORY, WATCHED, Live
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.stack.client import Site, Unanswered
from benchmarks.stack.plan import arrivals
from benchmarks.visits import ITEMS
from service.actions import Impression, key_of
from service.commands.folder import DataFolder
from service.histories.local import Histories
from service.metrics import Readings as Exposition
from service.model.ranker import Ranker, Request
from service.model.readings import Readings
from service.streams import LocalStream
from service.versions import Snapshot, VersionDirectory

CANDIDATES = 512
SHOWN = 20
WARM_REQUESTS = 100
BARE_RUNS = 40
PUBLISH_SECONDS = 10.0
IN_FLIGHT = 8
BUSY: list[dict[str, int]] = [
    {"threads": 1}, {"threads": 2}, {"threads": 1, "http_workers": 2},
    {"threads": 2, "http_workers": 2},
]  # fmt: skip
RATES = (50, 100, 150, 200, 250, 300, 400, 600)
ZIPF = 1.0
SHAPE = {"history": HISTORY, "candidates": CANDIDATES, "dim": 64, "layers": 2, "action_heads": 1}
SERVERS = {"kept": {}, "anew": {"reading_bytes": 0}}
REQUEST = (
    b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


def main() -> int:
    """The command `python -m benchmarks.ranking`."""
    options = report.parser(__doc__)
    options.add_argument("--with-trainer", action="store_true", help="a trainer learns beside it")
    options.add_argument("--feed", type=int, default=1000, help="actions/s that the trainer learns")
    options.add_argument("--seconds", type=float, help="length of a run (5; quick: 1)")
    options.add_argument("--runs", type=int, help="runs (5; quick: 3)")
    options.add_argument(
        "--busy",
        action="store_true",
        help=f"rankings a second with {IN_FLIGHT} in flight, only",
    )
    options.add_argument("--curve", action="store_true", help="latency over load, and only that")
    options.add_argument("--http-workers", type=int, default=0, help="as serving.http_workers")
    options.parse_args()  # help and mistakes before the work
    with live.learned() as folder:

        def verify(_: argparse.Namespace) -> None:
            with live.served(folder) as site:
                check(site)

        def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
            if chosen.busy:
                return _busy(folder, chosen)
            return _curve(folder, chosen) if chosen.curve else _measure(folder, chosen)

        return report.run(options, verify, measure)


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


@dataclass(frozen=True)
class Times:
    """Seconds of requests, from send to the last byte, and of each what the engine had."""

    whole: list[float]
    engine: list[float]

    @property
    def http(self) -> float:
        """Median of what is not the engine's: HTTP, JSON, checks, the log line."""
        pairs = zip(self.whole, self.engine, strict=True)
        return statistics.median(whole - engine for whole, engine in pairs)


def _measure(folder: DataFolder, chosen: argparse.Namespace) -> Iterator[Figure]:
    """One request at a time."""
    seconds = chosen.seconds or (1.0 if chosen.quick else 5.0)
    runs = chosen.runs or (3 if chosen.quick else 5)
    bare = Bare(folder)
    for reading, settings in SERVERS.items():
        with ExitStack() as stack:
            workers = {"http_workers": chosen.http_workers}
            site = stack.enter_context(live.served(folder, **settings, **workers))
            shape = {**SHAPE, **workers, "reading": reading, "trainer": "idle"}
            if chosen.with_trainer:
                stack.enter_context(live.training(folder, chosen.feed))
                time.sleep(live.SETTLE_SECONDS)
                shape |= {"trainer": "learning", "feed_per_second": chosen.feed}
            load(site, WARM_REQUESTS, 60.0, seed=0, shown=SHOWN)
            yield from _one_at_a_time(site, bare, shape, runs, seconds)


def _one_at_a_time(
    site: Live, bare: "Bare", shape: dict[str, object], runs: int, seconds: float
) -> Iterator[Figure]:
    few, all_, ratios = [], [], []
    for run in range(runs):
        few.append(load(site, 10**9, seconds, run, SHOWN))
        ratios.append(statistics.median(few[-1].whole) / bare.seconds(shape["reading"] == "kept"))
        all_.append(load(site, 10**9, seconds / 2, run, CANDIDATES))
        progress(f"run {run + 1}/{runs}: p50 {1000 * statistics.median(few[-1].whole):.2f} ms")
    requests = sum(len(times.whole) for times in few)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        values = [float(np.quantile(times.whole, share)) for times in few]
        yield Figure.of(
            f"ranking.{name}_seconds", "s", values, requests=requests, returned=SHOWN, **shape
        )
    for returned, results in ((SHOWN, few), (CANDIDATES, all_)):
        http_seconds = [times.http for times in results]
        yield Figure.of("ranking.http_seconds", "s", http_seconds, returned=returned, **shape)
    yield Figure.of("ranking.over_bare_call_ratio", "", ratios, **shape)


def load(site: Live, requests: int, seconds: float, seed: int, shown: int) -> Times:
    """Rank one after the other on one connection."""
    rng, times, wire = random.Random(seed), Times([], []), Wire(site.port)
    bodies = [_body(rng, user, shown) for user in WATCHED]
    deadline = time.perf_counter() + seconds
    while len(times.whole) < requests and (started := time.perf_counter()) < deadline:
        head = wire.post(rng.choice(bodies))
        times.whole.append(time.perf_counter() - started)
        if not head.startswith(b"HTTP/1.1 200"):
            raise CheckFailed(f"a ranking was answered with {head[:40]!r}")
        times.engine.append(float(_field(head, b"server-timing: engine;dur=")) / 1000)
    wire.close()
    return times


class Wire:
    """One connection for one request after the other. A client that does more than send and
    receive would be measured with the server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, body: bytes) -> bytes:
        """The head of the answer, once its last byte is there."""
        self._socket.sendall(REQUEST % len(body) + body)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more()
        head = received[:end].lower().replace(b"http/1.1", b"HTTP/1.1") + b"\r\n"
        left = int(_field(head, b"content-length: ")) - (len(received) - end - 4)
        while left > 0:
            left -= len(self._more())
        return head

    def _more(self) -> bytes:
        if not (data := self._socket.recv(1 << 16)):
            raise CheckFailed("the server closed the connection")
        return data

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _field(head: bytes, name: bytes) -> bytes:
    """What follows `name` on its line."""
    return head.partition(name)[2].partition(b"\r\n")[0]


def _body(rng: random.Random, user: str, shown: int) -> bytes:
    items = live.candidates(rng, CANDIDATES)
    return json.dumps({"user": user, "items": items, "n": shown}).encode()


class Bare:
    """The same model called in this process: tokens, gather, layers, heads, and nothing around."""

    def __init__(self, folder: DataFolder) -> None:
        torch.set_num_threads(1)
        directory = VersionDirectory(folder.root / "versions")
        number = directory.latest()
        assert number is not None
        self._ranker = Ranker(Snapshot.read(directory, number), Readings(2**30))
        self._rng = random.Random(3)
        self._history = self._made()

    def seconds(self, kept: bool) -> float:
        """Median of some calls."""
        times = []
        for _ in range(BARE_RUNS):
            items = live.candidates(self._rng, CANDIDATES)
            keys = np.array([key_of(item) for item in items])
            now_ms = int(time.time() * 1000)
            started = time.perf_counter()
            self._ranker.rank_all([Request(self._history, keys, now_ms, 1 if kept else None)])
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _made(self) -> Histories:
        keys: Sequence[int] = [key_of(self._rng.choice(ITEMS)) for _ in range(HISTORY)]
        now_ms = int(time.time() * 1000)
        return Histories(
            np.array([0, HISTORY]), np.array(keys), np.zeros(HISTORY, np.int64),
            now_ms - 60_000 * np.arange(HISTORY, 0, -1), np.array([HISTORY]),
        )  # fmt: skip


def _busy(folder: DataFolder, chosen: argparse.Namespace) -> Iterator[Figure]:
    """Rankings a second while some are always in flight: several servers in turns."""
    seconds, runs = chosen.seconds or 2.0, chosen.runs or (3 if chosen.quick else 5)
    with ExitStack() as stack:
        sites = [stack.enter_context(live.served(folder, **settings)) for settings in BUSY]
        for site in sites:
            load(site, WARM_REQUESTS, 60.0, seed=0, shown=SHOWN)
        turns = [[asyncio.run(_closed_loop(site, seconds)) for site in sites] for _ in range(runs)]
    for settings, values in zip(BUSY, zip(*turns, strict=True), strict=True):
        about = {**SHAPE, "in_flight": IN_FLIGHT, **settings}
        yield Figure.of("ranking.rankings_per_second", "1/s", list(values), **about)


async def _closed_loop(site: Live, seconds: float) -> float:
    """Rankings a second."""
    rng, asked, answered = random.Random(3), Site(site.port), 0
    bodies, end = [_body(rng, user, SHOWN) for user in WATCHED], time.monotonic() + seconds

    async def ask() -> None:
        nonlocal answered
        while time.monotonic() < end:
            status, _ = await asked.post("/v1/rank", rng.choice(bodies))
            if status != 200:
                raise CheckFailed(f"a ranking was answered with {status}")
            answered += 1

    await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    asked.close()
    return answered / seconds


def _curve(folder: DataFolder, chosen: argparse.Namespace) -> Iterator[Figure]:
    """One rate after another until requests are turned away."""
    seconds = chosen.seconds or (4.0 if chosen.quick else 20.0)
    workers = {"http_workers": chosen.http_workers}
    with (
        live.served(folder, **workers) as site,
        live.training(folder, chosen.feed, PUBLISH_SECONDS),
    ):
        load(site, WARM_REQUESTS, 60.0, seed=0, shown=SHOWN)
        for rate in RATES:
            before = _readings(site)
            whole, refused = asyncio.run(_open_loop(site, rate, seconds))
            during = {name: count - before[name] for name, count in _readings(site).items()}
            settings = {
                **SHAPE, **workers, "rate": rate, "answered": len(whole), "turned_away": refused,
                "hit_rate": round(during["hit"] / max(1, sum(during.values())), 3),
                "publish_seconds": PUBLISH_SECONDS, "feed_per_second": chosen.feed,
            }  # fmt: skip
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                value = float(np.quantile(whole, share))
                yield Figure.of(f"ranking.loaded_{name}_seconds", "s", [value], **settings)
            progress(f"{rate}/s: p99 {1000 * value:.0f} ms, {refused} turned away")
            if refused:
                return


async def _open_loop(site: Live, rate: float, seconds: float) -> tuple[list[float], int]:
    """Seconds of the requests that were answered, from when they were due, and how many were
    turned away."""
    rng, asked, whole, refused = random.Random(7), Site(site.port), [], 0
    shares = [1 / (place + 1) ** ZIPF for place in range(len(WATCHED))]
    bodies = [_body(rng, user, SHOWN) for user in WATCHED]

    async def ask(due: float, body: bytes) -> None:
        nonlocal refused
        try:
            status, _ = await asked.post("/v1/rank", body)
        except Unanswered as error:
            raise CheckFailed(f"a ranking was not answered: {error}") from None
        if status == 200:
            whole.append(time.monotonic() - due)
        elif status == 429:
            refused += 1
        else:
            raise CheckFailed(f"a ranking was answered with {status}")

    start, running = time.monotonic() + 0.1, []
    chosen = itertools.cycle(rng.choices(bodies, shares, k=4096))
    for due in arrivals(rate, start, start + seconds, f"curve-{rate}"):
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        running.append(asyncio.create_task(ask(due, next(chosen))))
    await asyncio.gather(*running)
    asked.close()
    return whole, refused


def _readings(site: Live) -> dict[str, float]:
    """How many histories were kept, extended and read so far."""
    text = httpx.get(f"{site.url}/metrics").text
    return {
        outcome: Exposition(text).get("readings_total", outcome=outcome)
        for outcome in ("hit", "extended", "read")
    }


if __name__ == "__main__":
    raise SystemExit(main())
