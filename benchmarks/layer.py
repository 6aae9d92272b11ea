"""How fast a whole HSTU layer is beside a Transformer layer of the same width.

Forward and backward of one layer, inputs and weights in bf16 (fp32 on a CPU), without torch.compile
on either side. Every user has the same number of events, so nobody's padding is counted: the
Transformer layer (pre-norm, 4 d wide in between, GELU) sees dense tensors and FlashAttention-2,
ours its packed rows with both relative biases. Multiply-adds per token at width d and length L:
12 d^2 + L d for the Transformer, 5 d^2 + L d for HSTU.

    python -m benchmarks.layer --quick                 # on a CPU
    python -m benchmarks.layer --device cuda

- `layer.*`: ours
- `layer.stochastic.*`: ours with stochastic length (alpha 1.6) on the same users: a history of N
  events keeps N^(alpha/2) with probability 1 - N^(alpha-2), else all of them. As many users of a
  batch keep theirs whole as that says, to the nearest; the ratio is of times for the same users
- `layer.transformer.*`: the Transformer layer
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchmarks import report
from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of, seconds
from benchmarks.report import CheckFailed, Figure
from kernels.attention import Events, Rows
from service.model.layer import FORMS, Layer

ALPHA = 1.6
TURNS, RUNS = 3, 4
"""Implementations take turns; in each they run so many times."""
MINUTE_MS = 60_000


@dataclass(frozen=True)
class Shape:
    """One measurement's sizes."""

    users: int
    length: int
    dim: int
    heads: int
    device: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def lengths(self, shortened: bool) -> list[int]:
        """Events of each user; by the law of stochastic length if shortened."""
        if not shortened:
            return [self.length] * self.users
        whole = round(self.users * self.length ** (ALPHA - 2))
        short = int(self.length ** (ALPHA / 2))
        return [self.length] * whole + [short] * (self.users - whole)

    def settings(self) -> dict[str, Any]:
        """What stands beside every figure."""
        return {
            "users": self.users, "length": self.length, "dim": self.dim, "heads": self.heads,
            "dtype": str(self.dtype).removeprefix("torch."),
        }  # fmt: skip


class Transformer(nn.Module):
    """Pre-norm, causal, FlashAttention-2 on a GPU."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The next layer's inputs."""
        q, k, v = self.qkv(self.norm1(x_BLD)).unflatten(2, (3, self.heads, -1)).unbind(2)
        heads = (t.transpose(1, 2) for t in (q, k, v))
        backends = [SDPBackend.FLASH_ATTENTION] if x_BLD.is_cuda else [SDPBackend.MATH]
        with sdpa_kernel(backends):
            attended = scaled_dot_product_attention(*heads, is_causal=True)
        x_BLD = x_BLD + self.output(attended.transpose(1, 2).flatten(2))
        return x_BLD + self.down(gelu(self.up(self.norm2(x_BLD))))


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m benchmarks.layer`."""
    options = report.parser(__doc__)
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return report.run(options, check, measure, arguments)


def check(options: argparse.Namespace) -> None:
    """Stochastic length keeps as many events as its law says."""
    kept = Shape(32, 8192, 512, 8, options.device).lengths(shortened=True)
    if sorted(kept) != [1351] * 31 + [8192]:
        raise CheckFailed(f"stochastic length keeps {sorted(set(kept))} of 8,192 events")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Every shape, one after the other."""
    for shape in shapes(options.device, options.quick):
        report.progress(str(shape.settings()))
        yield from figures(shape)


def jobs(quick: bool) -> Iterator[Job]:
    """For `benchmarks.gpu`: a job for each shape."""
    for shape in shapes(device_of(), quick):
        name = f"length {shape.length}, d={shape.dim}, h={shape.heads}"
        yield Job(name, lambda shape=shape: figures(shape))


def shapes(device: str, quick: bool) -> list[Shape]:
    """The most telling first."""
    if quick:
        return [Shape(3, 24, 16, 2, device)]
    if device == "cpu":
        return [Shape(max(1, 512 // n), n, 64, 2, device) for n in (512, 128)]
    sizes = [(8192, 512, 8), (1024, 512, 8), (4096, 512, 8), (2048, 512, 8)]
    sizes += [(8192, 1024, 8), (8192, 256, 4), (1024, 1024, 8), (256, 512, 8)]
    return [Shape(262_144 // n, n, dim, heads, device) for n, dim, heads in sizes]


def figures(shape: Shape) -> Iterator[Figure]:
    """Times of the three, and how many times faster ours are."""
    torch.manual_seed(0)
    runs = {
        "": _hstu(shape, shortened=False),
        "stochastic.": _hstu(shape, shortened=True),
        "transformer.": _transformer(shape),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            taken[name] += seconds(run, RUNS)
    shared = shape.settings()
    for name, values in taken.items():
        more = {"kept": sum(shape.lengths(True))} if name == "stochastic." else {}
        yield Figure.of(f"layer.{name}forward_backward_seconds", "s", values, **shared, **more)
        if name != "transformer.":
            ratios = [t / own for own, t in zip(values, taken["transformer."], strict=True)]
            yield Figure.of(f"layer.{name}times_faster_than_transformer", "", ratios, **shared)
    tokens, d, n = shape.users * shape.length, shape.dim, shape.length
    for name, adds in (("", 5 * d * d + n * d), ("transformer.", 12 * d * d + n * d)):
        rates = [6 * tokens * adds / value / 1e12 for value in taken[name]]
        yield Figure.of(f"layer.{name}tflops", "TFLOP/s", rates, **shared)


def _hstu(shape: Shape, shortened: bool) -> Callable[[], None]:
    """One step of our layer."""
    width = shape.dim // shape.heads
    layer = Layer(
        FORMS["freshet"], shape.dim, shape.heads, width, width, shape.length, precision=shape.dtype
    ).to(shape.device, shape.dtype)
    x_TD, grad_TD, rows, events = inputs_of(shape, shortened)
    learned = [x_TD, *(p for name, p in layer.named_parameters() if name != "self_bias")]

    def run() -> None:
        torch.autograd.grad(layer.history(x_TD, rows, events)[0], learned, grad_TD)

    return run


def _transformer(shape: Shape) -> Callable[[], None]:
    """One step of the Transformer layer."""
    layer = Transformer(shape.dim, shape.heads).to(shape.device, shape.dtype)
    x_BLD, grad_BLD = _inputs(shape, shape.users, shape.length, shape.dim)
    learned = [x_BLD, *layer.parameters()]

    def run() -> None:
        torch.autograd.grad(layer(x_BLD), learned, grad_BLD)

    return run


def inputs_of(shape: Shape, shortened: bool) -> tuple[Tensor, Tensor, Rows, Events]:
    """What goes into our layer, and the gradient of what comes out: histories with up to twenty
    minutes between two events."""
    lengths = shape.lengths(shortened)
    x_TD, grad_TD = _inputs(shape, sum(lengths), shape.dim)
    make = torch.Generator().manual_seed(1)
    gap_ms = 1 + (20 * MINUTE_MS * torch.rand(sum(lengths), generator=make)).long()
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(shape.device)
    position = torch.cat([torch.arange(n) for n in lengths]).to(shape.device)
    at_ms = gap_ms.cumsum(0).to(shape.device)
    return x_TD, grad_TD, Rows(offsets, position, position + 1, at_ms), Events(offsets, at_ms)


def _inputs(shape: Shape, *size: int) -> tuple[Tensor, Tensor]:
    """What goes in, which has a gradient, and the gradient of what comes out."""
    make = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(size, generator=make).to(shape.device, shape.dtype) for _ in range(2)
    )  # fmt: skip
    return x.requires_grad_(), grad


if __name__ == "__main__":
    raise SystemExit(main())
