"""All that is measured on CPU: the comparison, the curve over sizes, growth and memory."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.report import Figure
from benchmarks.stores import compare, curve, growth, peers
from benchmarks.stores.compare import OURS, OURS_ADAM, Contender, cases
from benchmarks.stores.workers import Shape, Worker

MODULE = "benchmarks.stores.ours"
CASES = cases(("lookup", "read", "update", "step", "gather", "copy"), ("lookup", "read", "gather"))
ADAM_CASES = cases(("update", "step"))


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """The comparison first; sizes beyond the preloaded one and long growth not in a quick run."""
    shape = Shape(
        options.keys or 1_000_000, options.batch or 65_536, options.dim or 64, options.threads
    )
    runs = options.runs or (5 if options.quick else 9)
    batches = options.batches or (6 if options.quick else 20)
    with ExitStack() as stack:
        others = list(peers.contenders(options.peers, shape))
        all_of_them = compare.entered(stack, [*own(shape), *others])
        rounds = compare.take_turns(all_of_them, runs, batches)
    yield from compare.figures(rounds, shape, [other.name for other in others])
    yield from growth.figures(shape, options.quick)
    if not options.quick:
        points = yield from curve.figures(shape, runs, batches)
        if options.plot:
            curve.draw(options.plot, points)


def own(shape: Shape) -> Iterator[Contender]:
    """The store under each of its main optimizers."""
    yield Contender(OURS, Worker(sys.executable, MODULE, shape), CASES)
    adam = Worker(sys.executable, MODULE, shape, "--optimizer=adam")
    yield Contender(OURS_ADAM, adam, ADAM_CASES)
