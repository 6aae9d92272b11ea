"""The writer's own reasoning, on values in a dict; `tests/stack` has the same with a real Redis."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service.actions import key_of
from service.histories.local import Events
from service.histories.redis.progress import Progress
from service.histories.redis.reducer import SEEDED, Placed, Reducer, source_of
from service.histories.segments import Segment
from service.histories.settings import HistorySettings
from service.redis.connection import RedisDenied
from service.versions.decisions import Erase
from tests.service.histories.kept import KeptStore
from tests.serving.conftest import Publisher
from tests.stack.followed import START, Followed, random_actions, same, until

SETTINGS = HistorySettings(ttl_seconds=10 * 86_400, capacity=64)


class Kept(Followed):
    """A stream and a store of which everything can be seen."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, None)
        self.store = KeptStore()

    @contextmanager
    def running(self, store: KeptStore | None = None) -> Iterator[None]:
        with super().running(store or self.store):
            yield


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def assert_equal_to_local(kept: Kept) -> None:
    histories, watermark_ms = kept.local()
    for user in [f"u{number}" for number in range(30)]:
        expected = histories.read(np.array([key_of(user)]), 64, watermark_ms)
        assert same(kept.history(user, watermark_ms), expected)
    assert len(kept.store.values) > 20


def test_values_are_what_local_histories_hold_and_the_same_again_changes_nothing(kept):
    kept.append(random_actions(0, 2500))
    kept.write()
    assert_equal_to_local(kept)
    before, topic_id = dict(kept.store.values), kept.stream.topic_id("actions")
    told = kept.store.progresses[topic_id]
    again = Progress(told.epoch, dict.fromkeys(told.offsets, 0))
    kept.store.progresses[topic_id] = again
    kept.write()
    assert kept.store.values == before
    assert kept.read("history_events_total", outcome="known") == 2500


def test_a_store_that_is_away_is_waited_for_and_told_once(kept, caplog):
    kept.append(random_actions(1, 500))
    kept.store.away = True
    with kept.running():
        until(lambda: kept.read("history_failures_total", what="redis") > 2)
        kept.store.away = False
        kept.until_written()
    assert_equal_to_local(kept)
    assert len([r for r in caplog.records if "stand still" in r.message]) == 1


def test_contents_that_are_lost_are_made_anew(kept):
    kept.append(random_actions(2, 800))
    with kept.running():
        kept.until_written()
        before = dict(kept.store.values)
        kept.store.values.clear()
        kept.store.progresses.clear()
        until(lambda: kept.read("history_failures_total", what="contents"))
        kept.until_written()
        assert kept.store.values == before


def one_user(user: str, items: list[int]) -> Segment:
    count = len(items)
    events = Events(
        np.full(count, key_of(user)), np.array(items), np.zeros(count, np.int64),
        np.full(count, round(START * 1000)), np.zeros(count, np.int64),
    )  # fmt: skip
    return Segment(events, np.arange(count), np.zeros(0, np.int64))


def test_an_empty_store_is_seeded_and_an_erased_user_is_not(kept):
    publish = Publisher(kept.data)
    ids = {"actions": kept.stream.topic_id("actions")}
    ends = {"actions": {str(p): end for p, end in kept.ends.items()}}
    publish(1, history=one_user("here", [1, 2]), topic_ids=ids, offsets=ends)
    kept.write()
    assert kept.items("here") == [1, 2]
    with kept.running():
        number = kept.directory.decide(Erase(user=key_of("here"), before_ms=2**50, at=START))
        until(lambda: kept.progress.obeyed == number)
    assert kept.store.values == {}
    kept.store.progresses.clear()
    kept.write()
    assert kept.store.values == {}


@pytest.mark.parametrize("offsets", [{"0": 900, "1": 0, "2": 0}, {"0": 0}])
def test_where_the_log_does_not_go_on_after_the_version_it_is_read_whole(kept, offsets):
    ids = {"actions": kept.stream.topic_id("actions")}
    kept.append(random_actions(3, 600))
    publish = Publisher(kept.data)
    publish(1, history=one_user("other", [5]), topic_ids=ids, offsets={"actions": offsets})
    kept.write()
    assert kept.items("other") == [5]
    assert kept.read("history_records_total") == 600


def test_progress_that_the_log_does_not_know_of_is_no_end(kept):
    topic_id = kept.stream.topic_id("actions")
    kept.append(random_actions(4, 600))
    kept.store.progresses[topic_id] = Progress("old", {0: 10**6, 1: 0, 2: 0})
    kept.write()
    assert_equal_to_local(kept)


def test_decisions_that_cannot_be_read_hold_a_start_up_but_nothing_that_runs(kept):
    decisions = kept.data / "versions" / "decisions"
    decisions.mkdir(parents=True)
    (decisions / "00000001.json").write_text("damaged")
    kept.append(random_actions(5, 300))
    with kept.running():
        until(lambda: kept.read("history_failures_total", what="versions") > 1)
        assert kept.progress is None
        (decisions / "00000001.json").unlink()
        kept.until_written()
        (decisions / "00000001.json").write_text("damaged")
        until(lambda: kept.read("history_failures_total", what="versions") > 2)
        kept.append(random_actions(5, 400)[300:])
        kept.until_written()


def test_who_is_refused_from_the_beginning_does_not_wait(kept):
    class Refusing(KeptStore):
        def progress(self, topic_id):
            raise RedisDenied("no")

    with pytest.raises(RedisDenied):
        kept.writer(Refusing()).run(threading.Event())


# Values and blocks without a stream


def placed(events: Events, first: int, watermark_ms: int, source: int = 9) -> Placed:
    offsets = first + np.arange(len(events))
    return Placed(events, np.full(len(events), source), offsets, watermark_ms)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_that_overlap_what_is_contained_leave_the_same_values(blocks_of, seed):
    """Every block comes again, cut elsewhere, as after a crash."""
    once, twice, reducer, first = {}, {}, Reducer(SETTINGS), 0
    for events, watermark_ms in blocks_of(seed):
        apply(reducer, once, placed(events, first, watermark_ms))
        cut = len(events) // 2
        part = placed(events, first, watermark_ms).where(np.arange(len(events)) < cut)
        apply(reducer, twice, part)
        known = apply(reducer, twice, placed(events, first, watermark_ms))
        assert known == cut
        first += len(events)
    assert twice == once


def apply(reducer: Reducer, values: dict[int, bytes], new: Placed) -> int:
    users = new.users
    changed = reducer.append(users, [values.get(user) for user in users.tolist()], new)
    values.update(zip(users[changed.changed_M].tolist(), changed.values, strict=True))
    return int(changed.known_T.sum())


def test_a_seeded_value_takes_whatever_the_log_says_after_it(blocks_of):
    reducer, (events, watermark_ms) = Reducer(SETTINGS), blocks_of(1)[3]
    values: dict[int, bytes] = {}
    apply(reducer, values, placed(events, 0, watermark_ms, SEEDED))
    assert apply(reducer, values, placed(events, 0, watermark_ms)) == 0


def test_a_record_of_another_partition_is_never_taken_for_one_that_is_contained(blocks_of):
    reducer, (events, watermark_ms) = Reducer(SETTINGS), blocks_of(1)[3]
    values: dict[int, bytes] = {}
    apply(reducer, values, placed(events, 100, watermark_ms, source_of("t", 0)))
    assert apply(reducer, values, placed(events, 0, watermark_ms, source_of("t", 1))) == 0
    assert apply(reducer, values, placed(events, 0, watermark_ms, source_of("t", 1))) == len(events)


def test_progress_is_read_as_it_was_written_and_knows_when_it_lags():
    told = Progress("e", {0: 5, 11: 7}, {0: 1000, 11: 2000}, 1000, 3)
    fields = {name.encode(): str(value).encode() for name, value in told.fields().items()}
    assert Progress.of(fields) is None
    assert Progress.of({**fields, b"epoch": b"e"}) == told
    assert not told.behind(told)
    assert told.behind(Progress("other", {0: 0}))
    assert told.behind(Progress("e", {0: 6, 11: 7}))
    assert told.behind(Progress("e", {1: 0}))
    assert not told.behind(Progress("e", {0: 4}))
