"""A new row's vector: a pure function of (seed, key, component), so that neither the order of
arrival nor the backend, batch or processor changes a bit of it."""

import torch
from torch import Tensor

from kernels.backends import pick
from kernels.key_index.protocol import key_array
from kernels.row_init import cpu, reference

__all__ = ["initial_rows"]


def initial_rows(
    keys_N: Tensor, width: int, seed: int, std: float, backend: str = "numba"
) -> Tensor:
    """Bell-shaped vectors of mean 0 and standard deviation `std`, float32 [N, width], on the keys'
    device: the CPU, but for backend `triton`.

    Component d takes word d of the SplitMix64 sequence that starts at mix(key XOR mix(seed)) and
    adds its four 16-bit parts: an Irwin-Hall sum of four uniforms (bounded by 3.47 std). Integer
    sums and one float32 product round alike everywhere, which logarithms and cosines do not.
    `seed` is any 64-bit integer; raises TypeError for keys that are not int64 [N].
    """
    fill = pick(backend, {"reference": _reference, "numba": _numba, "triton": _triton})
    rows_ND = torch.empty(len(keys_N), width, device=keys_N.device)
    fill(keys_N, seed % 2**64, std, rows_ND)
    return rows_ND


def _reference(keys_N: Tensor, seed: int, std: float, rows_ND: Tensor) -> None:
    reference.fill(key_array(keys_N), seed, std, rows_ND.numpy())


def _numba(keys_N: Tensor, seed: int, std: float, rows_ND: Tensor) -> None:
    cpu.fill(key_array(keys_N), seed, std, rows_ND.numpy())


def _triton(keys_N: Tensor, seed: int, std: float, rows_ND: Tensor) -> None:
    # Imported on demand: a server has no triton.
    from kernels.row_init import gpu

    gpu.fill(keys_N, seed, std, rows_ND)
