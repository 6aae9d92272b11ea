"""Versions one after another: segments that carry, numbers that nobody else took, old ones gone."""

import threading
from contextlib import closing

import pytest

from service.errors import VersionExists
from service.histories.segments import MERGE
from service.versions import Checkpoint, Snapshot, fold
from tests.trainer.workshop import Workshop, settings, told


def levels(workshop: Workshop) -> list[int]:
    newest = workshop.versions.numbers()[-1]
    manifest = workshop.versions.manifest(newest)
    found: list[int] = Checkpoint.chain(workshop.versions, manifest)[-1].meta["segment_levels"]
    return found


def test_eight_segments_of_a_size_become_one_of_the_next(workshop: Workshop) -> None:
    workshop.sections = settings(trainer={"publish_seconds": 1e9})
    workshop.tell(told(1300))
    names: set[str] = set()
    for version in range(1, 19):
        live = workshop.train(stop_after=1)
        manifest = workshop.versions.manifest(version)
        assert levels(workshop) == [1] * (version // MERGE) + [0] * (version % MERGE)
        assert len(manifest.histories) == len(levels(workshop))
        if version % MERGE:  # nothing was rewritten: one new file, the rest as they were
            assert names <= set(manifest.histories)
            assert len(manifest.histories) == len(names) + 1
        names = set(manifest.histories)
        assert workshop.digest() == workshop.digest(live)
    assert workshop.versions.numbers() == [16, 17, 18]


def test_a_trainer_that_lost_the_race_for_the_first_version_ends(workshop: Workshop) -> None:
    workshop.tell(told(200))
    with workshop.training() as slow:
        workshop.train()
        with pytest.raises(VersionExists, match="another trainer is ahead"):
            slow.run(threading.Event(), lambda: True)


def test_a_trainer_that_was_overtaken_ends_and_harms_nothing(workshop: Workshop) -> None:
    workshop.sections = settings(trainer={"publish_seconds": 1e9})
    workshop.tell(told(600))
    workshop.train(stop_after=2)
    with workshop.training() as slow:
        workshop.train()
        numbers, digest = workshop.versions.numbers(), workshop.digest()
        with pytest.raises(VersionExists, match="Stop this one, or let it resume from there"):
            slow.run(threading.Event(), lambda: True)
    assert (workshop.versions.numbers(), workshop.digest()) == (numbers, digest)
    workshop.versions.verify(numbers[-1])


def test_a_snapshot_serves_what_the_checkpoint_learned(workshop: Workshop) -> None:
    workshop.tell(told(400, items=90))
    state = workshop.train().teacher.state
    snapshot = Snapshot.read(workshop.versions, workshop.versions.numbers()[-1])
    rows = snapshot.slots["item"]
    assert rows.ids is not None
    assert set(rows.ids[1:]) == {f"i{n}" for n in range(90)}
    vectors = state.items.gather(state.items.lookup(rows.keys_R[1:]))
    assert (rows.vectors()[1:] - vectors).abs().max() < 0.01
    assert snapshot.model["action_heads"] is True
    assert set(snapshot.weights()) == set(state.learner.network.state_dict())


def test_action_heads_are_announced_once_they_were_taught(workshop: Workshop) -> None:
    story = told(300)
    story.payloads["impressions"].clear()
    workshop.tell(story)
    workshop.train()
    snapshot = Snapshot.read(workshop.versions, workshop.versions.numbers()[-1])
    assert snapshot.model["action_heads"] is False


def test_a_manifest_says_where_it_stands_and_which_blocks_led_there(workshop: Workshop) -> None:
    story = told(500)
    workshop.tell(story)
    trainer = workshop.train()
    manifest = workshop.versions.manifest(workshop.versions.numbers()[-1])
    assert manifest.parent == manifest.number - 1
    assert manifest.offsets == {
        topic: {"0": len(told_there)} for topic, told_there in story.payloads.items()
    }
    assert manifest.block == trainer.teacher.state.block
    manifests = map(workshop.versions.manifest, workshop.versions.numbers())
    blocks = [records for manifest in manifests for records in manifest.blocks]
    assert set(blocks[:-1]) == {64}
    assert manifest.counters["records"] == story.records


@pytest.mark.parametrize("base_every", [1, 3, 64])
def test_chains_of_deltas_are_the_state_and_nothing_else(
    workshop: Workshop, base_every: int
) -> None:
    """Rows come, change, expire and come back; servers and a new trainer have the very state."""
    workshop.sections = settings(
        store={"item": {"ttl_seconds": 60, "min_count": 2}},
        trainer={
            "publish_seconds": 20, "base_every": base_every, "snapshot": "fp32",
            "dense_seconds": 0, "keep_versions": 5, "sweep_rows": 64,
        },
    )  # fmt: skip
    workshop.tell(told(900, items=400))
    trainer = workshop.train()
    state, newest = trainer.teacher.state, workshop.versions.numbers()[-1]
    assert state.items.expired > 100
    manifests = [workshop.versions.manifest(n) for n in workshop.versions.numbers()]
    assert any(len(manifest.checkpoint) > 1 for manifest in manifests)
    assert max(len(manifest.snapshot) for manifest in manifests) <= base_every + 1
    rows = Snapshot.read(workshop.versions, newest).slots["item"]
    assert sorted(rows.keys_R[1:].tolist()) == sorted(state.items.live_keys().tolist())
    assert rows.vectors()[1:].equal(state.items.gather(state.items.lookup(rows.keys_R[1:])))
    assert workshop.digest() == workshop.digest(trainer)


def test_a_step_leads_from_the_parents_snapshot_to_the_next(workshop: Workshop) -> None:
    """With a new base beside it, too: who serves the parent need not read that."""
    workshop.sections = settings(
        trainer={"publish_seconds": 20, "base_every": 2, "keep_versions": 9}
    )
    workshop.tell(told(400))
    workshop.train()
    versions, bases = workshop.versions, 0
    for number in versions.numbers()[1:]:
        manifest = versions.manifest(number)
        assert (manifest.step, manifest.snapshot_parent) != (None, None)
        step = Snapshot.read_file(versions, manifest, str(manifest.step))
        whole = fold([Snapshot.read(versions, number - 1), step])
        assert same(whole, Snapshot.read(versions, number))
        bases += len(manifest.snapshot) == 1
    assert bases >= 2


def same(one: Snapshot, other: Snapshot) -> bool:
    """Whether servers would have the same of both, whatever the order of rows."""
    rows, others = one.slots["item"], other.slots["item"]
    order, places = rows.keys_R.argsort(), others.keys_R.argsort()
    pairs = [(rows.keys_R, others.keys_R), (rows.vectors(), others.vectors())]
    pairs += [(rows.extra[name], others.extra[name]) for name in rows.extra]
    weights = [(weight, other.weights()[name]) for name, weight in one.weights().items()]
    return all(a[order].equal(b[places]) for a, b in pairs) and all(a.equal(b) for a, b in weights)


def test_a_version_says_when_the_oldest_record_that_it_adds_was_appended(
    workshop: Workshop,
) -> None:
    workshop.sections = settings(trainer={"keep_versions": 20})
    workshop.tell(told(600))
    workshop.train()
    manifests = [workshop.versions.manifest(n) for n in workshop.versions.numbers()]
    assert len(manifests) > 2
    with closing(workshop.stream()) as stream:
        before = {topic: {0: 0} for topic in manifests[0].next_offsets()}
        for manifest in manifests:
            heads = [stream.read(topic, 0, at[0], 1) for topic, at in before.items()]
            oldest = min(record.append_ms for head in heads for record in head)
            assert manifest.first_append_seconds == oldest / 1000
            before = manifest.next_offsets()
