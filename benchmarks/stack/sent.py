"""What a generator did, column by column: written when it ends, read by whoever started it.

Times are of the monotonic clock, which all processes of a machine share. A request's seconds run
from when it was due, so that whoever waits for a slow server counts as waiting.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.actions import Action

Column = npt.NDArray[np.float64]

REQUEST = ("due", "seconds", "status", "late")
PROBE = ("due", "ranking_seconds", "partition", "offset")
SEEN = ("server", "version", "at")
_ID = re.compile(r"a\d+-(\d+)")
UNANSWERED = 0
"""Status of a request that got no answer."""


@dataclass
class Sent:
    """Rows as they come; `columns` once they are complete."""

    posts: list[tuple[float, ...]] = field(default_factory=list)
    """REQUEST of every body at its first attempt."""
    rankings: list[tuple[float, ...]] = field(default_factory=list)
    """REQUEST of every ranking but those of probes."""
    probes: list[tuple[float, ...]] = field(default_factory=list)
    """PROBE: seconds until all servers rank otherwise; the partition and an offset behind it."""
    seen: list[tuple[float, ...]] = field(default_factory=list)
    """SEEN: when a server first answered by a version."""
    accepted: list[bool] = field(default_factory=list)
    """By number of the action's id: whether it is in the log, as far as the sender was told."""
    refused: int = 0
    """Actions that an answer named as rejected."""
    again: int = 0
    """Attempts beyond the first of each body."""
    ranked: int = 0
    """Rankings that were answered, those of probes among them: each is logged as shown."""
    cpu_seconds: float = 0.0
    run: int = 0
    """Part of every id: two runs on one stack must not share any."""
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def new_id(self) -> str:
        """The id of one more action."""
        self.accepted.append(False)
        return f"a{self.run}-{len(self.accepted) - 1}"

    def accept(self, actions: Sequence[Action]) -> None:
        """These actions are in the log."""
        for action in actions:
            self.accepted[number_of(action.id)] = True

    def see(self, server: int, version: int) -> None:
        """A server answered by a version."""
        if (server, version) not in self._seen:
            self._seen.add((server, version))
            self.seen.append((server, version, time.monotonic()))

    def write(self, path: Path) -> None:
        """Leave everything behind as one .npz file."""
        np.savez(
            path,
            posts=_rows(self.posts, REQUEST), rankings=_rows(self.rankings, REQUEST),
            probes=_rows(self.probes, PROBE), seen=_rows(self.seen, SEEN),
            accepted=np.array(self.accepted, np.bool_),
            counts=np.array([self.refused, self.again, self.ranked, self.cpu_seconds]),
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> "Sent":
        """What was written."""
        with np.load(path) as arrays:
            refused, again, ranked, cpu_seconds = arrays["counts"].tolist()
            posts, rankings, probes, seen = (
                [tuple(row) for row in arrays[name].tolist()]
                for name in ("posts", "rankings", "probes", "seen")
            )
            found = cls(posts, rankings, probes, seen, arrays["accepted"].tolist())
        found.refused, found.again, found.ranked = int(refused), int(again), int(ranked)
        found.cpu_seconds = cpu_seconds
        return found


def number_of(identifier: str | None) -> int:
    """The number in an action's id. Raises ValueError for what this load has not sent."""
    found = _ID.fullmatch(identifier or "")
    if found is None:
        raise ValueError(f"action id {identifier!r} is not of this load")
    return int(found[1])


def column(rows: Sequence[tuple[float, ...]], names: Sequence[str], name: str) -> Column:
    """One column of rows that are named so."""
    return _rows(rows, names)[:, names.index(name)]


def _rows(rows: Sequence[tuple[float, ...]], names: Sequence[str]) -> Column:
    return np.array(rows, np.float64).reshape(-1, len(names))
