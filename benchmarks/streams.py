"""How fast streams take actions in and give them back.

Actions of about 120 bytes of JSON. `append_per_second` encodes and appends them, its `_encoded`
sibling appends bytes that lie ready; `read_per_second` reads, checks the CRC, and decodes to
Action. The group-committed fsync runs beside all of them. One process, one partition.

`streams.kafka.read_per_second` is what a trainer gets of Kafka: fetched, decoded, merged and
checked by Intake, on the broker that `--kafka` names, or one that is started here as the stack's
tests do. Appends there wait for their acknowledgement, 4,096 at a time.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from benchmarks import report
from benchmarks.report import CheckFailed, Figure, progress
from service.action_types import ActionTypes
from service.actions import Action, stream_key
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.streams import LocalStream, Record, Stream
from service.streams.kafka.settings import KafkaSettings
from service.streams.kafka.stream import KafkaStream

BATCH = 4096
CHECKED_ACTIONS = 50_000
READ_SECONDS = 30.0


def main() -> int:
    """The command `python -m benchmarks.streams`."""
    options = report.parser(__doc__)
    options.add_argument("--actions", type=int, help="actions per run (1,000,000; quick: 200,000)")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--kafka", help="host:port of a broker (default: one is started)")
    options.add_argument("--no-kafka", action="store_true", help="only the embedded stream")
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
    if not options.no_kafka:
        yield from _kafka(options, payloads, mean_bytes)


def _kafka(options: argparse.Namespace, payloads: list[bytes], mean_bytes: int) -> Iterator[Figure]:
    count, keys = (
        len(payloads),
        [stream_key(f"u{n * 7919 % 100_003}") for n in range(len(payloads))],
    )
    with _broker(options) as servers, closing(_on_kafka(servers)) as stream:
        began = time.perf_counter()
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            stream.append("actions", 0, payloads[part], keys=keys[part])
        appended = [count / (time.perf_counter() - began)]
        read = [count / _seconds(_intake, stream, count) for _ in range(options.runs)]
    for name, rates in {"append": appended, "read": read}.items():
        yield Figure.of(
            f"streams.kafka.{name}_per_second",
            "actions/s",
            rates,
            actions=count,
            batch=BATCH,
            payload_bytes=mean_bytes,
            broker=options.kafka or "on the same machine",
        )


@contextmanager
def _broker(options: argparse.Namespace) -> Iterator[str]:
    """The broker that was named, or one that runs as long as it is needed."""
    if options.kafka:
        yield options.kafka
        return
    from tests.stack.brokers import Broker  # not installed with the package: run in the checkout

    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        progress("starting Kafka")
        with Broker(Path(root) / "kafka") as broker:
            yield broker.servers


def _on_kafka(servers: str) -> KafkaStream:
    return KafkaStream(
        KafkaSettings(servers=servers, prefix=f"bench-{uuid4().hex[:8]}.", partitions=1)
    )


def _intake(stream: Stream, count: int) -> None:
    """Read `count` actions through Intake. Raises CheckFailed if any is refused."""
    settings = IntakeSettings(topics=("actions",), max_late_seconds=1e10)
    intake, read = Intake(stream, settings, ActionTypes()), 0
    while read < count:
        block = intake.block(BATCH, READ_SECONDS, lambda: True)  # the last waits for nothing more
        if block is None or block.rejected:
            raise CheckFailed(f"only {read} of {count} actions were read, or some were refused")
        read += block.records


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
