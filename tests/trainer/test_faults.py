"""A trainer whose storage is slow or full, or whose wall clock jumps an hour: it goes on."""

import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.versions.storage import LocalStorage
from tests.trainer.workshop import Workshop, settings, told
from trainer.loop import Trainer

HOUR = 3600.0


class JumpingClock:
    """Wall time that jumps an hour ahead, then two back, then two ahead, at every look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, self.ahead, self.jumps = time.time, -HOUR, 0
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)
        monkeypatch.setattr(time, "time_ns", lambda: int((real() + self.ahead) * 1e9))

    def jump(self, _: Any) -> None:
        self.ahead, self.jumps = -self.ahead, self.jumps + 1


def train(workshop: Workshop, *observers: Any) -> Trainer:
    """Train to the end of the stream, told of every block."""
    with workshop.training() as trainer:
        trainer.teacher.observers.extend(observers)
        trainer.run(threading.Event(), lambda: True)
        return trainer


@pytest.mark.parametrize("clock", ["event", "wall"])
def test_jumps_of_an_hour_change_neither_the_learning_nor_the_publishing(
    workshop: Workshop, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 60 if clock == "event" else 0.001
    workshop.sections = settings(trainer={"publish_clock": clock, "publish_seconds": seconds})
    steady = Workshop(workshop.root / "steady")
    steady.sections = workshop.sections
    story = told(600)
    for one in (workshop, steady):
        one.tell(story)
    expected = steady.digest(train(steady))
    jumping = JumpingClock(monkeypatch)
    trainer = train(workshop, jumping.jump)
    assert jumping.jumps > 4
    assert workshop.digest(trainer) == expected
    assert workshop.digest() == expected
    assert workshop.versions.latest() > 2
    if clock == "event":
        assert workshop.versions.numbers() == steady.versions.numbers()


def test_slow_storage_stops_no_learning(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowed(name: str) -> Any:
        real = getattr(LocalStorage, name)

        def call(self: LocalStorage, *arguments: Any) -> Any:
            time.sleep(0.1)
            return real(self, *arguments)

        return call

    steady = Workshop(workshop.root / "steady")
    story = told(400)
    for one in (workshop, steady):
        one.sections = settings(trainer={"publish_clock": "wall", "publish_seconds": 0.05})
        one.tell(story)
    expected = steady.digest(train(steady))
    for name in ("read", "write", "sync", "create", "replace", "remove", "names"):
        monkeypatch.setattr(LocalStorage, name, slowed(name))
    writing: list[bool] = []
    with workshop.training() as trainer:
        trainer.teacher.observers.append(lambda _: writing.append(trainer.publisher.busy))
        trainer.run(threading.Event(), lambda: True)
    assert any(writing)  # blocks were learned while a version was being written
    monkeypatch.undo()
    assert workshop.digest(trainer) == workshop.digest() == expected


@pytest.fixture
def full(workshop: Workshop) -> Iterator[Any]:
    """A full disk under the versions; call it to free its space."""
    place = workshop.root / "versions"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "freshet-test", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.decode().strip()}")
    rubbish = place / "rubbish"
    rubbish.write_bytes(bytes((16 << 20) - (16 << 10)))
    yield lambda: rubbish.unlink(missing_ok=True)
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_counted_and_what_was_learned_comes_with_the_next_version(
    workshop: Workshop, full: Any
) -> None:
    steady = Workshop(workshop.root / "steady")
    story = told(600)
    for one in (workshop, steady):
        one.tell(story)
    expected = steady.digest(train(steady))

    def free(_: Any) -> None:
        if trainer.teacher.state.block == 5:
            full()

    with workshop.training() as trainer:
        trainer.teacher.observers.append(free)
        trainer.run(threading.Event(), lambda: True)
    failures = trainer.metrics.registry.get_sample_value("freshet_publish_failures_total")
    assert failures is not None
    assert failures > 0
    newest = workshop.versions.latest()
    assert newest is not None
    workshop.versions.verify(newest)
    assert workshop.digest(trainer) == workshop.digest() == expected


def test_a_disk_that_stays_full_ends_with_its_reason(workshop: Workshop, full: Any) -> None:
    workshop.tell(told(200))
    with pytest.raises(Exception, match="No space left on device; free some space there"):
        train(workshop)
    assert workshop.versions.numbers() == []
