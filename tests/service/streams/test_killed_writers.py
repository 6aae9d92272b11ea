import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from service.streams import LocalStream, Record

ROUNDS, WRITERS = 15, 3
SCRIPT = Path(__file__).with_name("writing_process.py")
HOUSE = Path(__file__).parents[3]

Writers = subprocess.Popen[str]


@contextmanager
def writers_in(directory: Path) -> Iterator[Writers]:
    """A process that forks a writer whenever it is told to."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(directory)],
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with its writer, should the test have failed


def line_of(process: Writers) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start(process: Writers, name: str, seed: int) -> int:
    """The process id of a new writer."""
    assert process.stdin is not None
    print(name, seed, file=process.stdin, flush=True)
    return int(line_of(process))


def answers(directory: Path, name: str) -> list[tuple[int, int, int]]:
    """Batch, first offset and size of what the writer saw acknowledged."""
    path = directory / f"{name}.acknowledged"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in whole)]


def test_kill_9_in_mid_append_loses_nothing_acknowledged_and_tears_nothing(
    tmp_path: Path, open_stream: Callable[..., LocalStream], read_all: Callable[..., list[Record]]
) -> None:
    dice = random.Random(20)
    stream = open_stream(segment_bytes=2**21)
    tail: list[Record] = []
    names: list[str] = []
    with ExitStack() as stack:
        processes = [stack.enter_context(writers_in(tmp_path)) for _ in range(WRITERS)]
        for turn in range(ROUNDS):
            fresh = [f"writer-{turn}-{number}" for number in range(WRITERS)]
            names += fresh
            victims = [
                (process, start(process, name, dice.randrange(2**30)))
                for process, name in zip(processes, fresh, strict=True)
            ]
            while not all(answers(tmp_path, name) for name in fresh):
                tail += stream.read("actions", 0, len(tail), 1000)  # reads while they append
            for process, writer in dice.sample(victims, WRITERS):
                time.sleep(dice.random() * 0.01)
                os.kill(writer, signal.SIGKILL)
                assert line_of(process) == "dead"
    found = read_all(open_stream())
    assert found[: len(tail)] == tail
    assert [record.offset for record in found] == list(range(len(found)))
    batches = batches_in(found)
    for name in names:
        check_writer(batches, name, answers(tmp_path, name))
    assert {name for name, _ in batches} == set(names)


def batches_in(records: list[Record]) -> dict[tuple[str, int], int]:
    """The first offset of every batch; each must be whole and in one piece."""
    first: dict[tuple[str, int], int] = {}
    at = 0
    while at < len(records):
        name, batch, count, place, _ = msgspec.json.decode(records[at].payload)
        assert place == 0
        assert (name, batch) not in first
        for step in range(count):
            assert msgspec.json.decode(records[at + step].payload)[:4] == [name, batch, count, step]
        first[name, batch] = at
        at += count
    return first


def check_writer(
    batches: dict[tuple[str, int], int], name: str, acknowledged: list[tuple[int, int, int]]
) -> None:
    """Its batches are 0, 1, 2, ... in order, at most one more than it saw acknowledged."""
    mine = [(batch, offset) for (writer, batch), offset in batches.items() if writer == name]
    assert [batch for batch, _ in mine] == list(range(len(mine)))
    assert len(acknowledged) <= len(mine) <= len(acknowledged) + 1
    assert mine[: len(acknowledged)] == [(batch, offset) for batch, offset, _ in acknowledged]
