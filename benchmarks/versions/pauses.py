"""How long ranking stands still while a delta is applied."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.versions.world import World
from service.actions import key_of
from service.histories.local import Histories
from service.model.ranker import ITEM_SLOT, Ranker
from service.versions import Snapshot

CANDIDATES = 100
RANKINGS = 200
NOBODY = Histories(np.zeros(2, np.int64), *np.zeros((3, 0), np.int64), np.zeros(1, np.int64))


def apply_pause(world: World) -> Iterator[Figure]:
    """The longest `apply` of the newest version's deltas, in order, on their base.

    Beside it: the slowest of the rankings that went on while deltas were prepared in another
    thread, and the slowest with nothing beside it.
    """
    directory, manifest = world.versions, world.newest
    base, *deltas = (Snapshot.read_file(directory, manifest, n) for n in manifest.snapshot)
    if not deltas:
        raise CheckFailed(f"version {manifest.number} has no deltas")
    ranker = Ranker(base)
    ranker.warm()
    keys_C = np.array([key_of(item) for item in world.touched[:CANDIDATES]])
    alone = [_ranked(ranker, keys_C) for _ in range(RANKINGS)]
    pauses, beside = [], [0.0]
    with ThreadPoolExecutor(1) as other:
        for delta in deltas:
            preparing = other.submit(ranker.prepare, delta)
            while not preparing.done():
                beside.append(_ranked(ranker, keys_C))
            step, began = preparing.result(), time.perf_counter()
            ranker.apply(step)
            pauses.append(time.perf_counter() - began)
            progress(f"applied in {1000 * pauses[-1]:.2f} ms")
    yield Figure(
        figure="versions.apply_pause_seconds", value=max(pauses), unit="s", low=min(pauses),
        high=max(pauses), runs=len(pauses),
        settings={
            "rows": world.rows, "touched": len(deltas[-1].slots[ITEM_SLOT]) - 1,
            "slowest_ranking_alone_seconds": round(max(alone), 5),
            "slowest_ranking_beside_prepare_seconds": round(max(beside), 5),
        },
    )  # fmt: skip


def _ranked(ranker: Ranker, keys_C: np.ndarray) -> float:
    """Seconds that one ranking takes."""
    began = time.perf_counter()
    ranker.rank(NOBODY, keys_C, at_ms=1)
    return time.perf_counter() - began
