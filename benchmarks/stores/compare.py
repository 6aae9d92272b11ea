"""The store beside other tables and the machine's limits: rounds in turn, figures and ratios."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks import report
from benchmarks.report import Figure
from benchmarks.stores.ours import COPIED_BYTES_PER_KEY
from benchmarks.stores.workers import Round, Shape, Worker, best

OURS, OURS_ADAM = "freshet", "freshet, Adam"
WARM_BATCHES = 2
WARM_SEED = 2**30


@dataclass(frozen=True, order=True)
class Case:
    """A measure on batches of one kind (`zipf`, or `uniform` with a tenth of the keys absent)."""

    measure: str
    kind: str


def cases(zipf: Sequence[str], uniform: Sequence[str] = ()) -> Sequence[Case]:
    """Measures on batches of both kinds."""
    return [*(Case(name, "zipf") for name in zipf), *(Case(name, "uniform") for name in uniform)]


@dataclass(frozen=True)
class Contender:
    """A table that takes part: how it is started, and its cases."""

    name: str
    worker: Worker
    cases: Sequence[Case]


Rounds = Mapping[tuple[str, Case], Sequence[Round]]
"""Of each contender (by name) and case, one per turn."""


def take_turns(contenders: Sequence[Contender], runs: int, batches: int) -> Rounds:
    """All cases of all contenders, `runs` times in turn, after one turn that is not counted.

    In a turn all contenders get the same keys, and never keys that they saw before.
    """
    taken: dict[tuple[str, Case], list[Round]] = {}
    in_turn = dict.fromkeys(case for contender in contenders for case in contender.cases)
    for turn in range(-1, runs):
        for case in in_turn:
            for contender in contenders:
                if case not in contender.cases:
                    continue
                seed, size = (turn, batches) if turn >= 0 else (WARM_SEED, WARM_BATCHES)
                done = contender.worker.round(case.measure, case.kind, seed, size)
                if turn >= 0:
                    taken.setdefault((contender.name, case), []).append(done)
        report.progress(f"turn {turn + 1} of {runs}")
    return taken


def entered(stack: ExitStack, contenders: Sequence[Contender]) -> Sequence[Contender]:
    """Start them, one after the other."""
    for contender in contenders:
        report.progress(f"preloading and checking: {contender.name}")
        stack.enter_context(contender.worker)
    return contenders


def figures(rounds: Rounds, shape: Shape, peers: Sequence[str]) -> Iterator[Figure]:
    """Rates and processor time of everyone; then ours over the limits and over each peer."""
    shared: dict[str, Any] = {**vars(shape)}
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        shared["glibc_tunables"] = tunables
    for (name, case), taken in rounds.items():
        settings = {"table": name, "of": case.kind, **shared}
        rates = [one.rate for one in taken]
        if case.measure == "copy":
            rates = [2 * COPIED_BYTES_PER_KEY * rate / 1e9 for rate in rates]
            yield Figure.of("store.copy_gigabytes_per_second", "GB/s", rates, table=name, **shared)
            continue
        yield Figure.of(f"store.{case.measure}_keys_per_second", "keys/s", rates, **settings)
        cpu_ns = [one.cpu_ns for one in taken]
        yield Figure.of(f"store.{case.measure}_cpu_ns_per_key", "ns", cpu_ns, **settings)
    own = [case for name, case in rounds if name == OURS]
    for case in own:
        if case.measure in ("lookup", "read"):
            limit = Case("gather", case.kind)
            yield _ratio(rounds, case, OURS, limit, "given rows", shared)
    for peer in peers:
        for case in own:
            if (peer, case) in rounds:
                yield _ratio(rounds, case, peer, case, peer, shared)


def _ratio(
    rounds: Rounds, case: Case, other: str, other_case: Case, label: str, shared: dict[str, Any]
) -> Figure:
    """Our rate over another's, turn by turn; `of_bests` compares the best turn of each, `of_cpu`
    the least processor time that each took for a key."""
    ours, theirs = rounds[OURS, case], rounds[other, other_case]
    ratios = [mine.rate / its.rate for mine, its in zip(ours, theirs, strict=True)]
    of_bests = best(ours).rate / best(theirs).rate
    of_cpu = min(its.cpu_ns for its in theirs) / min(mine.cpu_ns for mine in ours)
    return Figure.of(
        f"store.{case.measure}_ratio", "", ratios, over=label, of=case.kind,
        of_bests=round(of_bests, 3), of_cpu=round(of_cpu, 3), **shared,
    )  # fmt: skip
