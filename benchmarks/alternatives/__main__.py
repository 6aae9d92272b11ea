"""Freshet beside what an engineer would put there instead: the same requests, on one machine.

256 events of history, 512 candidates, 20 returned, over HTTP; this process is the load and nothing
else. All servers run at once and are asked in turns, so that a slow minute hits them alike.
`cpu_seconds` is the processor time of a ranking at its server, and at the Redis where it asks one:
the figure that other programs on the machine disturb least. docs/alternatives.md says what each is
and what it cannot do. `make alternatives` installs what they need.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from redis import Redis

from benchmarks import live, report
from benchmarks.alternatives.asking import CANDIDATES, IN_FLIGHT, SHOWN, bodies, load, post
from benchmarks.live import HISTORY, WATCHED
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.visits import ITEMS
from service.actions import Action
from service.commands.folder import DataFolder
from service.commands.processes import Child, free_port
from service.streams import LocalStream
from tests.stack.redises import RedisServer

KINDS = ("torch-sasrec", "torch-targets", "onnx-sasrec", "onnx-targets", "lightgbm", "list")
FRESHET = {"freshet": {}, "freshet-anew": {"reading_bytes": 0}}
LISTED = 100
"""Items of the list that is computed beforehand for a user, as Gorse's `cache_size` has it."""
ROUNDING = 1e-4
SAME = (
    ("onnx-sasrec", "torch-sasrec", ROUNDING),
    ("onnx-targets", "torch-targets", ROUNDING),
    ("freshet", "freshet-anew", 1e-2),
)
"""Who must say the same. Each Freshet chooses fp32 or bfloat16 by measuring."""
SOON_SECONDS = 2.0
SHAPE = {"history": HISTORY, "candidates": CANDIDATES, "returned": SHOWN, "dim": 64, "layers": 2}


@dataclass(frozen=True)
class Contender:
    """A server that answers, and the processes whose time it takes."""

    port: int
    pids: list[int]

    def scores(self, body: bytes) -> dict[str, float]:
        """What it says of items."""
        found: Any = post(self.port, "/v1/rank", body)
        return {one["item"]: one["score"] for one in found["items"]}


def main() -> int:
    """The command `python -m benchmarks.alternatives`."""
    options = report.parser(__doc__)
    options.add_argument("--peers", type=Path, default=Path(".peers"), help="of make alternatives")
    options.add_argument("--seconds", type=float, help="of a measurement (3; quick: 0.5)")
    options.add_argument("--runs", type=int, help="turns (5; quick: 3)")
    chosen = options.parse_args()
    installed = chosen.peers.resolve() / "serving"
    if not installed.is_dir():
        options.error(f"{installed} is not there: run `make alternatives`")
    # It holds what the project's own environment lacks: torch, FastAPI and uvicorn are the same.
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    with live.learned() as folder, running(folder) as contenders:

        def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
            return _measure(contenders, chosen)

        return report.run(options, lambda _: check(contenders), measure)


@contextmanager
def running(folder: DataFolder) -> Iterator[dict[str, Contender]]:
    """Freshet twice, as it is and keeping nothing, and the alternatives, all ready."""
    with ExitStack() as stack:
        contenders = {}
        for name, settings in FRESHET.items():
            site = stack.enter_context(live.served(folder, **settings))
            contenders[name] = Contender(site.port, [site.pid])
        root = Path(stack.enter_context(TemporaryDirectory(prefix="freshet-benchmark-")))
        redis = stack.enter_context(RedisServer(root / "redis"))
        with redis.client() as client:
            _fill(client, folder)
        children = {kind: stack.enter_context(_app(kind, redis, root)) for kind in KINDS}
        for kind, child in children.items():
            _until_ready(child)
            contenders[kind] = Contender(child.port, [child.pid, redis.pid])
        yield contenders


def check(contenders: Mapping[str, Contender]) -> None:
    """Everybody returns the best of what was sent, in order; ONNX says what torch says."""
    asked: Any = {**json.loads(bodies(1)[0]), "at": time.time()}
    whole = json.dumps({**asked, "n": CANDIDATES}).encode()
    found = {}
    for name, one in contenders.items():
        few, found[name] = one.scores(json.dumps(asked).encode()), one.scores(whole)
        order = sorted(found[name], key=found[name].__getitem__, reverse=True)
        if set(found[name]) != set(asked["items"]) or len(few) != SHOWN:
            raise CheckFailed(f"{name} does not answer with the candidates that were sent")
        if list(few.values()) != sorted(few.values(), reverse=True):
            raise CheckFailed(f"{name} does not answer in order")
        if max(abs(few[i] - found[name][j]) for i, j in zip(few, order, strict=False)) > ROUNDING:
            raise CheckFailed(f"{name} does not answer with the best candidates")
        if len(set(found[name].values())) < CANDIDATES / 2:
            raise CheckFailed(f"{name} scores most candidates alike")
    for name, same, most in SAME:
        off = max(abs(found[name][item] - score) for item, score in found[same].items())
        if off > most:
            raise CheckFailed(f"{name} scores {off:.2g} off {same}")


def _measure(contenders: dict[str, Contender], chosen: argparse.Namespace) -> Iterator[Figure]:
    seconds = chosen.seconds or (0.5 if chosen.quick else 3.0)
    runs = chosen.runs or (3 if chosen.quick else 5)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in contenders.values():
        load(one.port, one.pids, seconds, IN_FLIGHT)
    for run in range(runs):
        for name, one in contenders.items():
            quiet = load(one.port, one.pids, seconds, 1)
            full = load(one.port, one.pids, seconds, IN_FLIGHT)
            own = values[name]
            own["p50_seconds"].append(float(np.quantile(quiet.each, 0.5)))
            own["p99_seconds"].append(float(np.quantile(quiet.each, 0.99)))
            own["cpu_seconds"].append(quiet.cpu_each)
            own["full_cpu_seconds"].append(full.cpu_each)
            own["rankings_per_second"].append(len(full.each) / full.seconds)
        progress(f"run {run + 1}/{runs}")
    for name, own in values.items():
        for figure, found in own.items():
            unit = "1/s" if figure == "rankings_per_second" else "s"
            more = {"in_flight": IN_FLIGHT} if figure.startswith(("full", "rank")) else {}
            yield Figure.of(f"alternatives.{figure}", unit, found, server=name, **more, **SHAPE)
    for name, one in contenders.items():
        changed = float(_action_changes(one))
        yield Figure.of("alternatives.action_changes_ranking", "", [changed], server=name, **SHAPE)


def _action_changes(one: Contender) -> bool:
    """Whether an action that was taken changes its user's scores soon after."""
    asked: Any = json.loads(bodies(2)[0])
    body = json.dumps({**asked, "at": 4e9}).encode()
    before = one.scores(body)
    action = {"user": asked["user"], "item": next(iter(before)), "action": "click"}
    post(one.port, "/v1/actions", json.dumps({"actions": [action]}).encode())
    deadline = time.monotonic() + SOON_SECONDS
    while time.monotonic() < deadline:
        if one.scores(body) != before:
            return True
        time.sleep(0.02)
    return False


def _fill(redis: Redis, folder: DataFolder) -> None:
    """The histories that Freshet has read from its log, newest first, and lists made beforehand."""
    with closing(LocalStream(folder.stream)) as stream:
        start, end = stream.bounds("actions", 0)
        records = stream.read("actions", 0, start, end - start)
    pipeline = redis.pipeline()
    for record in records:
        action = msgspec.json.decode(record.payload, type=Action)
        pipeline.lpush(f"history:{action.user}", action.item)
    draw = np.random.default_rng(0)
    for user in WATCHED:
        best = draw.choice(ITEMS, LISTED, replace=False)
        scores = 1 + draw.random(LISTED)
        pipeline.zadd(f"best:{user}", dict(zip(best.tolist(), scores.tolist(), strict=True)))
    pipeline.execute()
    short = [user for user in WATCHED if redis.llen(f"history:{user}") != HISTORY]
    if short:
        raise CheckFailed(f"{len(short)} users have no history of {HISTORY} events in Redis")


def _app(kind: str, redis: RedisServer, root: Path) -> Child:
    port = free_port()
    arguments = [kind, "--port", str(port), "--redis", redis.url]
    return Child("benchmarks.alternatives.app", arguments, root / f"{kind}.log", port)


def _until_ready(child: Child) -> None:
    deadline = time.monotonic() + live.READY_SECONDS
    while child.running:
        try:
            post(child.port, "/v1/rank", bodies()[0])
            return
        except (OSError, CheckFailed) as error:
            if time.monotonic() > deadline:
                raise CheckFailed(f"not ready in time ({error}); see {child.log}") from None
            time.sleep(0.1)


if __name__ == "__main__":
    raise SystemExit(main())
