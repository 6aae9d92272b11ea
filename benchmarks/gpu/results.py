"""The report: what was checked, what was measured, and what was not, as JSON and as Markdown."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.gpu.sections import CHECKS, MEASURES, Section
from benchmarks.gpu.targets import TARGETS, Target

Line = dict[str, Any]


class Results:
    """What the sections said so far."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self._started = datetime.datetime.now(datetime.UTC)
        self._lines: dict[str, list[Line]] = {}
        self._lock = Lock()

    def add(self, section: Section, lines: list[Line]) -> None:
        """All that a section's process said."""
        self._lines[section.name] = lines

    def outcome(self, section: Section | str) -> str:
        """`passed` or `measured`, or what is wrong."""
        name = section if isinstance(section, str) else section.name
        if name not in self._lines:
            return "not run"
        if any(line["outcome"] == "failed" for line in self._jobs(name)):
            return "FAILED"
        if self._broken_off(name):
            return "BROKE OFF"
        if any(line["outcome"] == "left out" for line in self._jobs(name)):
            return "cut short"
        return "ended well"

    @property
    def all_well(self) -> bool:
        """Whether every section that ran did all that it was to do."""
        return all(self.outcome(name) == "ended well" for name in self._lines)

    def void(self, section: Section) -> list[str]:
        """The checks without which the section's figures mean nothing, and which did not pass. One
        that did not fail but ran out of time takes nothing away from the figures."""
        return [
            name for name in section.checked_by if self.outcome(name) in ("FAILED", "BROKE OFF")
        ]

    def write(self, folder: Path, seconds: float) -> None:
        """Both files, whole or not at all."""
        with self._lock:
            for name, text in (
                ("results.json", json.dumps(self.as_dict(seconds), indent=1) + "\n"),
                ("results.md", "\n".join(self._markdown(seconds)) + "\n"),
            ):
                draft = folder / f".{name}"
                draft.write_text(text)
                draft.replace(folder / name)

    def as_dict(self, seconds: float) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "date": self._started.isoformat(timespec="seconds"),
            "device": self._device(),
            "quick": self.quick,
            "seconds": round(seconds, 1),
            "all_well": self.all_well,
            "targets": [
                {"target": t.words, "wanted": t.wanted, "found": self._found(t)} for t in TARGETS
            ],
            "sections": [
                {
                    "section": section.name, "outcome": self.outcome(section),
                    "void_because_of": self.void(section),
                    "broke_off": self._broken_off(section.name),
                    "jobs": self._jobs(section.name), "figures": self._figures(section.name),
                }
                for section in (*CHECKS, *MEASURES)
            ],
        }  # fmt: skip

    def _markdown(self, seconds: float) -> Iterator[str]:
        device = self._device()
        yield f"# Measured on {device.get('name', 'an unknown device')}"
        yield ""
        yield f"{self._started:%Y-%m-%d %H:%M} UTC, {seconds:.0f} s, `python -m benchmarks.gpu`."
        if self.quick:
            yield "\n**Tiny sizes: this shows that the command runs, no figure counts.**"
        yield ""
        yield from (f"- {name}: {value}" for name, value in device.items() if name != "name")
        yield from ("", "## Correct?", "")
        for section in CHECKS:
            jobs = self._jobs(section.name)
            passed = sum(line["outcome"] == "done" for line in jobs)
            yield f"- {section.name}: {self.outcome(section)}; {passed} of {len(jobs)} cases passed"
        yield from self._troubles(CHECKS)
        yield from (
            "",
            "## What was to be reached",
            "",
            "| target | wanted | found |",
            "|---|---|---|",
        )
        for target in TARGETS:
            yield f"| {target.words} | {target.wanted} | {self._found(target)} |"
        for section in MEASURES:
            yield from ("", f"## {section.name.capitalize()}: {self.outcome(section)}", "")
            if void := self.void(section):
                yield f"**Void: these checks failed: {'; '.join(void)}.**\n"
            yield from _table(self._figures(section.name))
        yield from self._troubles(MEASURES)

    def _troubles(self, sections: tuple[Section, ...]) -> Iterator[str]:
        """What failed, with its traceback, and what there was no time for."""
        for section in sections:
            for line in self._jobs(section.name):
                if line["outcome"] == "left out":
                    yield f"\nLeft out of {section.name}: {line['job']} ({line['why']})."
                if line["outcome"] == "failed":
                    yield f"\nFailed in {section.name}: {line['job']}\n"
                    yield f"```\n{line['why'].strip()}\n```"
            if why := self._broken_off(section.name):
                yield f"\nBroke off: {section.name}\n\n```\n{why.strip()}\n```"

    def _found(self, target: Target) -> str:
        section = next(s for s in MEASURES if s.name == target.section)
        for figure in self._figures(section.name):
            if target.is_of(figure):
                mark = " (void)" if self.void(section) else ""
                reached = "reached" if figure["value"] >= target.least else "missed"
                return f"{_number(figure['value'])}, {reached}{mark}"
        return "not measured"

    def _device(self) -> dict[str, Any]:
        for figure in self._figures("device"):
            return dict(figure["settings"])
        return {}

    def _figures(self, name: str) -> list[Line]:
        return [line["figure"] for line in self._lines.get(name, []) if "figure" in line]

    def _broken_off(self, name: str) -> str:
        return "\n".join(
            line["broke_off"] for line in self._lines.get(name, []) if "broke_off" in line
        )

    def _jobs(self, name: str) -> list[Line]:
        """How each job ended; those that a process did not come to, or not to the end of, are
        left out."""
        lines = self._lines.get(name, [])
        ended = [line for line in lines if "outcome" in line]
        known = {line["job"] for line in ended}
        named = [job for line in lines for job in line.get("jobs", [])]
        why = "its process broke off"
        return ended + [
            {"job": job, "outcome": "left out", "why": why} for job in named if job not in known
        ]


def _table(figures: list[Line]) -> Iterator[str]:
    """Best, median and spread of each figure; best is least where time or memory is counted."""
    if not figures:
        yield "Nothing was measured."
        return
    yield "| figure | best | median | worst | unit | of |"
    yield "|---|---|---|---|---|---|"
    for figure in figures:
        best, worst = figure["high"], figure["low"]
        if figure["unit"] in ("s", "B"):
            best, worst = worst, best
        own = {k: v for k, v in figure["settings"].items() if k not in _TOLD_ONCE}
        words = " ".join(f"{name}={value}" for name, value in own.items())
        numbers = " | ".join(_number(x) for x in (best, figure["value"], worst))
        yield f"| {figure['figure']} {words} | {numbers} | {figure['unit']} | {figure['runs']} |"


_TOLD_ONCE = ("device", "name", "torch", "triton", "numba", "numpy", "python", "driver", "clocks")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
