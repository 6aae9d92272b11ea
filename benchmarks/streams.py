"""How fast the embedded stream takes actions in and gives them back.

Actions of about 120 bytes of JSON. `append_per_second` encodes and appends them, its `_encoded`
sibling appends bytes that lie ready; `read_per_second` reads, checks the CRC, and decodes to
Action. The group-committed fsync runs beside all of them. One process, one partition.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.report import CheckFailed, Figure
from service.actions import Action
from service.streams import LocalStream, Record

BATCH = 4096
CHECKED_ACTIONS = 50_000


def main() -> int:
    """The command `python -m benchmarks.streams`."""
    options = report.parser(__doc__)
    options.add_argument("--actions", type=int, help="actions per run (1,000,000; quick: 200,000)")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--directory", type=Path, help="where the log is made (and removed again)")
    return report.run(options, check, measure)


def check(options: argparse.Namespace) -> None:
    """What is read equals what was appended, record by record and field by field."""
    actions = _actions(CHECKED_ACTIONS)
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        with closing(LocalStream(Path(root))) as stream:
            _append_encoding(stream, actions)
        with closing(LocalStream(Path(root))) as stream:
            found = [record for batch in _batches(stream) for record in batch]
    if [record.offset for record in found] != list(range(len(actions))):
        raise CheckFailed(f"{len(actions)} records were appended, {len(found)} other ones read")
    decode = msgspec.json.Decoder(Action).decode
    if [decode(record.payload) for record in found] != actions:
        raise CheckFailed("the actions read are not the actions appended")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    """Append with and without encoding, then read what was appended; `runs` times in turn."""
    count = options.actions or (200_000 if options.quick else 1_000_000)
    actions = _actions(count)
    payloads = list(map(msgspec.json.encode, actions))
    gc.freeze()  # the prepared actions are no part of what is measured
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as root,
        closing(LocalStream(Path(root))) as stream,
    ):
        measures: dict[str, Callable[[], float]] = {
            "append": lambda: count / _seconds(_append_encoding, stream, actions),
            "append_encoded": lambda: count / _seconds(_append, stream, payloads),
            "read": lambda: count / _seconds(_read, stream, count),
        }
        values = report.interleaved(options.runs, measures)
    mean_bytes = round(sum(map(len, payloads)) / count)
    for name, rates in values.items():
        yield Figure.of(
            f"streams.local.{name}_per_second",
            "actions/s",
            rates,
            actions=count,
            batch=BATCH,
            payload_bytes=mean_bytes,
            sync_ms=stream.settings.sync_ms,
        )


def _actions(count: int) -> list[Action]:
    return [
        Action(
            id=f"a-{number:x}",
            user=f"u{number * 7919 % 100_003}",
            item=f"i{number * 104_729 % 10_007}",
            action="click",
            at=1_732_096_800.123 + number / 1000,
            request=f"r-{number // 3:x}",
            context={"device": "phone"},
        )
        for number in range(count)
    ]


def _append_encoding(stream: LocalStream, actions: list[Action]) -> None:
    encode = msgspec.json.Encoder().encode
    for start in range(0, len(actions), BATCH):
        stream.append("actions", 0, [encode(action) for action in actions[start : start + BATCH]])


def _append(stream: LocalStream, payloads: list[bytes]) -> None:
    for start in range(0, len(payloads), BATCH):
        stream.append("encoded", 0, payloads[start : start + BATCH])


def _read(stream: LocalStream, count: int) -> None:
    """Decode the first `count` actions of the topic, keeping none."""
    decode = msgspec.json.Decoder(Action).decode
    read = 0
    for batch in _batches(stream):
        for record in batch:
            decode(record.payload)
        read += len(batch)
        if read >= count:
            return


def _batches(stream: LocalStream) -> Iterator[list[Record]]:
    offset = 0
    while batch := stream.read("actions", 0, offset, BATCH):
        yield batch
        offset = batch[-1].offset + 1


def _seconds(work: Callable[..., None], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
