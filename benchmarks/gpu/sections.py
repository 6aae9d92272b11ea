"""What is checked and what is measured, and for how long.

Every section names its jobs without importing torch: the command itself stays light, each section
runs in a process of its own.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Figure


@dataclass(frozen=True)
class Job:
    """A check, which raises if something is wrong, or a measurement, which gives figures."""

    name: str
    run: "Callable[[], Iterable[Figure] | None]"


@dataclass(frozen=True)
class Section:
    """Jobs that share a process, the seconds after which none is started, and the checks without
    which its figures mean nothing."""

    name: str
    source: str
    seconds: float
    checked_by: tuple[str, ...] = ()

    def jobs(self, quick: bool) -> Iterator[Job]:
        """What is to be run, the most telling first. `quick`: sizes that show only that it runs."""
        if self.source.startswith("tests."):
            from benchmarks.gpu.cases import cases_of

            for module in self.source.split():
                yield from (Job(name, case) for name, case in cases_of(module))
        else:
            module, _, function = self.source.partition(":")
            yield from getattr(importlib.import_module(module), function)(quick)

    @property
    def is_check(self) -> bool:
        return self.source.startswith("tests.")


_ATTENTION = ("attention, forms", "attention, sizes", "attention, windows")
_STORE = ("key index", "rows", "races")

CHECKS = (
    Section("attention, sizes", "tests.kernels.attention_gpu.size_cases", 150),
    Section("attention, windows", "tests.kernels.attention_gpu.window_cases", 150),
    Section("attention, forms", "tests.kernels.attention_gpu.attention_cases", 150),
    Section("gating", "tests.kernels.attention_gpu.gating_cases", 100),
    Section(
        "key index", "tests.kernels.gpu.index_cases tests.kernels.gpu.row_init_cases", 100
    ),
    Section("rows", "tests.kernels.gpu.rows_cases", 100),
    Section("row codes", "tests.kernels.gpu.row_codes_cases", 60),
    Section("races", "tests.kernels.gpu.race_cases", 100),
)  # fmt: skip
"""Run side by side, before anything is measured."""

MEASURES = (
    Section("device", "benchmarks.gpu.device:jobs", 15),
    Section("attention", "benchmarks.attention:jobs", 90, _ATTENTION),
    Section("layer", "benchmarks.layer:jobs", 70, (*_ATTENTION, "gating")),
    Section("store", "benchmarks.stores.gpu:jobs", 50, _STORE),
    Section("row codes, decoded", "benchmarks.gpu.decoding:jobs", 15, ("row codes",)),
    Section("training", "benchmarks.gpu.trainer:jobs", 60, (*_ATTENTION, "gating", *_STORE)),
    Section("flex attention", "benchmarks.attention:flex_jobs", 45),
)  # fmt: skip
"""Run one after the other, nothing beside them."""

SECTIONS = {section.name: section for section in (*CHECKS, *MEASURES)}
