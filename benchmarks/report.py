"""How every benchmark runs and prints: the check first, then figures, then nothing else.

    def check(options): ...             # raises CheckFailed when a result is wrong
    def measure(options): yield Figure.of("streams.local.append_per_second", "1/s", values, ...)

    if __name__ == "__main__":
        raise SystemExit(report.run(report.parser(__doc__), check, measure))

With `--json`, standard output carries one JSON object per figure and nothing else; without it, a
table. Progress goes to standard error. A failed check prints no figure and gives exit status 1,
input that cannot be used its error and 2.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Check = Callable[[argparse.Namespace], None]
Measure = Callable[[argparse.Namespace], Iterable["Figure"]]


class CheckFailed(Exception):
    """What is to be measured does not work; the message says what was expected and found."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value with the lowest and highest of its runs."""

    figure: str
    value: float
    unit: str
    low: float
    high: float
    runs: int
    settings: dict[str, Any]

    @classmethod
    def of(cls, figure: str, unit: str, values: Sequence[float], **settings: Any) -> "Figure":
        """The median of several runs, with their extremes."""
        return cls(
            figure=figure,
            value=statistics.median(values),
            unit=unit,
            low=min(values),
            high=max(values),
            runs=len(values),
            settings=settings,
        )


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has; a benchmark adds its own."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", action="store_true", help="one JSON object per figure")
    options.add_argument("--quick", action="store_true", help="under 50 s on two cores")
    return options


def run(
    options: argparse.ArgumentParser,
    check: Check,
    measure: Measure,
    arguments: Sequence[str] | None = None,
) -> int:
    """Check, measure, print; return the exit status. `arguments` defaults to the command line."""
    chosen = options.parse_args(arguments)
    from service.errors import FreshetError  # here: on a GPU machine figures need kernels alone

    progress("checking")
    try:
        check(chosen)
    except FreshetError as error:
        progress(f"error: {error}")
        return 2
    except (CheckFailed, AssertionError) as error:
        progress(f"the correctness check failed, so nothing is measured: {error}")
        return 1
    progress("measuring")
    figures = []
    try:
        for figure in measure(chosen):
            figures.append(figure)
            if chosen.json:
                print(json.dumps(asdict(figure)), flush=True)
    except FreshetError as error:
        progress(f"error: {error}")
        return 2
    except CheckFailed as error:
        progress(f"what was to be measured failed on the way: {error}")
        return 1
    if not chosen.json:
        _print(figures)
    return 0


def interleaved(runs: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each measurement `runs` times, taking turns, so that a slow minute hits them alike."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(runs):
        for name, take in measures.items():
            values[name].append(take())
            progress(f"run {turn + 1}/{runs}: {name} {_number(values[name][-1])}")
    return values


def progress(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)


def _print(figures: Sequence[Figure]) -> None:
    # Imported late: with --json a machine needs no more than what it measures.
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(_table(figures))


def _table(figures: Sequence[Figure]) -> "Table":
    """One row per figure; settings that all of them share stand once, below."""
    from rich.table import Table

    shared = dict(figures[0].settings) if figures else {}
    for figure in figures:
        shared = {key: value for key, value in shared.items() if figure.settings.get(key) == value}
    table = Table(caption=_words(shared), caption_justify="left")
    for heading in (field.name for field in fields(Figure)):
        numeric = heading in ("value", "low", "high", "runs")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for figure in figures:
        value, low, high = map(_number, (figure.value, figure.low, figure.high))
        own = {key: value for key, value in figure.settings.items() if key not in shared}
        table.add_row(figure.figure, value, figure.unit, low, high, str(figure.runs), _words(own))
    return table


def _words(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
