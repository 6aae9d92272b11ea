"""Check every kernel on this machine's GPU, measure everything, write the report.

    python -m benchmarks.gpu                        # under 9 minutes; benchmarks/results/
    python -m benchmarks.gpu --out DIR --only layer

Needs torch 2.8, triton 3.6, numba and numpy, no network. Writes `results.json` and `results.md`
anew after every section. Exit status 1 if a check failed, a section broke off or was cut short; the
figures that rest on a failed check are marked as void. Under TRITON_INTERPRET=1 everything runs at
tiny sizes on the CPU: that shows that the command works, its figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.results import Results
from benchmarks.gpu.sections import CHECKS, MEASURES, SECTIONS, Section

TOTAL_SECONDS = 520
GRACE_SECONDS = 20
"""For the job that was running when a section's time was over; then its process is ended."""
REPOSITORY = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Run the sections, return the exit status."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--out", type=Path, default=REPOSITORY / "benchmarks/results", help="(%(default)s)")
    add("--quick", action="store_true", help="tiny sizes; always so in Triton's interpreter")
    add("--only", action="append", choices=list(SECTIONS), help="this section, more than once")
    chosen = options.parse_args(arguments)
    quick = chosen.quick or os.environ.get("TRITON_INTERPRET") == "1"
    chosen.out.mkdir(parents=True, exist_ok=True)
    results, started = Results(quick), time.monotonic()

    def left() -> float:
        return TOTAL_SECONDS - (time.monotonic() - started)

    def run(section: Section, seconds: float) -> None:
        say(f"{section.name}: at most {seconds:.0f} s")
        results.add(section, section_lines(section, seconds, quick))
        results.write(chosen.out, TOTAL_SECONDS - left())
        say(f"{section.name}: {results.outcome(section)}, {left():.0f} s left")

    wanted = set(chosen.only or SECTIONS)
    checks = [section for section in CHECKS if section.name in wanted]
    measures = [section for section in MEASURES if section.name in wanted]
    kept = sum(section.seconds for section in measures)
    with ThreadPoolExecutor(max(1, min(len(CHECKS), (os.cpu_count() or 1) // 2))) as pool:
        # On a machine of few cores checks wait for each other: what they leave out is named.
        list(pool.map(lambda s: run(s, max(0.0, min(s.seconds, left() - kept))), checks))
    for i, section in enumerate(measures):
        later = sum(other.seconds for other in measures[i + 1 :])
        run(section, max(0.0, left() - later - GRACE_SECONDS))
    say(f"written: {chosen.out / 'results.md'}, {chosen.out / 'results.json'}")
    return 0 if results.all_well else 1


def section_lines(section: Section, seconds: float, quick: bool) -> list[dict[str, object]]:
    """What the section's process said of its jobs, and how that process ended if it broke off."""
    with tempfile.TemporaryDirectory() as folder:
        lines, errors = Path(folder, "lines"), Path(folder, "errors")
        command = [sys.executable, "-m", "benchmarks.gpu.child", section.name, "--lines", lines]
        command += ["--seconds", str(seconds), *["--quick"] * quick]
        why = ""
        with errors.open("w") as file:
            try:
                status = subprocess.run(
                    command, cwd=REPOSITORY, stdout=file, stderr=file, check=False,
                    timeout=seconds + GRACE_SECONDS,
                ).returncode  # fmt: skip
                if status not in (0, 1):
                    why = f"its process ended with status {status}"
            except subprocess.TimeoutExpired:
                why = f"its process was ended after {seconds + GRACE_SECONDS:.0f} s"
        told = [_parsed(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        if not told:
            why = why or "its process said nothing"
        if why:
            tail = errors.read_text(errors="replace")[-4000:]
            told.append({"broke_off": f"{why}\n{tail}"})
        return told


def say(text: str) -> None:
    """On standard error, what is going on."""
    print(text, file=sys.stderr, flush=True)


def _parsed(line: str) -> dict[str, object]:
    """A line, which may be cut off where its process was ended."""
    try:
        parsed: dict[str, object] = json.loads(line)
    except ValueError:
        return {"broke_off": f"a line that is not whole: {line[:200]}"}
    return parsed


if __name__ == "__main__":
    raise SystemExit(main())
