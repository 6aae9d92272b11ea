"""What fitting does for dense weights of 4 bits, on a trainer's own layers.

A trainer with `dense = "int4"` learns the first actions of a file, or of the simulated feed; every
version that has new dense weights is looked at again from its checkpoint and its snapshot.

    python -m benchmarks.quantease [--data FILE]

- `quantease.nearest_error`: squared error of a layer's outputs through its nearest codes, of the
  squared outputs, over the inputs that the trainer keeps moments of; by layer, median of versions
- `quantease.cold_error`, `quantease.warm_error`: of that what is left after 20 passes without codes
  from before, and in the published codes: 2 passes, with those of the version before
- `quantease.warm_of_cold`: the second by the first, by version
- `quantease.bytes`: codes and outliers of a layer, of its fp32 bytes
- `quantease.loss_change`: log loss of next items, all layers as their nearest codes, fitted, and in
  8 bits, less that of full precision; all other weights and rows are in full precision
- `quantease.loss_moves`: the same by question, root of the mean square
- `quantease.seconds`: CPU time of fitting a layer of 256 outputs and 256 inputs
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.protocol.events import Events
from benchmarks.report import CheckFailed, Figure, progress
from benchmarks.versions.precision import FEED, SECTIONS, append, events_of, loss_of, questions_of
from kernels.quantease import GridCodes, fitted, nearest, output_error
from service.model.ranker import Ranker, described
from service.settings import Settings
from service.streams import LocalStream
from service.versions import Checkpoint, Snapshot, VersionDirectory
from trainer.build import build
from trainer.fitting import COLD, WARM, Weights
from trainer.folding import folded
from trainer.loop import Trainer
from trainer.snapshots import snapshot_of
from trainer.state import Tensors, part_of

OPEN = {"quantized_loss": 99.0, "quantized_calibration": 99.0, "quantized_score": 999.0}
"""A gate that raises no precision."""
TRAINER = {
    "dense": "int4", "publish_seconds": 60, "dense_seconds": 60, "keep_versions": 10_000,
}  # fmt: skip


class Layer(NamedTuple):
    """One layer of one version."""

    weight_OI: Tensor
    moments_II: Tensor
    codes: GridCodes
    """Published."""
    is_warm: bool

    def error(self, codes: GridCodes) -> float:
        """Of the squared outputs."""
        whole = output_error(self.weight_OI, self.moments_II, torch.zeros_like(self.weight_OI))
        found = output_error(self.weight_OI, self.moments_II, codes.decode())
        return float(found.sum() / whole.sum())


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m benchmarks.quantease`."""
    options = report.parser(__doc__)
    options.add_argument("--data", type=Path, help="a file of actions; the simulated feed if none")
    return report.run(options, check, measure, arguments)


def check(options: argparse.Namespace) -> None:
    """No other code of a fitted layer is better, and no channel is worse than rounded."""
    weight_OI, moments_II = _random(32, 16)
    codes = fitted(weight_OI, moments_II, passes=1_000)
    error_O = output_error(weight_OI, moments_II, codes.decode())
    if not (error_O <= output_error(weight_OI, moments_II, nearest(weight_OI).decode())).all():
        raise CheckFailed("a fitted channel is worse than its nearest codes")
    exact = set(codes.places_S.tolist())
    for place in set(range(weight_OI.numel())) - exact:
        for level in range(16):
            codes_OI = codes.codes_OI.clone()
            codes_OI.view(-1)[place] = level
            other = replace(codes, codes_OI=codes_OI).decode()
            changed_O = output_error(weight_OI, moments_II, other)
            if (changed_O < error_O * (1 - 1e-9)).any():
                raise CheckFailed(f"code {level} at place {place} is better than the one chosen")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """The trainer's layers, what their codes do to the loss, and times."""
    yield from layers(options.data, *((8_000, 50) if options.quick else (40_000, 500)))
    yield from seconds()


def layers(data: Path | None, learned: int, asked: int) -> Iterator[Figure]:
    """After so many actions; so many later ones are asked for."""
    events = events_of(data, learned + 4 * asked)
    shared = {"data": FEED if data is None else data.name, "learned": learned}
    with tempfile.TemporaryDirectory() as name, closing(LocalStream(Path(name) / "s")) as stream:
        append(stream, events.first(learned))
        versions = VersionDirectory(Path(name) / "v")
        trainer = _trained(stream, versions, Path(name) / "skipped")
        found = _layers(versions)
        for weight, versions_of in found.items():
            yield from _errors(versions_of, {**shared, "weight": weight})
        last = {weight: versions_of[-1] for weight, versions_of in found.items()}
        yield from _losses(trainer, events, last, questions_of(trainer, events, learned, asked))


def _trained(stream: LocalStream, versions: VersionDirectory, skipped: Path) -> Trainer:
    sections: dict[str, Any] = {
        **SECTIONS, "trainer": {**SECTIONS["trainer"], **TRAINER}, "gate": OPEN,
    }  # fmt: skip
    trainer = build(Settings(sections), stream, versions, skipped)
    with closing(trainer.publisher):
        trainer.run(threading.Event(), lambda: True)
    return trainer


def _layers(versions: VersionDirectory) -> dict[str, list[Layer]]:
    """Every fitted weight of every version that has new ones."""
    found: dict[str, list[Layer]] = {}
    for number in versions.numbers():
        manifest = versions.manifest(number)
        written = Snapshot.read_file(versions, manifest, manifest.step or manifest.snapshot[-1])
        if not written.dense:
            continue
        state = folded(Checkpoint.chain(versions, manifest))
        for name, codes in Weights.of(written).fitted.items():
            weight_OI, moments_II = _part(state, "network", name), _part(state, "moments", name)
            earlier = found.setdefault(name, [])
            earlier.append(Layer(weight_OI, moments_II, codes, bool(earlier)))
    if not found or len(next(iter(found.values()))) < 2:
        raise CheckFailed("no two versions have fitted weights")
    progress(f"{len(next(iter(found.values())))} versions with new dense weights")
    return found


def _part(state: Tensors, part: str, name: str) -> Tensor:
    return part_of(state, part)[name]


def _errors(layers: list[Layer], shared: dict[str, Any]) -> Iterator[Figure]:
    warm = [layer for layer in layers if layer.is_warm]
    nearest_N = [layer.error(nearest(layer.weight_OI)) for layer in warm]
    cold_N = [layer.error(fitted(layer.weight_OI, layer.moments_II, passes=COLD)) for layer in warm]
    warm_N = [layer.error(layer.codes) for layer in warm]
    shared = {**shared, "shape": list(layers[0].weight_OI.shape)}
    yield Figure.of("quantease.nearest_error", "of outputs", nearest_N, **shared)
    for how, error_N in (("cold", cold_N), ("warm", warm_N)):
        left_N = [error / whole for error, whole in zip(error_N, nearest_N, strict=True)]
        yield Figure.of(f"quantease.{how}_error", "of nearest", left_N, **shared)
    ratio_N = [error / cold for error, cold in zip(warm_N, cold_N, strict=True)]
    yield Figure.of("quantease.warm_of_cold", "", ratio_N, **shared)
    share = layers[-1].codes.nbytes / layers[-1].weight_OI.nbytes
    yield Figure.of("quantease.bytes", "of fp32", [share], **shared)


def _losses(
    trainer: Trainer, events: Events, last: dict[str, Layer], asked: list[int]
) -> Iterator[Figure]:
    state = trainer.teacher.state
    model = described(state.learner.network.settings, trainer.teacher.types, action_heads=False)
    full = snapshot_of(state, 1, trainer.position.watermark_ms, model)
    # Weights as of the last version that has new ones, not of the end.
    trained = {name: layer.weight_OI for name, layer in last.items()}
    full = replace(full, dense={**full.dense, **trained})
    ways = {
        "full": full,
        "nearest": replace(full, dense={**full.dense, **{
            name: nearest(layer.weight_OI) for name, layer in last.items()
        }}),
        "fitted": replace(full, dense={**full.dense, **{
            name: layer.codes for name, layer in last.items()
        }}),
        "int8": full.quantized(dict.fromkeys(last, "int8")),
    }  # fmt: skip
    rankers = {how: Ranker(snapshot) for how, snapshot in ways.items()}
    loss_NW = np.array([[loss_of(r, state, events, e) for r in rankers.values()] for e in asked])
    change_NW = loss_NW - loss_NW[:, :1]
    full_loss = round(float(loss_NW[:, 0].mean()), 4)
    for place, how in list(enumerate(ways))[1:]:
        shared = {"how": how, "asked": len(asked), "loss": full_loss}
        change_N = change_NW[:, place]
        yield Figure.of("quantease.loss_change", "nats", [float(change_N.mean())], **shared)
        moves = float((change_N**2).mean() ** 0.5)
        yield Figure.of("quantease.loss_moves", "nats", [moves], **shared)


def seconds() -> Iterator[Figure]:
    """Of one layer that moved by 0.5 % of its weights, from nothing and from before."""
    weight_OI, moments_II = _random(256, 256)
    warm = fitted(weight_OI, moments_II)
    drift = torch.randn(weight_OI.shape, generator=torch.Generator().manual_seed(1))
    moved_OI = weight_OI + 0.005 * weight_OI.std() * drift
    for start, passes in ((None, COLD), (warm, WARM)):
        taken = []
        for _ in range(5):
            began = time.process_time()
            fitted(moved_OI, moments_II, start, passes=passes)
            taken.append(time.process_time() - began)
        yield Figure.of(
            "quantease.seconds", "s", taken, start="warm" if start else "cold", passes=passes
        )


def _random(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A layer whose inputs hang together."""
    make = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(outputs, inputs, generator=make) * inputs**-0.5
    falling_I = torch.arange(1, inputs + 1) ** -0.7
    x_NI = torch.randn(4 * inputs, inputs, generator=make) * falling_I
    x_NI = x_NI @ torch.randn(inputs, inputs, generator=make)
    return weight_OI, x_NI.T @ x_NI / len(x_NI)


if __name__ == "__main__":
    raise SystemExit(main())
