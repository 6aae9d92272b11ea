"""Poison in a real stream: what reaches published versions, with the gate and without.

A stream of clicks is learned as it is, with an hour in which every item's clicks go to another
item, with an hour of shuffled clicks, and with floods of bots; a made-up product of two camps has
likes and hides exchanged. Each poison begins from the state of the clean stream and is followed for
three hours. A version is judged every so many seconds of event time. Figures: docs/gate.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import report
from benchmarks.poison.plot import draw
from benchmarks.poison.rehearsal import Course, Rehearsal
from benchmarks.poison.stories import RATE, Story, camps, clicks, told, within

STORIES = ("flipped", "shuffled", "flood20", "flood500", "likes-flipped")
LIKES_HOURS, LIKES_RATE, LIKES_AT = 8.0, 6.0, 5.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--data", type=Path, required=True, help="CSV (also .gz) or Parquet file of clicks")
    add("--limit", type=int, default=180_000, metavar="N", help="only the first N clicks")
    add("--stories", nargs="+", choices=STORIES, default=STORIES, metavar="S", help=f"{STORIES}")
    add("--at", type=float, nargs="+", default=[16.0], metavar="H", help="hours of the poisons")
    add("--every", type=float, default=120.0, metavar="S", help="seconds between two versions")
    add("--plot", type=Path, metavar="PNG", help="draw what the gate measured of the last flip")
    return options


def check(options: argparse.Namespace) -> None:
    """A flipped hour flips, and a flood is five times what it joins."""
    clean = camps(2, 1)
    flipped = told("likes-flipped", clean, 0.5)
    assert int((flipped.action_T != clean.action_T).sum()) == within(clean, flipped.poison_ms)
    flood = told("flood20", clean, 0.5)
    assert len(flood) - len(clean) == RATE * within(clean, flood.poison_ms)
    assert bool((np.diff(flood.at_ms_T) >= 0).all())


def measure(options: argparse.Namespace) -> Iterator[report.Figure]:
    """Play every story and tell what reached published versions."""
    torch.set_num_threads(1)
    names = ["flipped", "likes-flipped"] if options.quick else options.stories
    limit, hours = (60_000, [9.0]) if options.quick else (options.limit, options.at)
    if on_clicks := [name for name in names if not name.startswith("likes")]:
        clean = clicks(options.data, limit)
        poisoned = [told(name, clean, hour) for name in on_clicks for hour in hours]
        yield from _played(clean, poisoned, options)
    if "likes-flipped" in names:
        clean = camps(LIKES_HOURS, LIKES_RATE)
        yield from _played(clean, [told("likes-flipped", clean, LIKES_AT)], options)


def _played(
    clean: Story, poisoned: list[Story], options: argparse.Namespace
) -> Iterator[report.Figure]:
    for course in Rehearsal(clean, options.every).courses(poisoned):
        yield from _figures(course, options.every)
        if options.plot and course.story.name == "flipped":
            draw(options.plot, course)


def _figures(course: Course, every: float) -> Iterator[report.Figure]:
    story, name = course.story, f"poison.{course.story.name}"
    values: dict[str, tuple[str, float]] = {"capped": ("1", course.capped / course.actions)}
    settings: dict[str, object] = {"versions": len(course.versions), "every_seconds": every}
    if story.poison_ms[1]:
        settings["hour"] = story.hour
        values["published_minutes"] = ("min", course.published_minutes())
        values["hold_ends_after"] = ("min", course.hold_minutes())
    else:
        values["held_wrongly"] = ("1", course.false_holds())
    if story.targets:
        values["targets_share"] = ("1", course.served_share(guarded=True))
        values["targets_share_unguarded"] = ("1", course.served_share(guarded=False))
    for what, (unit, value) in values.items():
        yield report.Figure.of(f"{name}.{what}", unit, [value], **settings)
    for part in ("judge", "gather") if not story.poison_ms[1] else ():
        seconds = [getattr(version, f"{part}_seconds") for version in course.versions]
        yield report.Figure.of(f"{name}.{part}_seconds", "s", seconds, **settings)


if __name__ == "__main__":
    raise SystemExit(report.run(parser(), check, measure))
