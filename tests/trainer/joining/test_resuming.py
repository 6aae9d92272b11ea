"""Where the joiner goes on when streams, settings or versions are not what they were."""

from pathlib import Path
from typing import Any

import pytest

from service.streams import LocalStream
from tests.trainer.joining.stories import acted, block_of, shown
from tests.trainer.workshop import Workshop, settings, told
from trainer.joining import Joiner, JoinRules
from trainer.joining.groups import SKIPPED
from trainer.joining.rereading import Source
from trainer.joining.resuming import resume_joining, warn_of_short_retention
from trainer.loop import Trainer


@pytest.fixture
def trained(tmp_path: Path) -> Workshop:
    workshop = Workshop(tmp_path)
    workshop.tell(told(500))
    workshop.train(stop_after=6)
    return workshop


def waiting(trainer: Trainer) -> list[Any]:
    return trainer.teacher.state.joiner.waiting.contents()


def test_a_version_says_from_where_to_reread_and_holds_no_open_impression(
    trained: Workshop,
) -> None:
    manifest = trained.versions.manifest(trained.versions.numbers()[-1])
    joiner = trained.restored().teacher.state.joiner
    assert joiner.numbers()["open"] > 0
    assert manifest.join_from.keys() == {"actions", "impressions"}
    for topic, partitions in joiner.join_from.items():
        assert {int(p): at for p, at in manifest.join_from[topic].items()} == partitions
        assert partitions[0] <= manifest.offsets[topic]["0"]
    assert len(joiner.state()["facts"]) < 5000


def test_what_retention_took_is_counted_and_stays_unlearned(
    trained: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = LocalStream.bounds
    first = {"actions": 20, "impressions": 3}

    def bounds(self: LocalStream, topic: str, partition: int) -> tuple[int, int]:
        return max(first.get(topic, 0), held(self, topic, partition)[0]), held(
            self, topic, partition
        )[1]

    whole = waiting(trained.restored())
    monkeypatch.setattr(LocalStream, "bounds", bounds)
    trainer = trained.restored()
    assert trainer.teacher.state.counters["join_lost"] == 23
    assert "23 records before version" in caplog.text
    kept = waiting(trainer)
    assert 0 < len(kept[0]) < len(whole[0])
    assert set(kept[0]) < set(whole[0])


def test_a_stream_that_holds_too_little_is_warned_of(
    trained: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trained.training() as trainer:
        joiner, stream = trainer.teacher.state.joiner, trainer.stream
        caplog.clear()
        warn_of_short_retention(stream, joiner)
        assert caplog.text == ""
        monkeypatch.setattr(stream, "bounds", lambda topic, _: (10, 40))
        warn_of_short_retention(stream, joiner)
        assert "actions/0 holds the last" in caplog.text
        assert "keep the topic for longer" in caplog.text


def test_other_windows_hold_from_the_next_start_on_and_nothing_is_learned_twice(
    tmp_path: Path,
) -> None:
    learned = []
    for changed in (20, 60):
        workshop = Workshop(tmp_path / str(changed))
        workshop.tell(told(500))
        workshop.train(stop_after=4)
        workshop.sections = settings(trainer={"join_seconds": changed, "correct_seconds": 900})
        state = workshop.train().teacher.state
        assert state.joiner.rules.join_ms == changed * 1000
        open_ones = state.joiner.numbers()["open"]
        learned.append(state.counters["impressions_joined"] + open_ones)
    assert learned[0] == learned[1] == told(500).impressions


def test_a_version_without_the_facts_begins_with_nothing_waiting(trained: Workshop) -> None:
    with trained.training() as trainer:
        manifest = trained.versions.manifest(trained.versions.numbers()[-1])
        joiner, start = Joiner(JoinRules(1000)), manifest.next_offsets()
        plan = trainer.teacher
        source = Source(trainer.stream, None, plan.types, {}, None)  # type: ignore[arg-type]
        assert resume_joining(joiner, {}, manifest, source, start) == 0
        assert joiner.join_from["actions"] == start["actions"]
        assert joiner.waiting.contents() == [[], [], []]


def test_reading_that_goes_on_further_ahead_is_in_the_log(trained: Workshop) -> None:
    with trained.training() as trainer:
        manifest = trained.versions.manifest(trained.versions.numbers()[-1])
        state = trainer.teacher.state.joiner.state()
        for jump in (5, -5):
            joiner, start = Joiner(trainer.teacher.state.joiner.rules), manifest.next_offsets()
            start["actions"][0] += jump
            source = Source(
                trainer.stream, trainer.intake._settings, trainer.teacher.types,
                manifest.topic_ids, trainer.operators.erased,
            )  # fmt: skip
            assert resume_joining(joiner, state, manifest, source, start) == 0
            assert joiner.numbers()["open"] > 0
            assert joiner.groups.places(joiner.groups.ends)["actions"] == start["actions"]
            skipped = [row.counts for row in joiner.groups.rows if row.watermark_ms == SKIPPED]
            assert skipped == ([[5, 0]] if jump > 0 else [])


def test_a_full_disk_is_told_with_its_remedy(tmp_path: Path) -> None:
    import sqlite3

    from service.errors import StreamError

    joiner = Joiner(JoinRules(1000))
    trouble = joiner.waiting._trouble(sqlite3.OperationalError("database or disk is full"))
    assert isinstance(trouble, StreamError)
    assert "make room on its disk or raise the setting" in str(trouble)
    joiner.take(block_of([shown("r", 1, "a"), acted("r", "a", 1.1)]))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        joiner.waiting.rows("SELECT * FROM nowhere")
