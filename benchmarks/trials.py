"""Long experiments as many short ones: each in a process of its own, its result kept in a file.

A result is one line of JSON beside the trial that it belongs to, so that an interrupted run goes
on where it was, and a run of more seeds or variants repeats nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.report import progress

Trial = dict[str, Any]
"""What is tried: names and plain values, equal for equal trials."""
Result = dict[str, Any]


def outcomes(
    trials: Sequence[Trial], work: Callable[[Trial], Result], jobs: int, kept: Path | None
) -> list[Result]:
    """The result of every trial, in their order: those in the file `kept`, and the others run now,
    `jobs` at a time with one thread each.

    `work` is a function at the top of a module. What a trial raises ends the run; results of
    finished trials stay in the file.
    """
    known = _read(kept)
    left = [trial for trial in trials if _key(trial) not in known]
    if len(left) < len(trials):
        progress(f"{len(trials) - len(left)} of {len(trials)} trials are in {kept}")
    for number, (trial, result) in enumerate(_run(left, work, jobs), 1):
        known[_key(trial)] = result
        if kept is not None:
            _append(kept, {"trial": trial, "result": result})
        progress(f"{number}/{len(left)} {_words(trial)}: {_words(result)}")
    return [known[_key(trial)] for trial in trials]


def _run(
    trials: Sequence[Trial], work: Callable[[Trial], Result], jobs: int
) -> Iterable[tuple[Trial, Result]]:
    if jobs == 1:
        _alone()
        yield from ((trial, work(trial)) for trial in trials)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_alone) as pool:
        running = {pool.submit(work, trial): trial for trial in trials}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def _read(kept: Path | None) -> dict[str, Result]:
    if kept is None or not kept.exists():
        return {}
    text = kept.read_text()
    if text and not text.endswith("\n"):  # a run was killed while it wrote
        text = text[: text.rfind("\n") + 1]
        kept.write_text(text)
    lines = [json.loads(line) for line in text.splitlines()]
    return {_key(line["trial"]): line["result"] for line in lines}


def _append(kept: Path, line: dict[str, Any]) -> None:
    with kept.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _key(trial: Trial) -> str:
    return json.dumps(trial, sort_keys=True)


def _words(values: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
        if not isinstance(value, (list, dict))
    )
