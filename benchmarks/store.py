"""How fast the embedding table finds, reads and trains rows, alone and beside others.

Batches of 65,536 fresh keys, under Zipf's law or uniform with a tenth of the keys absent, against
1M preloaded rows of dim 64; admission (two occurrences) and expiry are on. Tables run in processes
of their own and take turns, so that a slow minute hits them alike. docs/store-benchmark.md says
what each figure is.

    python -m benchmarks.store --quick            # the store and this machine's limits
    python -m benchmarks.store --peers            # beside other tables (`make peers` first)
    python -m benchmarks.store --plot curve.png   # the curve from 0.1M to 20M rows as a picture
    python -m benchmarks.store --device cuda      # on a GPU, beside a table indexed directly
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.report import Figure


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m benchmarks.store`."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--keys", type=int, help="preloaded ids (1,000,000; cuda: 8,000,000)")
    add("--batch", type=int, help="keys per call (65,536; cuda: 1,048,576)")
    add("--dim", type=int, help="(64; cuda: 128)")
    add("--threads", type=int, default=2, help="of every table on CPU (2)")
    add("--runs", type=int, help="turns (9; quick: 5)")
    add("--batches", type=int, help="fresh batches per round (20; quick: 6)")
    add("--peers", type=Path, nargs="?", const=Path(".peers"), metavar="DIRECTORY",
        help="measure other tables, too; their environments are made by `make peers`")  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="draw the curve over sizes (.png, .svg, .pdf)")
    return report.run(options, check, measure, arguments)


def check(options: argparse.Namespace) -> None:
    """Fast backends do what the reference does; every peer checks itself when it starts."""
    if options.device == "cuda":
        from benchmarks.stores import gpu

        gpu.check(gpu.shape(options), options.device)
        return
    from benchmarks.stores import ours, peers

    peers.check(options.peers)
    for optimizer in ("adagrad", "adam"):
        ours.agree(options.dim or 64, optimizer, options.threads)


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Everything that the device has."""
    if options.device == "cuda":
        from benchmarks.stores import gpu

        yield from gpu.measure(gpu.shape(options), options.device, options.runs or 9)
        return
    from benchmarks.stores import on_cpu

    yield from on_cpu.measure(options)


if __name__ == "__main__":
    raise SystemExit(main())
