"""Stopped or killed between any two blocks, and started again: bit for bit as if never."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.action_types import ActionTypes
from service.errors import InputError, ModelMismatch, OffsetError, SettingsError, VersionError
from service.model.ranker import Ranker
from service.settings import Settings
from service.streams import LocalStream
from service.versions import Erase, Pin, Snapshot
from tests.trainer.workshop import Crash, Told, Workshop, settings, told
from trainer.build import build
from trainer.migration import Difference

LONG = settings(
    store={"item": {"ttl_seconds": 300, "min_count": 2}},
    histories={"ttl_seconds": 120},
    trainer={"sweep_rows": 3, "publish_seconds": 40},
)
"""Rows and users come and go, swept a few at a time: where the sweep is must not matter."""

FULL = settings(store={"max_bytes": 20_000, "item": {"grace_seconds": 5}})
"""Room for some users and some items: rows and histories leave for others all the time."""

FITTED = settings(trainer={"dense": "int4", "exploration": True, "publish_seconds": 40})
"""Moments of layer inputs, and what is known of the heads, are part of the state."""


@pytest.fixture(scope="module")
def story() -> Told:
    return told(1500, users=25, items=150, described=True)


@pytest.fixture(
    scope="module",
    params=[settings(), LONG, FULL, FITTED],
    ids=["forever", "expiring", "full", "fitted"],
)
def whole(
    request: pytest.FixtureRequest, story: Told, tmp_path_factory: pytest.TempPathFactory
) -> Workshop:
    """The run that nothing interrupted."""
    workshop = Workshop(tmp_path_factory.mktemp("whole"), request.param)
    workshop.tell(story)
    workshop.train()
    return workshop


@pytest.fixture
def again(whole: Workshop, story: Told, tmp_path: Path) -> Workshop:
    """The same stream and settings, nothing trained yet."""
    workshop = Workshop(tmp_path, whole.sections)
    workshop.tell(story)
    return workshop


def last_block(workshop: Workshop) -> int:
    return workshop.versions.manifest(workshop.versions.numbers()[-1]).block


def test_every_record_is_counted_once(whole: Workshop, story: Told) -> None:
    counters = whole.restored().teacher.state.counters
    assert counters["records"] == story.records
    assert counters["actions"] == story.actions
    assert counters["impressions"] == story.impressions
    assert counters["items"] == story.described > 250
    assert counters["rejected_bad_json"] == story.rejected
    kept = counters["positives_trained"] + counters["context_only"]
    assert kept == story.actions - counters["duplicates"]
    if whole.sections is not FULL:  # whose ids left with them: what they repeat looks new
        assert counters["duplicates"] == story.duplicates
        assert counters["positives_trained"] == story.positives
    assert counters["targets_trained"] > 0
    assert counters["batches_skipped"] == 0


def test_under_a_limit_rows_and_users_leave_and_it_holds(story: Told, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, FULL)
    workshop.tell(story)
    state = workshop.train().teacher.state
    assert state.items.evicted > 50
    assert state.histories.evicted > 10
    assert state.budget.charged <= 20_000
    assert len(state.ids) == len(state.items)


def test_a_restored_state_is_the_one_that_was_published(again: Workshop) -> None:
    trainer = again.train(stop_after=11)
    assert again.digest(trainer) == again.digest()


def test_stopping_at_every_version_changes_nothing(whole: Workshop, again: Workshop) -> None:
    draw = np.random.default_rng(1)
    while not again.versions.numbers() or last_block(again) < last_block(whole):
        again.train(stop_after=int(draw.integers(1, 5)))
    assert len(again.versions.numbers()) == 3
    assert again.digest() == whole.digest()
    assert again.gate().keys() == whole.gate().keys() != set()


def test_dying_between_any_two_versions_changes_nothing(whole: Workshop, again: Workshop) -> None:
    draw, deaths = np.random.default_rng(2), 0
    while not again.versions.numbers() or last_block(again) < last_block(whole):
        try:
            again.train(crash_after=int(draw.integers(2, 14)))
        except Crash:
            deaths += 1
    assert deaths >= 2
    assert again.digest() == whole.digest()
    assert again.gate() == whole.gate()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["checkpoint", "histories", "manifest"])
def test_a_damaged_newest_version_is_passed_over_for_the_one_before(
    whole: Workshop, again: Workshop, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    again.train(stop_after=9)
    newest = again.versions.numbers()[-1]
    root = again.root / "versions"
    if part == "manifest":
        damage(root / f"manifests/{newest:08d}.json")
    else:
        damage(root / again.versions.manifest(newest).part(part)[-1])
    assert f"version {newest} cannot be resumed from" not in caplog.text
    again.train()
    assert f"version {newest} cannot be resumed from" in caplog.text
    assert again.versions.numbers()[-1] > newest
    assert again.digest() == whole.digest()


@pytest.fixture
def trained(tmp_path: Path) -> Workshop:
    """A short run with its versions."""
    workshop = Workshop(tmp_path)
    workshop.tell(told(200))
    workshop.train()
    return workshop


def test_without_a_readable_version_the_trainer_says_so(trained: Workshop) -> None:
    for manifest in (trained.root / "versions/manifests").iterdir():
        damage(manifest)
    with pytest.raises(VersionError, match=r"none of the versions .* restore one from a backup"):
        trained.restored()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"layers": 2}}, "model.layers: 1 there, 2 here"),
        ({"actions": {"types": {"click": {}, "hide": {"positive": False}}}}, "actions: .*'like'"),
        ({"store": {"item": {"optimizer": "adam"}}}, "item.optimizer: adagrad there, adam here"),
    ],
)
def test_a_version_of_other_settings_is_refused_with_the_difference(
    trained: Workshop, changes: dict[str, Any], said: str
) -> None:
    trained.sections = settings(**changes)
    with pytest.raises(ModelMismatch, match=said):
        trained.restored()


TYPES = {"click": {}, "like": {"weight": 2.0}, "hide": {"positive": False, "weight": -1.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"histories": {"capacity": 128}},
        {"store": {"item": {"min_count": 3}}},
        {"actions": {"types": {**TYPES, "share": {"weight": 3.0}}}},
        {"model": {"categories": 30}},
    ],
    ids=["capacity", "min_count", "actions", "categories"],
)
def test_settings_that_can_change_do(tmp_path: Path, changes: dict[str, Any]) -> None:
    """And what was learned stays: the next version is whole and serves."""
    kinds = {"actions": {"types": TYPES}}
    workshop = Workshop(tmp_path, settings(**kinds))
    workshop.tell(told(400, described=True))
    before = workshop.train(stop_after=4).teacher.state
    assert before.learner.categories.others > 0
    workshop.sections = settings(**(kinds | changes))
    with workshop.training() as trainer:
        after = trainer.teacher.state
        assert len(after.items) == len(before.items)
        keys = before.items.live_keys()
        rows = after.items.lookup(keys)
        assert after.items.gather(rows).equal(before.items.gather(before.items.lookup(keys)))
    workshop.train()
    newest = workshop.versions.latest()
    assert newest is not None
    snapshot = Snapshot.read(workshop.versions, newest)
    served = ActionTypes.of_description(snapshot.model["actions"])
    assert list(served.codes) == list(workshop.sections["actions"]["types"])
    Ranker(snapshot).warm()
    assert workshop.digest() == workshop.digest(workshop.restored())


@pytest.mark.parametrize("there", [None, 0])
def test_a_version_from_before_there_were_categories_is_continued(
    tmp_path: Path, there: int | None
) -> None:
    workshop = Workshop(tmp_path, settings(model={"categories": 0}))
    workshop.tell(told(400, described=True))
    workshop.train(stop_after=4)
    assert Difference("model.categories", there, 9).migrates
    assert not Difference("model.categories", 9, there or 0).migrates
    workshop.sections = settings()
    state = workshop.train().teacher.state
    assert state.learner.categories.known
    assert workshop.digest() == workshop.digest(workshop.restored())
    assert not state.counters["batches_skipped"]


def test_servers_get_the_categories_that_the_trainer_knows(whole: Workshop) -> None:
    state, newest = whole.restored().teacher.state, whole.versions.latest()
    assert newest is not None
    rows = Snapshot.read(whole.versions, newest).slots["item"]
    codes = state.learner.categories.codes(rows.keys_R)
    assert rows.categories is not None
    places = max(codes.shape[1], rows.categories.shape[1])
    found, expected = (
        torch.nn.functional.pad(part.int(), (0, places - part.shape[1]))
        for part in (rows.categories, codes)
    )
    assert len(rows) == len(state.items) + 1
    assert torch.equal(found, expected)
    assert int((expected > 0).any(1).sum()) > 3


def test_a_topic_that_was_made_again_is_refused(trained: Workshop) -> None:
    shutil.rmtree(trained.root / "stream" / "actions")
    trained.tell(told(200))
    with pytest.raises(OffsetError, match="topic actions is not the one that version"):
        trained.restored()


def test_a_stream_that_ends_before_the_version_is_refused(trained: Workshop) -> None:
    """As after restoring a backup of the stream that is older than the versions."""
    identity = (trained.root / "stream/actions/topic.json").read_bytes()
    shutil.rmtree(trained.root / "stream" / "actions")
    with closing(LocalStream(trained.root / "stream")) as stream:
        stream.partitions("actions")
    (trained.root / "stream/actions/topic.json").write_bytes(identity)
    with pytest.raises(OffsetError, match=r"offset 20\d of actions/0, .* is outside the stream"):
        trained.restored()


@pytest.mark.parametrize("begin", ["earliest", "2024-11-20T10:00:30"])
def test_lost_records_are_passed_over_when_that_is_asked_for(
    trained: Workshop, begin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first segment of the log has aged out: what was learned stays, the rest is learned."""
    shutil.rmtree(trained.root / "stream" / "actions")
    trained.tell(told(300, seed=5))
    with closing(trained.stream()) as stream:
        trainer = build(
            Settings(trained.sections), stream, trained.versions, trained.root / "skipped", begin
        )
        first = trainer.position.offsets["actions"][0]
        appended = [record.append_ms for record in stream.read("actions", 0, first, 1)]
    if begin == "earliest":
        assert first == 0
    else:
        assert first > 0
        assert appended[0] >= 1_732_096_830_000
    assert "goes on at offset" in caplog.text


def test_an_older_copy_of_the_stream_is_not_learned_again(tmp_path: Path) -> None:
    """It ends before the version: all that it holds was learned."""
    workshop, story = Workshop(tmp_path), told(300)
    workshop.tell(story)
    workshop.train()
    identity = (tmp_path / "stream/actions/topic.json").read_bytes()
    shutil.rmtree(tmp_path / "stream" / "actions")
    with closing(workshop.stream()) as stream:
        stream.partitions("actions")
    (tmp_path / "stream/actions/topic.json").write_bytes(identity)
    with closing(workshop.stream()) as stream:
        old = story.payloads["actions"][:100]
        stream.append("actions", 0, [payload for _, payload in old], [at_ms for at_ms, _ in old])
        trainer = build(
            Settings(workshop.sections), stream, workshop.versions, tmp_path / "skipped",
            "earliest",
        )  # fmt: skip
        assert trainer.position.offsets["actions"] == {0: 100}


def test_a_damaged_snapshot_stops_no_trainer(
    whole: Workshop, again: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    again.train(stop_after=9)
    newest = again.versions.numbers()[-1]
    damage(again.root / "versions" / again.versions.manifest(newest).snapshot[-1])
    again.train()
    assert "is not built upon" in caplog.text
    assert again.digest() == whole.digest()
    Snapshot.read(again.versions, again.versions.numbers()[-1])


def test_a_restart_keeps_the_pinned_version_however_long_ago_somebody_was_erased(
    tmp_path: Path,
) -> None:
    workshop, draws = Workshop(tmp_path, settings(trainer={"keep_versions": 2})), told(900)
    workshop.tell(draws)
    workshop.versions.decide(Erase(user=12345, before_ms=0))
    workshop.train(stop_after=4)
    pinned = workshop.versions.numbers()[-1]
    workshop.versions.decide(Pin(pinned))
    for _ in range(3):
        workshop.train(stop_after=2)
    assert pinned in workshop.versions.numbers()
    assert workshop.versions.target() == pinned


def test_a_long_silence_moves_the_origin_of_counts(tmp_path: Path) -> None:
    """A weekend is more half-lives than float32 has powers of two."""
    workshop = Workshop(tmp_path, settings(trainer={"snapshot": "fp32"}))
    story, later = told(200), told(200, seed=3)
    workshop.tell(story)
    workshop.train()
    for name, payloads in later.payloads.items():
        later.payloads[name] = [
            (at_ms + 300_000_000, _later(payload, 300_000)) for at_ms, payload in payloads
        ]
    workshop.tell(later)
    workshop.train()
    for number in workshop.versions.numbers():
        manifest = workshop.versions.manifest(number)
        assert manifest.held is None or not manifest.held.startswith("broken")
        Ranker(Snapshot.read(workshop.versions, number)).warm()
    assert workshop.digest() == workshop.digest(workshop.restored())


def _later(payload: bytes, seconds: float) -> bytes:
    try:
        document = json.loads(payload)
    except ValueError:
        return payload
    return json.dumps({**document, "at": document["at"] + seconds}).encode()


def test_a_beginning_that_cannot_be_read_is_refused(trained: Workshop) -> None:
    with closing(trained.stream()) as stream, pytest.raises(InputError, match="--from tomorrow"):
        build(
            Settings(trained.sections), stream, trained.versions, trained.root / "skipped",
            "tomorrow",
        )  # fmt: skip


def test_a_window_that_histories_cannot_fill_is_refused(tmp_path: Path) -> None:
    sections = settings(model={"window": 64}, histories={"capacity": 64})
    with pytest.raises(SettingsError, match=r"histories.capacity = 64 must be above model.window"):
        Workshop(tmp_path, sections).restored()
