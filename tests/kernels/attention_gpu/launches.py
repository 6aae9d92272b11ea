"""The calls that a GPU would get, without one: fake CUDA tensors (torch's FakeTensorMode, which
knows shapes, types and devices and holds no numbers) go through all of our own code, and every
launch is bound and compiled for sm_90 from the very arguments it is given, but not run.

`python -m tests.kernels.attention_gpu.launches` prints the kernels launched. What it shows: no
tensor is on the wrong device, nothing waits for a number on the device, no launch has an argument
too many or of a type that the compiler refuses.
"""

import contextlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction, MockTensor

from benchmarks.layer import Shape, inputs_of
from kernels.attention import gpu as attention
from kernels.attention.gpu import plan
from kernels.gating import gpu as gating
from service.model.layer import FORMS, Layer

LAUNCHED: list[str] = []


class Driver:
    """A Hopper GPU as far as the compiler asks."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compile_only() -> None:
    """From here on no launch runs anything."""
    driver.set_active(Driver())
    run = JITFunction.run

    def bound(self: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        LAUNCHED.append(self.__name__)
        given = tuple(mocked(value) for value in given)
        named = {name: mocked(value) for name, value in named.items()}
        return run(self, *given, grid=grid, warmup=True, **named)

    JITFunction.run = bound
    torch.cuda.device = lambda device: contextlib.nullcontext()  # type: ignore[assignment, misc]
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    plan._time_edges = lambda device: torch.zeros(64, dtype=torch.int64, device=device)


def mocked(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    assert value.device.type == "cuda", f"a kernel gets a tensor on {value.device}"
    return MockTensor(value.dtype)


def forward_and_backward(function: Any, grad: Tensor, *given: Any) -> None:
    """Both, by hand: autograd itself asks for a device."""
    context = SimpleNamespace(save_for_backward=lambda *t: setattr(context, "saved_tensors", t))
    out = function.forward(context, *given)
    grads = function.backward(context, grad.view(out.shape))
    for argument, its in zip(given, grads, strict=True):
        if isinstance(argument, Tensor):
            assert (its.shape, its.dtype, its.device) == (
                argument.shape, argument.dtype, argument.device,
            )  # fmt: skip


def main() -> None:
    compile_only()
    with FakeTensorMode():
        shape = Shape(2, 96, 128, 2, "cuda")
        x_TD, grad_TD, rows, events = inputs_of(shape, shortened=False)
        with torch.device("cuda"):
            layer = Layer(FORMS["freshet"], 128, 2, 64, 64, 96, precision=torch.bfloat16)
        out, seen = layer.history(x_TD.float(), rows, events)
        assert (out.shape, out.dtype, out.device.type) == (x_TD.shape, torch.float32, "cuda")
        forward_and_backward(
            attention._Attention, grad_TD, seen.k, seen.k, seen.v, layer.distance_bias,
            layer.time_bias, attention.plan_of(rows, events), 96, 0.1, "ieee",
        )  # fmt: skip
        forward_and_backward(gating._Gated, grad_TD, x_TD, grad_TD, 1e-6)
    print(" ".join(LAUNCHED))


if __name__ == "__main__":
    main()
