"""The ranking model: tokens, HSTU with rows that carry limits, heads, and what a server asks of it.

One function builds the model's input for training and for serving (`tokens`), one module computes
it (`hstu`). May import from `service` and `kernels`.
"""
