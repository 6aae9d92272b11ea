"""`python -m benchmarks.calibration`: mean prediction over observed rate, expected calibration
error (bins of half a unit of log odds) and loss at 1, 10 and 100 % of the negatives kept, as the
head has the chances (`raw`) and as servers would give them (`served`). Every chance is predicted
before it is learned, over the second half of the stream.
"""

import argparse
from collections.abc import Iterator

from benchmarks import report
from benchmarks.calibration.learning import Chances, learned
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
    if not 0.9 < found.served.ratio < 1.1:
        raise CheckFailed(f"mean prediction / observed rate on a short stream: {found.served}")


def measure(chosen: argparse.Namespace) -> Iterator[Figure]:
    """The three shares, all on the same streams."""
    seeds = range(chosen.seeds or (1 if chosen.quick else 3))
    impressions = 4_000 if chosen.quick else 60_000
    for keep in KEPT:
        runs = []
        for seed in seeds:
            _, found = learned(World(impressions, seed=seed), keep_negatives=keep)
            report.progress(f"keep {keep:.0%}, seed {seed}: {found.raw}; served {found.served}")
            runs.append(found)
        clicks = min(run.clicks_of_all for run in runs)
        if not chosen.quick and clicks < CLICKS:
            raise CheckFailed(f"{clicks} clicks in a stream; {CLICKS} are needed to tell")
        settings = {
            "keep_negatives": keep, "impressions": impressions, "clicks": clicks,
            "rows_learned": max(run.rows_learned for run in runs),
        }  # fmt: skip
        for name in ("raw", "served"):
            of_all: list[Chances] = [getattr(run, name) for run in runs]
            told = settings | {"chance": name}
            yield Figure.of("calibration.ratio", "", [one.ratio for one in of_all], **told)
            yield Figure.of("calibration.error", "", [one.error for one in of_all], **told)
            yield Figure.of("calibration.loss", "nats", [one.mean_loss for one in of_all], **told)


if __name__ == "__main__":
    raise SystemExit(main())
