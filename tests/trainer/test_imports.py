"""What computes needs torch, triton, numba and numpy, no more: a machine with a GPU may have just
these."""

import subprocess
import sys
from pathlib import Path

ABSENT = ("pydantic", "msgspec", "prometheus_client", "safetensors", "xxhash", "fsspec", "rich")
MODULES = (
    "service.histories.local", "service.model.network", "service.store.table", "trainer.examples",
    "trainer.learner", "trainer.negatives", "trainer.objective", "trainer.popularity",
    "trainer.seen", "benchmarks.training",
)  # fmt: skip
SCRIPT = """
import importlib, sys
for name in {absent}:
    sys.modules[name] = None
for name in {modules}:
    importlib.import_module(name)
"""


def test_what_computes_is_imported_without_the_rest() -> None:
    script = SCRIPT.format(absent=ABSENT, modules=MODULES)
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
