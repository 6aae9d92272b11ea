"""What a layer does with the result of its attention before the output matrix: normalise and gate.

Source: Actions Speak Louder than Words (arXiv 2402.17152), equation 3: `LN(A V) * U`. The norm runs
over the columns of all heads together and has no weights of its own.

Shapes: R rows, W columns of all heads.
"""

from torch import Tensor

from kernels.backends import pick
from kernels.gating import reference

__all__ = ["gated"]


def gated(attended_RW: Tensor, gate_RW: Tensor, eps: float = 1e-6, backend: str = "auto") -> Tensor:
    """Return [R, W]: each row of `attended` normalised to mean 0 and variance 1, times `gate`.

    A row's result depends on that row alone. Differentiable in both. Computed in float32 inside
    "triton" and returned in the inputs' type.

    backend: "reference" (plain torch), "triton" (one pass over memory in either direction, on a
    GPU) or "auto": triton for tensors on a GPU.
    """
    if attended_RW.shape != gate_RW.shape or attended_RW.dtype != gate_RW.dtype:
        raise ValueError(
            f"the gate is {_form(gate_RW)}, what it gates {_form(attended_RW)}; "
            "both need one shape and one type"
        )
    if backend == "auto":
        backend = "triton" if attended_RW.device.type == "cuda" else "reference"
    return pick(backend, {"reference": reference.gated, "triton": _triton})(
        attended_RW, gate_RW, eps
    )


def _triton(attended_RW: Tensor, gate_RW: Tensor, eps: float) -> Tensor:
    """Imported where it is used: a server on CPU has no triton."""
    from kernels.gating import gpu

    return gpu.gated(attended_RW, gate_RW, eps)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
