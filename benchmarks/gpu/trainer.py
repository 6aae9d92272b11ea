"""The whole trainer on the device, by its own benchmark."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.sections import Job
from benchmarks.gpu.timing import device_of
from benchmarks.report import Figure

_UNITS = {"seconds": "s", "bytes": "B", "per_second": "1/s"}


def jobs(quick: bool) -> Iterator[Job]:
    """One: all that the benchmark measures."""
    yield Job("training", lambda: _figures(quick))


def _figures(quick: bool) -> Iterator[Figure]:
    from benchmarks.training import measure

    measured = measure(device_of(), quick)
    settings = {name: value for name, value in measured.items() if isinstance(value, str)}
    yield from _numbers("training", measured, settings)


def _numbers(name: str, value: Any, settings: dict[str, Any]) -> Iterator[Figure]:
    """A figure for every number, or list of numbers, by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}", inner, settings)
    elif isinstance(value, int | float):
        yield Figure.of(name, _unit(name), [float(value)], **settings)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        yield Figure.of(name, _unit(name), [float(x) for x in value], **settings)


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
