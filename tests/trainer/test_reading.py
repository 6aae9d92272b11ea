"""Blocks read ahead: the same blocks, no more than a few of them, and nothing lost or hidden."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from service.action_types import ActionTypes
from service.blocks import Block
from service.errors import StreamError
from service.intake import Intake
from service.intake_settings import IntakeSettings
from service.streams import Stream
from tests.trainer.workshop import Workshop, told
from trainer import loop
from trainer.reading import AHEAD, ReadAhead

SIZE = 32


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def intake_of(stream: Stream) -> Intake:
    return Intake(stream, IntakeSettings(topics=("actions", "impressions")), ActionTypes())


def place(block: Block) -> tuple[object, ...]:
    return block.offsets, block.watermark_ms, block.records, block.events.item_T.tolist()


def test_blocks_are_those_of_the_intake_each_with_the_merge_behind_it(workshop: Workshop) -> None:
    workshop.tell(told(300))
    with closing(workshop.stream()) as stream:
        alone, expected = intake_of(stream), []
        while block := alone.block(SIZE, 0, lambda: True):
            expected.append((place(block), alone.largest_ms))
        with closing(ReadAhead(intake_of(stream), SIZE, 0, lambda: True)) as blocks:
            found = [(place(read.block), read.largest_ms) for read in blocks if read]
    assert len(expected) > 3 * AHEAD
    assert found == expected


def test_a_reader_waits_when_its_blocks_are_not_taken(workshop: Workshop) -> None:
    workshop.tell(told(600))
    with closing(workshop.stream()) as stream:
        intake = intake_of(stream)
        with closing(ReadAhead(intake, SIZE, 0, lambda: True)) as blocks:
            held = AHEAD + 1  # and one in the reader's hands
            until(lambda: sum(intake.offsets["actions"].values()) > (held - 1) * SIZE * 0.7)
            time.sleep(0.2)
            read = sum(sum(partitions.values()) for partitions in intake.offsets.values())
            assert read == held * SIZE
            assert next(iter(blocks)) is not None
            until(
                lambda: sum(sum(p.values()) for p in intake.offsets.values()) == (held + 1) * SIZE
            )


def test_nothing_is_left_running_when_blocks_are_dropped(workshop: Workshop) -> None:
    workshop.tell(told(600))
    with closing(workshop.stream()) as stream:
        blocks = ReadAhead(intake_of(stream), SIZE, 0, lambda: False)
        assert next(iter(blocks)) is not None
        blocks.close()
    assert not [one for one in threading.enumerate() if one.name == "reader"]


class Broken(Intake):
    """Fails at its third block."""

    blocks = 0

    def block(self, *arguments: object, **named: object) -> Block | None:
        self.blocks += 1
        if self.blocks == 3:
            raise StreamError("the disk is gone")
        return super().block(*arguments, **named)  # type: ignore[arg-type]


def test_what_the_reading_raises_comes_behind_the_blocks_before_it(workshop: Workshop) -> None:
    workshop.tell(told(300))
    with closing(workshop.stream()) as stream:
        intake = Broken(stream, IntakeSettings(), ActionTypes())
        with closing(ReadAhead(intake, SIZE, 0, lambda: True)) as blocks:
            reads = iter(blocks)
            assert next(reads) is not None
            assert next(reads) is not None
            with pytest.raises(StreamError, match="the disk is gone"):
                next(reads)


def test_live_silence_is_told_and_what_comes_later_is_read(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    with (
        closing(workshop.stream()) as stream,
        closing(ReadAhead(intake_of(stream), SIZE, 0.01)) as blocks,
    ):
        reads = iter(blocks)
        assert next(reads) is None
        told(20).to_stream(stream)
        until(lambda: next(reads) is not None)


def test_a_version_says_what_was_learned_not_what_was_read(workshop: Workshop) -> None:
    workshop.tell(told(600))
    trainer = workshop.train(stop_after=2)
    manifest = workshop.versions.manifest(workshop.versions.numbers()[-1])
    learned = sum(sum(p.values()) for p in manifest.next_offsets().values())
    read = sum(sum(p.values()) for p in trainer.intake.offsets.values())
    assert learned == trainer.teacher.state.counters["records"] == 2 * 64
    assert manifest.watermark_ms == trainer.position.watermark_ms < trainer.intake.watermark_ms
    assert read > learned


def test_silence_is_not_stored(workshop: Workshop) -> None:
    """Whoever was busy while nothing came finds what came since, at once."""
    with (
        closing(workshop.stream()) as stream,
        closing(ReadAhead(intake_of(stream), SIZE, 0.01)) as blocks,
    ):
        time.sleep(0.3)
        workshop.tell(told(SIZE))
        found = iter(blocks)
        assert next(found) is None
        silent = sum(1 for _ in iter(lambda: next(found) is None, False))
    assert silent <= 2


def test_a_reader_that_is_told_to_exit_does_not_leave_others_waiting(workshop: Workshop) -> None:
    with closing(workshop.stream()) as stream:
        intake = intake_of(stream)
        intake.block = lambda *_: sys.exit(3)  # type: ignore[assignment]
        with closing(ReadAhead(intake, SIZE, 0.01)) as blocks, pytest.raises(SystemExit):
            next(iter(blocks))


def test_the_lag_falls_to_nothing_while_nothing_comes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when a block is learned: the last one may come right after a look."""
    monkeypatch.setattr(loop, "MEASURE_SECONDS", 3.0)
    story, stop = told(200), threading.Event()
    workshop.tell(story)
    with workshop.training() as trainer:
        told_lag = partial(trainer.metrics.registry.get_sample_value, "freshet_stream_lag_records")
        thread = threading.Thread(target=trainer.run, args=(stop,))
        thread.start()
        try:
            until(lambda: trainer.teacher.state.counters["records"] == story.records)
            until(lambda: told_lag() == 0.0)
        finally:
            stop.set()
            thread.join()
