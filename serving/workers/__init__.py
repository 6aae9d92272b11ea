"""Several HTTP workers beside one engine: processes that talk over Unix socket pairs.

`supervisor` runs in the engine's process, which is the parent: it starts workers and starts them
again. `__main__` is a worker; `remote` is its backend, `desk` what answers it, `frames` what goes
over the socket between them, `figures` how the metrics of all become one.
"""
