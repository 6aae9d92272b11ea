import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from service.streams import LocalStream, Record

ROUNDS, WRITERS = 5, 3
SCRIPT = Path(__file__).with_name("writing_process.py")
HOUSE = Path(__file__).parents[3]


def start(directory: Path, name: str, seed: int) -> subprocess.Popen[bytes]:
    arguments = [str(directory / "log"), str(directory / f"{name}.acknowledged"), name, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment)


def answers(directory: Path, name: str) -> list[tuple[int, int, int]]:
    """Batch, first offset and length of what the writer saw acknowledged."""
    path = directory / f"{name}.acknowledged"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in whole)]


def kill(writers: Iterable[subprocess.Popen[bytes]], dice: random.Random) -> None:
    for writer in writers:
        time.sleep(dice.random() * 0.03)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL


def test_kill_9_in_mid_append_loses_nothing_acknowledged_and_tears_nothing(
    tmp_path: Path, open_stream: Callable[..., LocalStream], read_all: Callable[..., list[Record]]
) -> None:
    dice = random.Random(20)
    stream = open_stream(segment_bytes=500_000)
    tail: list[Record] = []
    names: list[str] = []
    for turn in range(ROUNDS):
        fresh = [f"writer-{turn}-{number}" for number in range(WRITERS)]
        writers = [start(tmp_path, name, dice.randrange(2**30)) for name in fresh]
        names += fresh
        while not all(answers(tmp_path, name) for name in fresh):
            assert all(writer.poll() is None for writer in writers)
            tail += stream.read("actions", 0, len(tail), 1000)  # reads while they append
        kill(writers, dice)
    found = read_all(open_stream())
    assert found[: len(tail)] == tail
    assert [record.offset for record in found] == list(range(len(found)))
    batches = batches_in(found)
    for name in names:
        check_writer(batches, name, answers(tmp_path, name))
    assert len({name for name, _ in batches}) == ROUNDS * WRITERS


def batches_in(records: list[Record]) -> dict[tuple[str, int], int]:
    """The first offset of every batch; each must be whole and in one piece."""
    first: dict[tuple[str, int], int] = {}
    at = 0
    while at < len(records):
        name, batch, place, count, _ = msgspec.json.decode(records[at].payload)
        assert place == 0
        assert (name, batch) not in first
        for step in range(count):
            assert msgspec.json.decode(records[at + step].payload)[:4] == [name, batch, step, count]
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
