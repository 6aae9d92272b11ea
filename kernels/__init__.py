"""Tensor functions, one folder per operation. Imports only torch, triton, numba and numpy.

Each folder holds the public functions (`__init__.py`), their plain specification (`reference.py`)
and the fast versions (`cpu.py`, `gpu.py`). Operations on the embedding store:

- `key_index`: 64-bit keys to row numbers
- `row_init`: a new row's vector, from seed and key alone
- `row_update`: gather, usage marks and the fused row-wise optimizer step
- `row_codes`: rows as 8-bit codes with a scale and a bias
"""
