"""Audits what Freshet is built on: `make audit`.

1. Every distribution that Freshet pulls in is the one that constraints.txt pins. Fails if not.
2. The licences of all of them, counted; one without any is named.
3. Known vulnerabilities of everything in constraints.txt, asked of OSV by pip-audit. Fails if there
   are any but those in IGNORED. Where OSV cannot be reached it says so and does not fail, unless
   FRESHET_AUDIT=required.

FRESHET_OSV_URL names another address of the same service.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
OSV_URL = os.environ.get("FRESHET_OSV_URL", "https://api.osv.dev/v1/query")
REQUIRED = os.environ.get("FRESHET_AUDIT") == "required"
PATIENCE_SECONDS = 10
IGNORED: dict[str, str] = {}
"""Ids of advisories that do not concern Freshet, each with the reason."""
OF_TORCH = re.compile(r"(nvidia|cuda)-")
"""The libraries of torch's CUDA build, which torch itself pins."""
INSTALLERS = {"pip", "setuptools"}
"""Came with the environment."""


def main() -> int:
    """0 if nothing is wrong, 1 otherwise."""
    pulled = dict(closure("freshet", {"dev"}))
    wrong = [*unpinned(pulled, pins())]
    print(f"audit: {len(pulled)} distributions, licences: {licences(pulled)}")
    for problem in wrong:
        print(f"audit: {problem}", file=sys.stderr, flush=True)
    return max(bool(wrong), advisories())


def closure(name: str, extras: set[str]) -> Iterator[tuple[str, metadata.Distribution]]:
    """Everything installed that `name` needs, itself left out, by canonical name."""
    seen: set[tuple[str, str]] = set()
    wanted = [(name, extra) for extra in ("", *extras)]
    while wanted:
        one, extra = wanted.pop()
        if (one, extra) in seen:
            continue
        seen.add((one, extra))
        found = metadata.distribution(one)
        if extra == "" and one != name:
            yield one, found
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                called = canonicalize_name(needed.name)
                wanted += [(called, ""), *((called, more) for more in needed.extras)]


def pins() -> dict[str, str]:
    """Versions in constraints.txt by canonical name."""
    lines = (line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    return {canonicalize_name(name): version.strip() for name, version in lines}


def unpinned(pulled: dict[str, metadata.Distribution], pinned: dict[str, str]) -> Iterator[str]:
    """What is installed otherwise than pinned."""
    for name, found in sorted(pulled.items()):
        version = found.version.partition("+")[0]  # torch's builds are +cpu, +cu128
        if not OF_TORCH.match(name) and name not in INSTALLERS and pinned.get(name) != version:
            pin = pinned.get(name, "nothing")
            yield f"{name} {version} is installed, constraints.txt pins {pin}"


def licences(pulled: dict[str, metadata.Distribution]) -> str:
    """Licences by number of distributions; those that name none are listed."""
    counts = Counter(licence(found.metadata) for found in pulled.values())
    silent = [name for name, found in pulled.items() if not licence(found.metadata)]
    counts.pop("", None)
    told = ", ".join(f"{what} {count}" for what, count in counts.most_common())
    return told + (f"; none named by {', '.join(sorted(silent))}" if silent else "")


def licence(says: metadata.PackageMetadata) -> str:
    """What a distribution says of its licence, in a few words; empty if nothing."""
    if expression := says.get("License-Expression"):
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2]
        for line in says.get_all("Classifier") or []
        if line.startswith("License ::") and line != "License :: OSI Approved"
    ]
    text = str(says.get("License") or "").strip()
    return classified[0] if classified else text.splitlines()[0][:40] if text else ""


def advisories() -> int:
    """Ask OSV about every pin; 1 if something is known, or if it must answer and does not."""
    if problem := unreachable():
        print(f"audit: NO ADVISORY WAS LOOKED AT: {OSV_URL} does not answer here ({problem})")
        return int(REQUIRED)
    ignored = [option for one in IGNORED for option in ("--ignore-vuln", one)]
    command = [
        sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--osv-url", OSV_URL,
        "--requirement", str(PINS), "--no-deps", "--disable-pip", "--progress-spinner", "off",
        *ignored,
    ]  # fmt: skip
    return int(subprocess.run(command, check=False).returncode != 0)


def unreachable() -> str | None:
    """Why OSV does not answer a first question, or None."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}
    asked = urllib.request.Request(OSV_URL, json.dumps(question).encode())
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            json.load(answer)
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
