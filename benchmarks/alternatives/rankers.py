"""Each way to score candidates: `scores(user, items)`, highest first to be shown.

Shapes: C candidates.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from redis import Redis

from benchmarks.alternatives.features import FEATURES, HISTORY, Features, Ints
from benchmarks.visits import ITEMS

NUMBER = {item: number for number, item in enumerate(ITEMS, 1)}
TREES, LEAVES = 100, 31
"""LightGBM's defaults; Metarank grows as many trees."""
GROUPS, GROUP = 1_000, 40


class Ranker(Protocol):
    """What the application asks."""

    def scores(self, user: str, items: list[str]) -> list[float]:
        """Scores [C]."""


class Histories:
    """The latest items of users in Redis, newest first."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def read(self, user: str) -> Ints:
        """Numbers of at most HISTORY items."""
        items: Any = self._redis.lrange(f"history:{user}", 0, HISTORY - 1)
        return np.array([NUMBER.get(item.decode(), 0) for item in items], np.int64)

    def append(self, user: str, *items: str) -> None:
        """Put items before the others."""
        name = f"history:{user}"
        self._redis.pipeline().lpush(name, *items).ltrim(name, 0, HISTORY - 1).execute()


class Sequence:
    """A sequence model, run by `run(history_L, candidate_C)`."""

    def __init__(self, redis: Redis, run: Any) -> None:
        self._histories, self._run = Histories(redis), run

    def scores(self, user: str, items: list[str]) -> list[float]:
        """One forward pass for the request."""
        history_L = np.zeros(HISTORY, np.int64)
        known = self._histories.read(user)[::-1]
        history_L[HISTORY - len(known) :] = known
        found: list[float] = self._run(history_L, numbers(items)).tolist()
        return found


class Trees:
    """LambdaMART over features of each candidate."""

    def __init__(self, redis: Redis) -> None:
        self._histories, self._features = Histories(redis), Features(len(ITEMS))
        self._booster = _trained(self._features)

    def scores(self, user: str, items: list[str]) -> list[float]:
        """Features of all candidates, then all trees."""
        features_CF = self._features.of(self._histories.read(user), numbers(items))
        found: list[float] = self._booster.predict(features_CF, num_threads=1).tolist()
        return found


class Listed:
    """A list that a batch job computed for the user; items that are not on it by popularity."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._popularity = dict(
            zip(ITEMS, np.random.default_rng(0).random(len(ITEMS)).tolist(), strict=True)
        )

    def scores(self, user: str, items: list[str]) -> list[float]:
        """One question for all candidates; listed ones have scores above 1."""
        listed: Any = self._redis.zmscore(f"best:{user}", items)
        return [
            self._popularity.get(item, 0.0) if score is None else score
            for item, score in zip(items, listed, strict=True)
        ]


def made(kind: str, redis: Redis) -> Ranker:
    """The ranker of a contender."""
    if kind == "lightgbm":
        return Trees(redis)
    if kind == "list":
        return Listed(redis)
    from benchmarks.alternatives.network import Network

    runtime, _, form = kind.partition("-")
    network = Network(len(ITEMS), targets=form == "targets").eval()
    return Sequence(redis, {"torch": eager, "onnx": exported}[runtime](network))


def numbers(items: list[str]) -> Ints:
    """Items as the models number them; 0 for one that was not there when they were trained."""
    return np.array([NUMBER.get(item, 0) for item in items], np.int64)


def eager(network: Any) -> Any:
    """PyTorch as it is, one thread, without gradients."""
    import torch

    torch.set_num_threads(1)

    @torch.inference_mode()
    def run(history_L: Ints, candidate_C: Ints) -> Any:
        return network(torch.from_numpy(history_L), torch.from_numpy(candidate_C)).numpy()

    return run


def exported(network: Any) -> Any:
    """The same through ONNX Runtime, one thread, all graph optimizations (its default)."""
    import tempfile

    import onnxruntime
    import torch

    example = (torch.ones(HISTORY, dtype=torch.int64), torch.ones(512, dtype=torch.int64))
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "network.onnx"))
        torch.onnx.export(
            network, example, file, input_names=["history", "candidates"], verbose=False,
            dynamic_shapes=({}, {0: torch.export.Dim("candidates", min=2, max=4096)}), dynamo=True,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(history_L: Ints, candidate_C: Ints) -> Any:
        return session.run(None, {"history": history_L, "candidates": candidate_C})[0]

    return run


def _trained(features: Features) -> Any:
    """Trees that tell made-up clicks from others."""
    import lightgbm

    draw = np.random.default_rng(1)
    rows = [
        features.of(*(draw.integers(1, len(ITEMS), size) for size in (HISTORY, GROUP)))
        for _ in range(GROUPS)
    ]
    rows_RF = np.concatenate(rows)
    taste_F = draw.normal(size=FEATURES)
    wish_R = (rows_RF / (1 + rows_RF.std(0))) @ taste_F + draw.normal(size=len(rows_RF))
    clicked_R = (wish_R > np.quantile(wish_R, 0.9)).astype(np.int64)
    chosen = {
        "objective": "lambdarank", "num_leaves": LEAVES, "num_threads": 1, "seed": 1,
        "deterministic": True, "verbose": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(rows_RF, clicked_R, group=np.full(GROUPS, GROUP))
    return lightgbm.train(chosen, data, num_boost_round=TREES)
