"""How fast HSTU attention is, forward and forward + backward, beside other attentions.

Every user has the same number of events and asks at each of them, so that all work is the same: one
causal square for each user and head. Operations are counted once: `4 D` for each pair of row and
event in the forward pass, `14 D` in both, whatever an implementation computes again.

    python -m benchmarks.attention --quick             # on a CPU
    python -m benchmarks.attention --device cuda       # on a GPU: lengths 256 to 8,192, bf16

Measured, on a CPU (fp32) or on a GPU (bf16):

- `attention.*`: ours with both relative biases; on a GPU the Triton kernels, on a CPU register
  tiles in numba
- `attention.without_rab.*`: the same without biases (GPU)
- `attention.reference.*`: ours in plain torch, one dense block for each user
- `attention.sdpa.*`: torch's scaled_dot_product_attention, as it chooses: softmax instead of SiLU,
  no bias
- `attention.flash.*`: the same, FlashAttention-2 (GPU)
- `attention.flex.*`: FlexAttention, compiled, softmax, no bias (GPU)

Figures: seconds, TFLOP/s, the share of the rate of a large matrix product, how many times faster
than others ours is; on a GPU the peak of memory beyond inputs, and the seconds that a new batch
costs once for all layers. Needs torch, triton, numba and numpy alone.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import report
from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of
from benchmarks.report import CheckFailed, Figure
from kernels.attention import DISTANCE_BUCKETS, TIME_BUCKETS, Events, Rows, attention

LENGTHS = {"cpu": (64, 256, 1024), "cuda": (256, 512, 1024, 2048, 4096, 8192)}
QUICK_LENGTHS = {"cpu": (64, 256), "cuda": (1024, 8192)}
FLEX_LENGTHS = (1024, 8192)
"""Every length is compiled anew, which takes longer than all measurements."""
WIDTHS = {"cpu": (32,), "cuda": (64, 128)}
TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Events in a batch, whatever the length of a user's history."""
HEADS = 4
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Norm of the error over the norm of the result: sums in another order; rounding to 8 bits."""

OURS = "ours"
OURS_AND_FLASH = (OURS, "without_rab", "sdpa", "flash")

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """One measurement's sizes."""

    users: int
    length: int
    heads: int
    width: int
    dtype: torch.dtype
    device: str

    @property
    def operations(self) -> int:
        """Of the forward pass: two products for every pair."""
        pairs = self.length * (self.length + 1) // 2
        return 4 * self.width * pairs * self.heads * self.users

    def settings(self) -> dict[str, Any]:
        """What stands beside every figure."""
        return {
            "users": self.users, "length": self.length, "heads": self.heads, "dim": self.width,
            "dtype": str(self.dtype).removeprefix("torch."), "device": _name_of(self.device),
        }  # fmt: skip


class Batch:
    """Random queries, keys, values, tables and times for a shape."""

    def __init__(self, shape: Shape, lengths: list[int] | None = None, seed: int = 0) -> None:
        make = torch.Generator().manual_seed(seed)
        lengths = lengths or [shape.length] * shape.users
        self.shape, events = shape, sum(lengths)
        size = (events, shape.heads, shape.width)
        self.q, self.k, self.v, self.grad_out = (
            self._learned(torch.randn(size, generator=make), shape.dtype) for _ in range(4)
        )
        self.distance_bias, self.time_bias = (
            self._learned(torch.randn(buckets, generator=make) * 0.1, torch.float32)
            for buckets in (DISTANCE_BUCKETS, TIME_BUCKETS)
        )
        # Visits: minutes between most events, days between some.
        gap_ms = -60_000 * torch.log1p(-torch.rand(events, generator=make))
        gap_ms *= 10 ** (3 * torch.rand(events, generator=make) ** 4)
        starts = torch.tensor([0, *lengths]).cumsum(0)
        position = torch.cat([torch.arange(n) for n in lengths])
        self.offsets, self.position = starts.to(shape.device), position.to(shape.device)
        self.at_ms = gap_ms.long().cumsum(0).to(shape.device)
        self.rows, self.events = self.layout()

    @property
    def learned(self) -> list[Tensor]:
        """What has gradients."""
        return [self.q, self.k, self.v, self.distance_bias, self.time_bias]

    def layout(self) -> tuple[Rows, Events]:
        """Rows and events that no kernel has seen."""
        rows = Rows(self.offsets, self.position, self.position + 1, self.at_ms)
        return rows, Events(self.offsets, self.at_ms)

    def attend(self, backend: str, biased: bool = True) -> Tensor:
        """Ours."""
        distance, time = self.distance_bias, self.time_bias
        if backend == "reference":
            distance, time = distance.to(self.q.dtype), time.to(self.q.dtype)
        return attention(
            self.q, self.k, self.v, self.rows, self.events,
            distance if biased else None, time if biased else None,
            self.shape.length, self.shape.width**-0.5, backend,
        )  # fmt: skip

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [users, heads, length, width], as others take them."""
        size = (self.shape.users, self.shape.length, self.shape.heads, self.shape.width)
        q, k, v = (
            t.detach().view(size).transpose(1, 2).requires_grad_() for t in (self.q, self.k, self.v)
        )
        return q, k, v

    def _learned(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.to(self.shape.device, dtype).requires_grad_()


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m benchmarks.attention`."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--lengths", type=int, nargs="+", help="events of a user (cuda: 256 .. 8,192)")
    add("--dims", type=int, nargs="+", help="width of a head (32; cuda: 64 and 128)")
    add("--heads", type=int, default=HEADS, help="(4)")
    add("--tokens", type=int, help="events in a batch (2,048; cuda: 65,536)")
    add("--runs", type=int, help="measurements of each (5; cuda: 10)")
    return report.run(options, check, measure, arguments)


def check(options: argparse.Namespace) -> None:
    """What is measured does what the reference does in fp64, with every gradient."""
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckFailed("there is no GPU that torch could use")
    backends = ("triton",) if device == "cuda" else ("cpu", "reference")
    dtypes = (torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,)
    for dtype in dtypes:
        shape = Shape(4, 300, 2, 32, dtype, device)
        batch = Batch(shape, lengths=[300, 0, 1, 63])
        exact = Batch(Shape(4, 300, 2, 32, torch.float64, "cpu"), lengths=[300, 0, 1, 63])
        with torch.no_grad():
            for ours, theirs in zip(
                (*exact.learned, exact.grad_out), (*batch.learned, batch.grad_out), strict=True
            ):
                ours.data = theirs.double().cpu()
        expected = _with_gradients(exact, "reference")
        for backend in backends:
            for found, wanted in zip(_with_gradients(batch, backend), expected, strict=True):
                error = (found.double().cpu() - wanted).norm() / wanted.norm()
                if not error <= TOLERANCES[dtype]:
                    raise CheckFailed(f"{backend} in {dtype} is off by {error:.1e} of the result")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Every shape: all implementations take turns."""
    device = options.device
    lengths = options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS)[device]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    runs = options.runs or (10 if device == "cuda" else 5)
    limit = _matmul_rate(device, dtype, runs)
    yield _limit(limit, device, dtype)
    for width in options.dims or WIDTHS[device]:
        for length in lengths:
            users = max(1, (options.tokens or TOKENS[device]) // length)
            shape = Shape(users, length, options.heads, width, dtype, device)
            yield from _measure(Batch(shape), runs, statistics.median(limit))


def jobs(quick: bool) -> Iterator[Job]:
    """For `benchmarks.gpu`: a job for each shape, the most telling first."""
    device = device_of()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    small = quick or device == "cpu"
    lengths = (16,) if small else (8192, 1024, 4096, 256, 2048, 512)
    widths = (8,) if small else (64, 128)
    tokens, runs = (32, 2) if small else (TOKENS[device], 10)
    limit = [math.nan]

    def rate() -> Iterator[Figure]:
        rates = _matmul_rate(device, dtype, runs)
        limit[0] = statistics.median(rates)
        yield _limit(rates, device, dtype)

    def shape_of(length: int, width: int) -> Shape:
        return Shape(tokens // length, length, HEADS, width, dtype, device)

    yield Job("matrix-product rate", rate)
    for length in lengths:
        for width in widths:
            shape = shape_of(length, width)
            yield Job(
                f"length {length}, head dim {width}",
                lambda shape=shape: _all_or_error(shape, runs, limit[0], OURS_AND_FLASH),
            )
    shape = shape_of(lengths[-1], widths[0])
    yield Job(
        f"reference, length {shape.length}, head dim {shape.width}",
        lambda: _all_or_error(shape, runs, limit[0], ("reference",)),
    )


def flex_jobs(quick: bool) -> Iterator[Job]:
    """For `benchmarks.gpu`: FlexAttention, whose compilation takes longer than all measurements."""
    if device_of() == "cpu":
        return
    for width in WIDTHS["cuda"]:
        for length in (256,) if quick else reversed(FLEX_LENGTHS):
            shape = Shape(TOKENS["cuda"] // length, length, HEADS, width, torch.bfloat16, "cuda")
            yield Job(
                f"length {length}, head dim {width}",
                lambda shape=shape: _all_or_error(shape, 10, math.nan, ("flex",)),
            )


def _all_or_error(
    shape: Shape, runs: int, limit: float, names: tuple[str, ...]
) -> Iterator[Figure]:
    """The figures of all that are named; RuntimeError after those that there are, if one cannot."""
    left_out: list[str] = []
    yield from _measure(Batch(shape), runs, limit, names, left_out)
    if left_out:
        raise RuntimeError("; ".join(left_out))


def _measure(
    batch: Batch, runs: int, limit: float, names: Sequence[str] = (),
    left_out: list[str] | None = None,
) -> Iterator[Figure]:  # fmt: skip
    """One shape's figures, of the implementations named or of all; `left_out` gets those that
    cannot, and why."""
    shape, seconds = batch.shape, {}
    calls = {name: make() for name, make in _calls(batch).items() if not names or name in names}
    passes = {"forward": _forward, "forward_backward": _forward_backward}
    for kind, run in passes.items():
        timed: dict[str, Callable[[], float]] = {}
        for name, (call, learned) in calls.items():
            whole = functools.partial(run, call, learned, batch)
            memory = _warm(name, whole, shape.device)
            if isinstance(memory, str):
                report.progress(memory)
                if left_out is not None:
                    left_out.append(memory)
                continue
            timed[name] = functools.partial(_seconds, whole, shape.device)
            if shape.device == "cuda":
                yield _figure(f"{kind}_peak_bytes", name, "B", [float(memory)], shape)
        seconds[kind] = report.interleaved(runs, timed)
    for kind, by_name in seconds.items():
        operations = shape.operations * (1.0 if kind == "forward" else 3.5)
        for name, values in by_name.items():
            yield _figure(f"{kind}_seconds", name, "s", values, shape)
            rates = [operations / value / 1e12 for value in values]
            yield _figure(f"{kind}_tflops", name, "TFLOP/s", rates, shape)
            if limit > 0:
                shares = [rate / limit for rate in rates]
                yield _figure(f"{kind}_share_of_matmul", name, "", shares, shape)
        others = ("sdpa", "flash") if OURS in by_name else ()
        for name in (name for name in others if name in by_name):
            ratios = [its / own for own, its in zip(by_name[OURS], by_name[name], strict=True)]
            yield _figure(f"{kind}_times_faster_than_{name}", OURS, "", ratios, shape)
    if shape.device == "cuda" and OURS in calls:
        yield _figure("plan_seconds", OURS, "s", _plan_seconds(batch, runs), shape)


def _calls(batch: Batch) -> dict[str, Callable[[], tuple[Call, Sequence[Tensor]]]]:
    """Every implementation by name: makes the call and the tensors that it has gradients for."""
    dense = batch.dense()
    calls: dict[str, Callable[[], tuple[Call, Sequence[Tensor]]]] = {
        OURS: lambda: (lambda: batch.attend("auto"), batch.learned),
        "reference": lambda: (lambda: batch.attend("reference"), batch.learned),
        "sdpa": lambda: (lambda: scaled_dot_product_attention(*dense, is_causal=True), dense),
    }
    if batch.shape.device == "cuda":
        bare = batch.learned[:3]
        calls["without_rab"] = lambda: (lambda: batch.attend("auto", biased=False), bare)
        calls["flash"] = lambda: (lambda: _flash(dense), dense)
        if batch.shape.length in FLEX_LENGTHS:
            calls["flex"] = lambda: (_flex(batch.shape, dense), dense)
    return calls


def _flash(dense: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(*dense, is_causal=True)


def _flex(shape: Shape, dense: tuple[Tensor, Tensor, Tensor]) -> Call:
    """FlexAttention, compiled for this shape."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def causal(user: Tensor, head: Tensor, row: Tensor, event: Tensor) -> Tensor:
        return row >= event

    mask = create_block_mask(causal, None, None, shape.length, shape.length, device=shape.device)
    compiled = torch.compile(flex_attention)
    return lambda: compiled(*dense, block_mask=mask)


def _forward(call: Call, learned: Sequence[Tensor], batch: Batch) -> None:
    with torch.no_grad():
        call()


def _forward_backward(call: Call, learned: Sequence[Tensor], batch: Batch) -> None:
    out = call()
    torch.autograd.grad(out, tuple(learned), batch.grad_out.detach().reshape(out.shape))


def _with_gradients(batch: Batch, backend: str) -> list[Tensor]:
    out = batch.attend(backend)
    return [out.detach(), *torch.autograd.grad(out, batch.learned, batch.grad_out.detach())]


def _warm(name: str, run: Callable[[], None], device: str) -> int | str:
    """Run until everything is compiled. Returns the peak of memory beyond the inputs (a GPU's), or
    in words why an implementation cannot."""
    try:
        run()
        if device != "cuda":
            return 0
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    except Exception as error:
        if name == OURS:
            raise
        return f"{name} is left out: {type(error).__name__}: {str(error)[:200]}"


def _seconds(run: Callable[[], object], device: str) -> float:
    """Of one run, from an idle device to an idle device; short ones are repeated."""
    repeats, elapsed = 1, 0.0
    while True:
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        _wait(device)
        elapsed = time.perf_counter() - started
        if elapsed > 0.02 or repeats >= 64:
            return elapsed / repeats
        repeats *= 4


def _plan_seconds(batch: Batch, runs: int) -> list[float]:
    """What a new batch costs once for all layers: the first call with it less a later one."""
    values = []
    for _ in range(runs):
        batch.rows, batch.events = batch.layout()
        forward = functools.partial(_forward, lambda: batch.attend("auto"), [], batch)
        _wait(batch.shape.device)
        started = time.perf_counter()
        forward()
        _wait(batch.shape.device)
        values.append(time.perf_counter() - started - _seconds(forward, batch.shape.device))
    return values


def _limit(rates: list[float], device: str, dtype: torch.dtype) -> Figure:
    told = str(dtype).removeprefix("torch.")
    return Figure.of(
        "attention.matmul_tflops", "TFLOP/s", rates, device=_name_of(device), dtype=told
    )


def _matmul_rate(device: str, dtype: torch.dtype, runs: int) -> list[float]:
    """TFLOP/s of a large square product of random numbers."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    run = functools.partial(torch.mm, a, b)
    _seconds(run, device)
    return [2 * size**3 / _seconds(run, device) / 1e12 for _ in range(runs)]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _figure(figure: str, name: str, unit: str, values: list[float], shape: Shape) -> Figure:
    prefix = "attention" if name == OURS else f"attention.{name}"
    return Figure.of(f"{prefix}.{figure}", unit, values, **shape.settings())


def _name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    raise SystemExit(main())
