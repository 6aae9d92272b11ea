"""Which precision the products of a network are computed in on this machine: the fastest, measured.

bfloat16 pays only where the processor multiplies it, and only in layers that are wide enough.
"""

import time
from typing import Any, Literal

import numpy as np
import torch

from service.model.asking import Asked, Asker, Asks, Seen, is_ours
from service.model.compiled import CompiledAsker
from service.model.network import Network
from service.model.plain import PlainAsker
from service.model.settings import ModelSettings

Dense = Literal["auto", "fp32", "bf16"]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
CANDIDATES = 256
RUNS = 7
BETTER = 0.8
"""bfloat16 is taken if it needs at most so much of the time: it costs digits."""


def chosen(network: Network, wanted: Dense) -> Dense:
    """The name of the precision; `auto` measures. Networks of other forms have float32 alone."""
    if wanted != "auto":
        return wanted if is_ours(network) else "fp32"
    if not is_ours(network):
        return "fp32"
    seconds = {name: _seconds(asker_of(network, name), network.settings) for name in PRECISIONS}
    return "bf16" if seconds["bf16"] <= BETTER * seconds["fp32"] else "fp32"


def asker_of(network: Network, dense: str) -> Asks[Any]:
    """Asks a network in a precision; one of another form by its own layers."""
    if not is_ours(network):
        return PlainAsker(network)
    if dense == "fp32":
        return CompiledAsker(network)
    return Asker(network, PRECISIONS[dense])


@torch.inference_mode()
def _seconds(asker: Asks[Any], settings: ModelSettings) -> float:
    """Least time of a ranking whose history is kept."""
    make = torch.Generator().manual_seed(0)
    events, nothing = settings.window, np.zeros(settings.window, np.int64)
    seen = Seen(nothing, nothing, np.arange(events), -1)
    kept = asker.read(seen, torch.randn(events, settings.dim, generator=make))
    asked = [Asked(kept, events, torch.randn(CANDIDATES, settings.dim, generator=make))]
    least = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        asker.ask(asked)
        least = min(least, time.perf_counter() - began)
    return least
