"""The whole stack under load on one machine: what it answers, how soon it learns, what it costs.

Actions arrive in bodies of 1 to 20 over HTTP and straight in the log, rankings of 256 candidates go
out, 20 of each shown and logged, and the trainer learns from both: at their own times, whatever
became of those before, and every latency counts from when a request was due. Afterwards the log and
the trainer's counters are compared with what was sent: nothing may be lost, nothing counted twice.

    python -m benchmarks.stack --minutes 10 --picture stack.png
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from benchmarks.stack import processes
from benchmarks.stack.figures import figures
from benchmarks.stack.picture import draw
from benchmarks.stack.plan import Plan
from benchmarks.stack.processes import OWN, Shape, Site
from benchmarks.stack.run import run

CHECK_SECONDS, CHECK_ACTIONS, CHECK_RANKINGS = 4.0, 200.0, 10.0
PAST, QUICK_PAST = 60_000, 6_000


def main() -> int:
    """The command `python -m benchmarks.stack`."""
    options = report.parser(__doc__)
    options.add_argument("--minutes", type=float, help="length of the run (10; quick: 0.3)")
    options.add_argument("--actions-per-second", type=float, default=2000)
    options.add_argument("--rankings-per-second", type=float, default=50)
    options.add_argument("--direct", type=float, default=0.5, help="share appended, not posted")
    options.add_argument("--servers", type=int, help="servers (2; embedded: 1)")
    options.add_argument("--kafka", default=OWN, metavar="HOST:PORT", help="own: it is started")
    options.add_argument("--embedded", action="store_true", help="neither Kafka nor Redis")
    options.add_argument("--past", type=int, help="actions learned before (60,000; quick: 6,000)")
    options.add_argument("--picture", type=Path, help="draw the run here (needs matplotlib)")
    chosen = options.parse_args()
    past = chosen.past or (QUICK_PAST if chosen.quick else PAST)
    shape = _shape(chosen)
    with processes.started(_plan(chosen), shape, past) as (site, plan):

        def check(_: argparse.Namespace) -> None:
            _check(site, plan)

        def measure(_: argparse.Namespace) -> Iterator[Figure]:
            return _measure(site, plan, shape, chosen.picture)

        return report.run(options, check, measure)


def _shape(chosen: argparse.Namespace) -> Shape:
    if chosen.embedded:
        return Shape(servers=chosen.servers or 1)
    return Shape(servers=chosen.servers or 2, kafka=chosen.kafka, redis=True)


def _plan(chosen: argparse.Namespace) -> Plan:
    return Plan(
        ports=[],
        seconds=60 * (chosen.minutes or (0.3 if chosen.quick else 10)),
        actions_per_second=chosen.actions_per_second,
        rankings_per_second=chosen.rankings_per_second,
        direct=chosen.direct,
    )


def _check(site: Site, plan: Plan) -> None:
    """A little load for a few seconds: all of it answered, kept and learned once, and seen."""
    little = msgspec.structs.replace(
        plan, seconds=CHECK_SECONDS, actions_per_second=CHECK_ACTIONS,
        rankings_per_second=CHECK_RANKINGS, seed=plan.seed + 1,
    )  # fmt: skip
    done = run(site, little, "check")
    if done.sent.refused or done.sent.again:
        raise CheckFailed(f"{done.sent.refused} actions were refused, {done.sent.again} sent again")
    if not done.sent.probes or not done.kept.actions or not done.sent.rankings:
        raise CheckFailed("nothing was sent")


def _measure(site: Site, plan: Plan, shape: Shape, picture: Path | None) -> Iterator[Figure]:
    settings: dict[str, Any] = {
        "actions": plan.actions_per_second, "rankings": plan.rankings_per_second,
        "seconds": plan.seconds, "direct": plan.direct, "servers": shape.servers,
        "stack": "kafka, redis" if shape.redis else "embedded",
    }  # fmt: skip
    done = run(site, plan, "run")
    if picture:
        draw(picture, done, ", ".join(f"{name} {value}" for name, value in settings.items()))
    yield from figures(done, settings)


if __name__ == "__main__":
    raise SystemExit(main())
