"""How fast the trainer learns, in actions a second on a synthetic stream, and where time goes.

Blocks of events go through histories, the store's admission, examples and `Learner` as they do in
the trainer; no stream is read and no version written. The stream is made with a seed: users and
items by power laws, each user in a category that changes now and then, and new items all the time,
which are the most popular ones. Histories are full at the start. Needs torch, triton, numba and
numpy, no more.

    python -m benchmarks.training --quick
    python -m benchmarks.training --device cuda --precision bfloat16

For each window and width:

- `actions_per_second`: from an idle device to an idle device, everything counted
- `step_p50_seconds`, `step_p99_seconds`: of one batch, by the device's clock
- `cpu_seconds_per_action`: of all threads
- `gpu_busy`: time in kernels (torch.profiler) over wall time without the profiler
- `share.*`: of the time when the host waits for the device after each part: `admit` (rows for
  items), `examples` (histories and batches), `gather` (rows, negatives and vectors of a step),
  `forward`, `backward`, `update`, `rest`
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from kernels.rows import Adagrad
from service.device import ON_CPU, Device, chosen
from service.histories.local import Events, LocalHistories
from service.model.network import Network
from service.store import EmbeddingTable
from trainer.device import moved, placed
from trainer.examples import batches
from trainer.learner import Learner

START_MS = 1_732_096_800_000
USERS, CATEGORIES, AGES = 2_000, 50, 1_000
BLOCK_MS = 10_000
NEW_ITEMS = 2
"""In each category and block."""
MOVES = 0.1
"""Chance of a user to change the category at an event."""
SECONDS = 40.0
"""No further size is begun after them."""
PARTS = ("admit", "examples", "gather", "forward", "backward", "update", "rest")


@dataclass(frozen=True)
class Shape:
    """One measurement's sizes."""

    window: int
    dim: int
    events: int
    """In a block."""
    rows: int
    """Budget of model rows in a batch."""
    blocks: int
    users: int = USERS

    @property
    def name(self) -> str:
        return f"window{self.window}_dim{self.dim}_block{self.events}"


def shapes(device: str, quick: bool) -> list[Shape]:
    """The trainer's own block of 512; on a GPU also one that gives it something to do; a small one
    where a CPU has little time."""
    sizes = [(128, 16_384, 3) if quick else (512, 16_384, 10)]
    if device == "cuda":
        sizes = [(8_192, 65_536, 3 if quick else 8), (512, 16_384, 10 if quick else 40)]
    return [
        Shape(window, dim, events, rows, blocks)
        for events, rows, blocks in sizes
        for window, dim in ((256, 64), (64, 64), (256, 256), (64, 256))
    ]


def model_settings(shape: Shape) -> Any:
    """Section [model] without pydantic: its defaults at another width and window."""
    heads = max(2, shape.dim // 64)
    return SimpleNamespace(
        dim=shape.dim, layers=2, heads=heads, qk_width=shape.dim // heads,
        v_width=shape.dim // heads, window=shape.window, temperature=0.15,
        priors=(1_800.0, 14_400.0, 86_400.0), next_item_from="query", layer="freshet",
        weights="silu", relative_bias=True, categories=256,
    )  # fmt: skip


def slot_settings(dim: int) -> Any:
    """Section [store.item] without pydantic."""
    return SimpleNamespace(
        dim=dim, min_count=1, probability=None, waiting_seconds=7 * 86_400.0,
        max_waiting=1_000_000, ttl_seconds=None, optimizer="adagrad", learning_rate=0.02,
        init_scale=0.01, half_life_seconds=7 * 86_400.0, grace_seconds=3600.0, moments=False,
        built_optimizer=lambda: Adagrad(0.02),
    )  # fmt: skip


def trainer_settings() -> Any:
    """What the learner asks of section [trainer], without pydantic."""
    return SimpleNamespace(
        learning_rate=2e-3, prior_learning_rate=1e-2, pool_window=8_192, pool_draws=1_024,
        action_weight=1.0, log_q=True, keep_negatives=1.0, position_bias=True,
        dense_precision="int8", exploration=False,
    )  # fmt: skip


class Story:
    """Blocks of events, one after another."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._draw, self._users = np.random.default_rng(seed), shape.users
        self._category_U = self._draw.integers(0, CATEGORIES, shape.users)
        self._number = 0

    def block(self, events: int) -> Events:
        """The next events, in order of time."""
        draw, number = self._draw, self._number
        self._number += 1
        user_T = _power(draw, self._users, events)
        moving_T = draw.random(events) < MOVES
        self._category_U[user_T[moving_T]] = draw.integers(0, CATEGORIES, int(moving_T.sum()))
        age_T = _power(draw, AGES, events)
        item_T = (AGES + number * NEW_ITEMS - age_T) * CATEGORIES + self._category_U[user_T]
        at_ms_T = START_MS + number * BLOCK_MS + np.sort(draw.integers(0, BLOCK_MS, events))
        zeros = np.zeros(events, np.int64)
        return Events(user_T + 1, item_T + 1, zeros, at_ms_T, zeros)


class Trained:
    """One model and its store under way."""

    def __init__(self, shape: Shape, device: Device, precision: str, seed: int = 0) -> None:
        self.shape, self.device, self._seed = shape, device.torch, seed
        self.story = Story(shape, seed)
        torch.manual_seed(seed)
        network = Network(model_settings(shape), 1, precision=getattr(torch, precision))
        items = EmbeddingTable(
            slot_settings(shape.dim), seed, device.backend, device=str(device.torch)
        )
        self.learner = Learner(network, items, trainer_settings(), device.torch)
        capacity = 1 << shape.window.bit_length()
        kept: Any = SimpleNamespace(capacity=capacity, ttl_seconds=None, ttl_ms=2**62)
        self.histories = LocalHistories(kept)
        self._blocks = 0
        self.losses: list[float] = []
        for _ in range(2):
            events = self.story.block(shape.users * capacity // 4)
            self._admit(events)
            self.histories.append(events, 0)

    def learn(self, events: Events, mark: Callable[[], None] = lambda: None) -> None:
        """One block; `mark` is told of the end of each of its steps."""
        now_ms = int(events.at_ms_T[-1])
        rows_T = self._admit(events)
        for number, parts in enumerate(self._examples(events)):
            step = self.learner.learn(parts, (self._seed, self._blocks, number), now_ms)
            self.losses.append(step.loss)
            mark()
        self.learner.observe(rows_T, now_ms)
        self._blocks += 1

    def _admit(self, events: Events) -> Any:
        keys_T = moved(torch.from_numpy(events.item_T), self.device)
        admitted = self.learner.items.admit(keys_T, placed(events.at_ms_T, self.device))
        return admitted.rows_N.cpu().numpy()

    def _examples(self, events: Events) -> Any:
        users, number_T = np.unique(events.user_T, return_inverse=True)
        window = self.shape.window
        context = self.histories.read(users, window + 1)
        accepted = self.histories.append(events, 0)
        every_T = np.ones(len(events), np.int64)
        return list(batches(context, number_T, accepted, every_T, window, self.shape.rows))


@dataclass
class Parts:
    """Seconds by part, each measured from an idle device to an idle device."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its own time counted under the name without that of parts inside it."""

        def run(*arguments: Any, **named: Any) -> Any:
            wait(self.device)
            began = time.perf_counter()
            self._inner.append(0.0)
            result = function(*arguments, **named)
            wait(self.device)
            took = time.perf_counter() - began
            self.seconds[name] += took - self._inner.pop()
            self._inner[-1] += took
            return result

        return run

    @contextmanager
    def of(self, trained: Trained) -> Iterator[None]:
        """While it lasts, the parts of a step are measured."""
        learner = trained.learner
        named = {
            "admit": (trained, "_admit"), "examples": (trained, "_examples"),
            "gather": (learner, "_prepared"), "forward": (learner, "_differentiate"),
            "update": (learner, "_descend"), "backward": (torch.autograd, "grad"),
            "rest": (trained, "learn"),
        }  # fmt: skip
        patches = [
            patch.object(owner, method, self.timed(name, getattr(owner, method)))
            for name, (owner, method) in named.items()
        ]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def wait(device: torch.device) -> None:
    """Return when the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(shape: Shape, device: Device, precision: str) -> dict[str, Any]:
    """Every figure of one size."""
    trained = Trained(shape, device, precision)
    blocks = [trained.story.block(shape.events) for _ in range(2 + shape.blocks + 2)]
    for events in blocks[:2]:
        trained.learn(events)
    clock = Clock(device.torch)
    wait(device.torch)
    began, cpu_began = time.perf_counter(), time.process_time()
    for events in blocks[2:-2]:
        trained.learn(events, clock.mark)
    wait(device.torch)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    steps = clock.seconds()
    actions = shape.events * shape.blocks
    busy = kernel_seconds(trained, blocks[-2]) / (wall / shape.blocks)
    parts = Parts(device.torch)
    with parts.of(trained):
        trained.learn(blocks[-1])
    total = sum(parts.seconds.values())
    if not np.isfinite(trained.losses).all():
        raise CheckFailed(f"a loss of {shape.name} is not finite: {trained.losses}")
    return {
        "actions_per_second": actions / wall,
        "step_p50_seconds": float(np.percentile(steps, 50)),
        "step_p99_seconds": float(np.percentile(steps, 99)),
        "steps": len(steps),
        "cpu_seconds_per_action": cpu / actions,
        **({"gpu_busy": busy} if device.torch.type == "cuda" else {}),
        "share": {name: seconds / total for name, seconds in parts.seconds.items()},
    }


class Clock:
    """Time between marks: by the device's own clock on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._marks = device.type == "cuda", list[Any]()
        self.mark()

    def mark(self) -> None:
        """Here one ends and the next begins."""
        if self._on_gpu:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From each mark to the next. The device must be idle."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._on_gpu:
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


def kernel_seconds(trained: Trained, events: Events) -> float:
    """Seconds in which the GPU worked on one block; 0 on a CPU."""
    if trained.device.type != "cuda":
        trained.learn(events)
        return 0.0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        trained.learn(events)
        wait(trained.device)
    kernels = (e for e in profile.key_averages() if not e.key.startswith(("Memcpy", "Memset")))
    return sum(event.self_device_time_total for event in kernels) / 1e6


def measure(device: str, quick: bool, precision: str = "float32") -> dict[str, Any]:
    """Every figure by size; in under a minute on a GPU, `left_out` naming what found no time."""
    where, began = chosen(device, "--device"), time.monotonic()
    on_gpu = where.torch.type == "cuda"
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(where.torch) if on_gpu else "cpu",
        "precision": precision,
    }
    left_out = []
    for shape in shapes(where.torch.type, quick):
        if on_gpu and time.monotonic() - began > SECONDS:
            left_out.append(shape.name)
            continue
        result[shape.name] = measured(shape, where, precision)
        rate = result[shape.name]["actions_per_second"]
        report.progress(f"{shape.name}: {rate:,.0f} actions/s")
    return result | ({"left_out": " ".join(left_out)} if left_out else {})


def check(device: str) -> None:
    """The device learns what the CPU learns."""
    shape = Shape(window=16, dim=16, events=32, rows=512, blocks=2, users=6)
    losses = []
    for where in (chosen(device, "--device"), ON_CPU):
        trained = Trained(shape, where, "float32")
        for _ in range(shape.blocks):
            trained.learn(trained.story.block(shape.events))
        losses.append(trained.losses)
    if not np.allclose(*losses, rtol=1e-3):
        raise CheckFailed(f"losses on {device} are {losses[0]}, on the CPU {losses[1]}")


def figures(device: str, quick: bool, precision: str) -> Iterator[Figure]:
    """One for each number of `measure`."""
    found = measure(device, quick, precision)
    settings = {name: value for name, value in found.items() if isinstance(value, str)}
    for name, numbers in found.items():
        if isinstance(numbers, dict):
            flat = numbers | {f"share.{part}": n for part, n in numbers["share"].items()}
            for key, value in flat.items():
                if key != "share":
                    yield Figure.of(f"training.{name}.{key}", _unit(key), [value], **settings)


def _unit(key: str) -> str:
    units = {"per_second": "1/s", "_seconds": "s", "seconds_per_action": "s"}
    return next((unit for end, unit in units.items() if key.endswith(end)), "")


def _power(draw: np.random.Generator, limit: int, count: int) -> Any:
    """Numbers from 0 below the limit, number n about in proportion to 1 / (n + 1)."""
    return np.minimum((limit + 1) ** draw.random(count), limit).astype(np.int64) - 1


def _parser() -> argparse.ArgumentParser:
    options = report.parser(__doc__)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return options


if __name__ == "__main__":
    raise SystemExit(
        report.run(
            _parser(),
            lambda options: check(options.device),
            lambda options: figures(options.device, options.quick, options.precision),
        )
    )
