"""What histories say they hold is what they cost, and what leaves goes back to the system."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_reported_bytes_are_resident_ones_with_100_000_users_and_after_most_have_left() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.service.histories.crowd", "100000"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    crowd, few = json.loads(run.stdout)
    for grown, reported, _ in (crowd, few):
        assert abs(grown - reported) <= 0.05 * grown
    assert all(reported < charged + 2**24 for _, reported, charged in (crowd, few))
    assert few[0] < 0.5 * crowd[0]
