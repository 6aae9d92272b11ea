"""How long a server searches a catalogue for the best items of a user, and in what memory.

Random rows of `--dim` numbers in int8 (or int4), with counts; a thousand sets of categories in
random order for the filters. `everything` has no filter, `hidden` one that a tenth of the items do
not pass, `tenth` and `hundredth` are filters that so many pass. 300 rows are excluded.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from kernels.crew import Crew
from kernels.row_codes import encode
from service.actions import RESERVED_KEY
from service.model.allowed import EVERYTHING, Allowed, allowed_rows
from service.model.best import Best
from service.model.items import ItemRows
from service.model.prior import COUNTS, Prior
from service.versions import SlotRows

SETS, EXCLUDED, AT_MS = 1000, 300, 1_732_096_800_000
SHARES = {"hidden": 0.9, "tenth": 0.1, "hundredth": 0.01}
TEMPERATURE = 0.05
PRIOR = Prior(0, np.ones(1, np.float32), np.full(1, 0.3, np.float32))
COUNTED = (100, 356)
"""How many are found: 356 is a page of 100 behind 256 that action heads put in order."""


Case = TypeVar("Case")


class World(NamedTuple):
    """A catalogue and who asks."""

    slot: SlotRows
    rows: ItemRows
    user_D: Tensor
    excluded_E: np.ndarray
    filters: dict[str, Allowed]


def world(items: int, dim: int, bits: int) -> World:
    """A catalogue of so many items."""
    make, random = np.random.default_rng(1), torch.Generator().manual_seed(1)
    keys = torch.arange(items + 1)
    keys[0] = RESERVED_KEY
    codes = encode(torch.randn(items + 1, dim, generator=random), bits)
    counts = torch.rand(items + 1, 1, generator=random) * 9
    slot = SlotRows(keys, codes, {COUNTS: counts})
    user_D = torch.randn(dim, generator=random)
    sets, never = make.integers(1, SETS + 1, items + 1).astype(np.int32), np.full(items + 1, 2**62)
    nothing = np.zeros(0, np.int64)
    filters = {"everything": EVERYTHING}
    for name, share in SHARES.items():
        wanted_S = np.arange(SETS) < share * SETS
        filters[name] = Allowed(sets, never, nothing, wanted_S, nothing, AT_MS, False)
    excluded_E = make.integers(0, items + 1, EXCLUDED)
    return World(
        slot, ItemRows(slot, PRIOR), user_D / user_D.norm() / TEMPERATURE, excluded_E, filters
    )


def main() -> int:
    """The command `python -m benchmarks.retrieval`."""
    options = report.parser(__doc__)
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--dim", type=int, default=64)
    options.add_argument("--bits", type=int, choices=(8, 4), default=8)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--runs", type=int, help="runs (50; quick: 20)")
    return report.run(options, check, measure)


def check(chosen: argparse.Namespace) -> None:
    """What is found is what sorting finds, and logits are those of rows decoded offline."""
    small = world(50_000, chosen.dim, chosen.bits)
    logits = small.rows.logits_of_all(small.user_D).numpy()
    vectors = small.slot.vectors().double()
    decoded = vectors @ small.user_D.double() / vectors.norm(dim=1)
    prior = small.rows.logits(torch.zeros(chosen.dim), torch.arange(len(logits)))
    if (off := float((torch.from_numpy(logits) - prior - decoded).abs().max())) > 1e-5:
        raise CheckFailed(f"a logit is {off} off what its decoded row has")
    for name, allowed in small.filters.items():
        able = np.empty(len(logits), np.bool_)
        allowed_rows(allowed, np.arange(len(logits)), able)
        able[0], able[small.excluded_E] = False, False
        order = np.argsort(-logits, kind="stable")
        for count in COUNTED:
            found = search(small, name, count, Crew(chosen.threads))
            if not np.array_equal(found.rows_K, order[able[order]][:count]):
                raise CheckFailed(f"{name}: what is found is not what sorting finds")


def search(world: World, name: str, count: int, crew: Crew) -> Best:
    """The best items by a filter."""
    return world.rows.best(world.user_D, count, world.filters[name], world.excluded_E, crew)


def sort(world: World, count: int) -> Tensor:
    """The same of everything without this search: every logit, then the best of them."""
    return world.rows.logits_of_all(world.user_D).topk(count).indices


def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
    """Seconds of a search, by filter and by how many are found; bytes of an item."""
    runs = chosen.runs or (20 if chosen.quick else 50)
    shape = {"items": chosen.items, "dim": chosen.dim, "bits": chosen.bits}
    big = world(chosen.items, chosen.dim, chosen.bits)
    for threads in sorted({1, chosen.threads}):
        crew = Crew(threads)
        cases = {
            (name, count): partial(search, big, name, count, crew)
            for name in big.filters
            for count in COUNTED
        }
        for (name, count), seconds in _taking_turns(runs, cases).items():
            yield Figure.of(
                "retrieval.search_seconds", "s", seconds,
                filter=name, count=count, threads=threads, **shape,
            )  # fmt: skip
    (seconds,) = _taking_turns(runs, {"sort": partial(sort, big, COUNTED[0])}).values()
    yield Figure.of("retrieval.sort_seconds", "s", seconds, count=COUNTED[0], **shape)
    vectors = big.rows.vector_bytes / (chosen.items + 1)
    yield Figure.of("retrieval.vector_bytes_per_item", "B", [vectors], **shape)


def _taking_turns(runs: int, cases: Mapping[Case, Callable[[], object]]) -> dict[Case, list[float]]:
    """Seconds of each case, once in every turn, so that a slow moment hits them alike."""
    values: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(runs):
        for case, run in cases.items():
            started = time.perf_counter()
            run()
            values[case].append(time.perf_counter() - started)
    return values


if __name__ == "__main__":
    raise SystemExit(main())
