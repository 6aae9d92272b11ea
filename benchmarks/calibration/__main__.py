"""`python -m benchmarks.calibration`: mean prediction over observed rate at 1, 10 and 100 % of the
negatives kept. Every chance is predicted before it is learned, over the second half of the stream.
"""

import argparse
from collections.abc import Iterator

from benchmarks import report
from benchmarks.calibration.learning import learned
from benchmarks.calibration.world import World
from benchmarks.report import CheckFailed, Figure

KEPT = (1.0, 0.1, 0.01)
BAND = (0.98, 1.02)
CLICKS = 20_000
"""In the stream, at least."""


def main() -> int:
    """The command."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", type=int, help="streams (3; quick: 1)")
    return report.run(options, check, measure)


def check(chosen: argparse.Namespace) -> None:
    """Keeping all negatives, a short stream is learned: better than its mean rate."""
    _, found = learned(World(2000, log_odds=-2, worth=1.0), keep_negatives=1.0)
    if not 0.9 < found.ratio < 1.1:
        raise CheckFailed(f"mean prediction / observed rate is {found.ratio:.3f} on a short stream")


def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
    """The three shares, all on the same streams."""
    seeds = range(chosen.seeds or (1 if chosen.quick else 3))
    impressions = 4_000 if chosen.quick else 60_000
    for keep in KEPT:
        runs = []
        for seed in seeds:
            _, found = learned(World(impressions, seed=seed), keep_negatives=keep)
            report.progress(f"keep {keep:.0%}, seed {seed}: {found.ratio:.4f}, {found}")
            runs.append(found)
        clicks = min(run.clicks_of_all for run in runs)
        if not chosen.quick and clicks < CLICKS:
            raise CheckFailed(f"{clicks} clicks in a stream; {CLICKS} are needed to tell")
        settings = {
            "keep_negatives": keep, "impressions": impressions, "clicks": clicks,
            "rows_learned": max(run.rows_learned for run in runs),
        }  # fmt: skip
        yield Figure.of("calibration.ratio", "", [run.ratio for run in runs], **settings)
        yield Figure.of("calibration.loss", "nats", [run.mean_loss for run in runs], **settings)


if __name__ == "__main__":
    raise SystemExit(main())
