"""Erasure between two blocks of a real trainer: what is left of a user, and of everyone else."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import torch

from service.blocks import Block
from service.histories.erased import Erased, without
from service.histories.local import LocalHistories
from service.histories.rings import Longs
from service.histories.segments import segments_of
from service.intake import Intake
from service.versions.decisions import Erase
from tests.trainer.workshop import START_MS, Told, Workshop, settings, told
from trainer.erasing import erase
from trainer.loop import Trainer

USER = 7
LATER_MS = START_MS + 10**9
EVERYTHING = Erased.of({USER: LATER_MS})


def of_user(trainer: Trainer, user: int = USER) -> Longs:
    histories = trainer.teacher.state.histories
    return histories.read(np.array([user]), histories.settings.capacity).item_T


def erased(trainer: Trainer, who: Erased) -> None:
    teacher = trainer.teacher
    erase(teacher.state, teacher.segments, teacher.inspection, who)


def test_nothing_that_is_kept_by_user_is_left_in_the_state(workshop: Workshop) -> None:
    workshop.tell(told(600))
    trainer = workshop.train(stop_after=6)
    waiting = trainer.teacher.state.joiner.waiting
    (user,) = waiting.rows("SELECT user FROM shown WHERE stage = 0")[0]
    others = waiting.rows("SELECT * FROM shown WHERE user <> ?", user)
    neighbour = of_user(trainer, (user + 1) % 20).tolist()
    assert len(of_user(trainer, user))
    erased(trainer, Erased.of({user: LATER_MS}))
    assert len(of_user(trainer, user)) == 0
    assert of_user(trainer, (user + 1) % 20).tolist() == neighbour != []
    assert waiting.rows("SELECT * FROM shown") == others != []
    for table in ("named", "loose"):
        users = {one for (one,) in waiting.rows(f"SELECT user FROM {table}")}
        assert user not in users != set()


def test_learned_weights_and_rows_stay_as_they_are(workshop: Workshop) -> None:
    workshop.tell(told(300))
    trainer = workshop.train()
    before = trainer.teacher.state.tensors()
    erased(trainer, EVERYTHING)
    after = trainer.teacher.state.tensors()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"joiner/facts"}


def test_kept_batches_go_for_they_do_not_say_whose_they_are(workshop: Workshop) -> None:
    trainer = workshop.train()
    erased(trainer, EVERYTHING)  # there is no folder yet
    workshop.tell(told(50))
    trainer = workshop.train()
    folder = workshop.root / "skipped"
    folder.mkdir()
    (folder / "block-00000001-actions-0.safetensors").write_bytes(b"kept")
    erased(trainer, EVERYTHING)
    assert list(folder.iterdir()) == []


def test_a_trainer_that_goes_on_keeps_only_what_the_user_does_later(
    tmp_path: Path,
) -> None:
    """Erased in the middle of a stream, with blocks read ahead that hold the user's actions: the
    rest is taught as if it had been known from the beginning."""
    workshop, story = Workshop(tmp_path, settings(histories={"capacity": 64})), told(600, users=6)
    workshop.tell(story)
    times = [at_ms for at_ms, _ in story.payloads["actions"]]
    who = Erased.of({3: times[200]})
    with workshop.training() as trainer:
        for number, block in enumerate(blocks_of(trainer.intake)):
            if number == 4:
                erased(trainer, who)
            trainer.teacher.teach(block.without(who) if number >= 4 else block)
        state = trainer.teacher.state
        held = state.histories.read(np.array([3]), 64)
        assert held.at_ms_T.tolist() == later(story, 3, times[200])
        whole = without([trainer.teacher.segments.take()], who, 64)
        assert not who.covers(whole.events.user_T, whole.events.at_ms_T).any()
        restored = LocalHistories(state.histories.settings)
        whole.restore(restored)
        for user in range(6):
            ours, theirs = (h.read(np.array([user]), 64) for h in (state.histories, restored))
            assert ours.count_B.tolist() == theirs.count_B.tolist()
            assert ours.item_T.tolist() == theirs.item_T.tolist()
        assert sorted(set(whole.events.user_T.tolist())) == list(range(6))


def later(story: Told, user: int, than_ms: int) -> list[int]:
    """Event times of what a user did later, each action id once."""
    actions = [msgspec.json.decode(p) for _, p in story.payloads["actions"] if p.endswith(b"}")]
    mine = [a for a in actions if a["user"] == user and round(a["at"] * 1000) > than_ms]
    found = list({action["id"]: round(action["at"] * 1000) for action in reversed(mine)}.values())
    assert len(found) > 5
    return found[::-1]


def blocks_of(intake: Intake) -> list[Block]:
    blocks = list(iter(lambda: intake.block(64, 0, ended=lambda: True), None))
    assert len(blocks) > 8
    return [block for block in blocks if block is not None]


def test_a_published_version_restores_without_the_user(workshop: Workshop) -> None:
    """Segments of an old version, rewritten as the next version has them."""
    workshop.tell(told(400))
    trainer = workshop.train()
    erased(trainer, EVERYTHING)
    manifest = workshop.versions.manifest(workshop.versions.numbers()[-1])
    segments = [*segments_of(workshop.versions, manifest), trainer.teacher.segments.take()]
    one = without(segments, EVERYTHING, 64)
    assert USER in segments[0].events.user_T
    assert USER not in one.events.user_T
    assert len(one.forgotten) == 0


def decided(workshop: Workshop) -> int:
    """An operator's decision to erase the user."""
    return workshop.versions.decide(Erase(user=USER, before_ms=LATER_MS, at=0.0))


def test_a_trainer_that_starts_obeys_with_its_next_version(workshop: Workshop) -> None:
    """Though nothing new is in the stream; older versions go, for they hold what is erased."""
    workshop.tell(told(400))
    workshop.train()
    newest = workshop.versions.latest()
    assert USER in workshop.users()
    generation = decided(workshop)
    workshop.train()
    assert workshop.versions.numbers() == [newest + 1]
    assert workshop.versions.manifest(newest + 1).decisions == generation
    assert workshop.users() == [user for user in range(20) if user != USER]
    restored = workshop.restored()
    waiting = restored.teacher.state.joiner.waiting
    users = {user for (user,) in waiting.rows("SELECT user FROM shown")}
    assert USER not in users != set()
    digest = workshop.digest()
    workshop.train()
    assert workshop.versions.numbers() == [newest + 1]  # once
    assert workshop.digest() == digest


def test_training_anew_from_the_earliest_record_leaves_an_erased_user_out(
    workshop: Workshop,
) -> None:
    workshop.tell(told(400))
    whole = dict(workshop.train().teacher.state.counters)
    decided(workshop)
    for part in ("manifests", "data"):  # what an operator moves away to train anew
        shutil.rmtree(workshop.root / "versions" / part)
    anew = workshop.train().teacher.state.counters
    assert anew["records"] == whole["records"]
    gone = sum(whole[name] - anew[name] for name in ("actions", "impressions"))
    assert anew["erased"] == gone > 20
    assert workshop.users() == [user for user in range(20) if user != USER]
