"""Tensor functions, one folder per operation. Imports only torch, triton, numba and numpy.

Each folder holds the public functions (`__init__.py`), their plain specification (`reference.py`)
and the fast versions (`cpu.py`, `gpu.py`; triton is imported where it is asked for, servers have
none). Operations on the embedding store:

- `key_index`: 64-bit keys to row numbers
- `row_init`: a new row's vector, from seed and key alone
- `rows`: the rows themselves: gather, usage and the fused row-wise optimizer step
- `row_codes`: rows as codes of 8 or 4 bits with a scale and a bias

Shared on CPUs: `reserved` (memory that grows in place), `crew` (threads), `row_dots` (products of
coded rows with a vector, for the search of servers), `lanes` (vector instructions and prefetching),
`mixing` (the hash).
"""
