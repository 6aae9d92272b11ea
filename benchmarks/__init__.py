"""Measurements: `python -m benchmarks.NAME [--json] [--quick]`.

Each checks first that what it measures is right; `report.py` prints their figures. Nothing of the
product imports this package.
"""
