"""What was sent against what was kept and what was learned: nothing lost, nothing twice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.report import CheckFailed
from benchmarks.stack.sent import Sent, number_of
from service.actions import Action, Impression
from service.streams import Stream

READ_RECORDS = 10_000
OUTCOMES = ("positives_trained", "positives_skipped", "context_only", "capped")
"""What becomes of an action that is no duplicate: the trainer's counters."""


@dataclass(frozen=True)
class Kept:
    """What stands in the log since the run began."""

    actions: int
    impressions: int
    missing: int
    """Accepted actions that are not in the log."""
    doubled: int
    """Actions that are in the log more often than once."""
    strangers: int
    """Actions in the log that nobody was told are there: their sender gave up."""
    double_impressions: int


def ends(stream: Stream) -> dict[str, list[int]]:
    """The end of every partition, by topic."""
    return {
        topic: [stream.bounds(topic, p)[1] for p in range(stream.partitions(topic))]
        for topic in ("actions", "impressions")
    }


def kept(stream: Stream, begun: Mapping[str, list[int]], sent: Sent) -> Kept:
    """Read the log from where it ended when the run began, and compare it with what was sent."""
    times = np.zeros(len(sent.accepted), np.int64)
    for payload in _read(stream, "actions", begun):
        times[number_of(msgspec.json.decode(payload, type=Action).id)] += 1
    shown = [
        msgspec.json.decode(payload, type=Impression).request
        for payload in _read(stream, "impressions", begun)
    ]
    accepted = np.array(sent.accepted, np.bool_)
    return Kept(
        actions=int(times.sum()),
        impressions=len(shown),
        missing=int((accepted & (times == 0)).sum()),
        doubled=int((times - 1).clip(0).sum()),
        strangers=int((~accepted & (times > 0)).sum()),
        double_impressions=len(shown) - len(set(shown)),
    )


def _read(stream: Stream, topic: str, begun: Mapping[str, list[int]]) -> Iterator[bytes]:
    for partition, offset in enumerate(begun[topic]):
        _, end = stream.bounds(topic, partition)
        while offset < end:
            for record in stream.read(topic, partition, offset, READ_RECORDS):
                yield record.payload
                offset = record.offset + 1


def check_kept(found: Kept, sent: Sent) -> None:
    """Raise CheckFailed unless every accepted action and every shown list is in the log once."""
    accepted = sum(sent.accepted)
    if found.missing or found.double_impressions or found.strangers:
        raise CheckFailed(f"of {accepted:,} accepted actions the log has: {found}")
    if found.doubled and not sent.again:
        raise CheckFailed(f"nothing was sent again, and the log has actions twice: {found}")
    if found.impressions != sent.ranked:
        raise CheckFailed(f"{sent.ranked:,} lists were shown, {found.impressions:,} are in the log")


def check_learned(found: Kept, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Raise CheckFailed unless the trainer's counters grew by exactly what the log has."""

    def grown(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    learned = sum(map(grown, OUTCOMES))
    expected = {
        "records": found.actions + found.impressions,
        "actions": found.actions,
        "impressions": found.impressions,
        "duplicates": found.doubled,
    }
    wrong = {name: (grown(name), want) for name, want in expected.items() if grown(name) != want}
    if learned != found.actions - found.doubled:
        wrong["learned"] = (learned, found.actions - found.doubled)
    for name in after:
        if name.startswith("rejected_") and grown(name):
            wrong[name] = (grown(name), 0)
    if wrong:
        raise CheckFailed(f"the trainer's counters grew otherwise (by, expected): {wrong}")
