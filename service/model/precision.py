"""Which precision the products of a network are computed in on this machine: the fastest, measured.

bfloat16 pays where the processor multiplies it, bytes where it multiplies those (VNNI, AMX), and
both only in layers that are wide enough.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.crew import Crew
from service.device import ON_CPU, Device
from service.model.asking import Answer, Asked, Asker, Asks, Seen, is_ours
from service.model.compiled import CompiledAsker
from service.model.network import Network
from service.model.plain import PlainAsker
from service.model.products import Codes
from service.model.settings import Dense

log = logging.getLogger(__name__)

PRECISIONS: dict[Dense, torch.dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8,
}  # fmt: skip
CANDIDATES = 256
RUNS = 7
BETTER = 0.8
"""A lower precision is taken if it needs at most so much of float32's time: it costs digits."""
MOST_LOSS = 5e-3
"""And if no number of its answers is off by more than this share of the largest such number."""


class Measured(NamedTuple):
    """A precision on this machine, with these weights."""

    seconds: float
    """Least time of a ranking whose history is kept."""
    loss: float
    """Largest difference from what float32 says, by the largest of what float32 says: of the user's
    vector, or of the logits."""


def on(device: Device) -> list[Dense]:
    """The precisions that there are on a device: bytes are multiplied on a CPU alone."""
    return [name for name in PRECISIONS if device.backend == "numba" or name != "int8"]


def chosen(
    network: Network, wanted: Dense, codes: Codes | None = None, device: Device = ON_CPU
) -> Dense:
    """The name of the precision; `auto` measures. Networks of other forms have float32 alone.

    codes: those that the snapshot has weights of the network as.
    """
    if not is_ours(network):
        return "fp32"
    if wanted != "auto":
        return wanted
    measured = measure(network, codes, device)
    told = (f"{name} {1e3 * m.seconds:.2f} ms, off by {m.loss:.1e}" for name, m in measured.items())
    log.info("a ranking of %d candidates takes: %s", CANDIDATES, "; ".join(told))
    return fastest(measured)


def asker_of(
    network: Network, dense: Dense, codes: Codes | None = None, device: Device = ON_CPU,
    crew: Crew | None = None,
) -> Asks[Any]:  # fmt: skip
    """Asks a network in a precision; one of another form by its own layers, on the CPU.

    crew: threads that candidates are dealt to, in float32 on a CPU.
    """
    if not is_ours(network):
        return PlainAsker(network)
    if dense == "fp32" and device == ON_CPU:
        return CompiledAsker(network, crew)
    return Asker(network, PRECISIONS[dense], codes, device.torch)


def fastest(measured: Mapping[Dense, Measured]) -> Dense:
    """The precision that needs least time, of those that are exact enough and clearly faster than
    float32; else that."""
    most_seconds = BETTER * measured["fp32"].seconds
    fit = [
        name
        for name, one in measured.items()
        if one.loss <= MOST_LOSS and one.seconds <= most_seconds
    ]
    return min(fit, key=lambda name: measured[name].seconds, default="fp32")


@torch.inference_mode()
def measure(
    network: Network, codes: Codes | None = None, device: Device = ON_CPU
) -> dict[Dense, Measured]:
    """Every precision by the same ranking for a full history of random items; they take turns."""
    settings, make = network.settings, torch.Generator().manual_seed(0)
    events, nothing = settings.window, np.zeros(settings.window, np.int64)
    seen = Seen(nothing, nothing, np.arange(events), -1)
    history_TD = torch.randn(events, settings.dim, generator=make)
    items_CD = torch.randn(CANDIDATES, settings.dim, generator=make)
    askers = {name: asker_of(network, name, codes, device) for name in on(device)}
    asked = {
        name: [Asked(asker.read(seen, history_TD), events, items_CD)]
        for name, asker in askers.items()
    }
    answers, seconds = {}, dict.fromkeys(askers, float("inf"))
    for _ in range(RUNS):
        for name, asker in askers.items():
            began = time.perf_counter()
            (answers[name],) = asker.ask(asked[name])
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return {name: Measured(seconds[name], _loss(answers[name], answers["fp32"])) for name in askers}


def _loss(found: Answer, full: Answer) -> float:
    def share(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))

    return max(share(found.user_D, full.user_D), share(found.logits_CA, full.logits_CA))
