"""Poison in a stream of actions: `python -m benchmarks.poison`."""
