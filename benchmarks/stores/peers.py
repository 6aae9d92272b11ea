"""Which other tables take part, and where their environments are."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.stores.compare import Contender, cases
from benchmarks.stores.workers import Shape, Worker, peer_python

BARE = "bare"
MODULES = {
    BARE: "benchmarks.peers.bare",
    "tfra": "benchmarks.peers.tfra",
    "fbgemm": "benchmarks.peers.fbgemm",
    "torchrec": "benchmarks.peers.torchrec_mch",
}
ENVIRONMENTS = {"tfra": "tfra", "fbgemm": "torchrec", "torchrec": "torchrec"}
CASES = cases(("lookup", "update", "step"), ("lookup",))
NO_UPDATE = ("torchrec",)
"""Those whose update cannot be told from the step that it belongs to."""


def check(directory: Path | None) -> None:
    """CheckFailed unless every peer's environment is there."""
    if directory:
        for name in ENVIRONMENTS.values():
            peer_python(directory, name)


def contenders(directory: Path | None, shape: Shape) -> Iterator[Contender]:
    """All peers; the bare one runs in this project's environment. Without a directory, none."""
    for name, module in MODULES.items() if directory else ():
        assert directory
        python = sys.executable if name == BARE else peer_python(directory, ENVIRONMENTS[name])
        own = [case for case in CASES if case.measure != "update" or name not in NO_UPDATE]
        yield Contender(name, Worker(python, module, shape), own)
