"""The parts of `python -m benchmarks.store`: each table in a process of its own, rounds in turn."""
