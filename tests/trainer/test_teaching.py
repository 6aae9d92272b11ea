"""What becomes of a block: learned, remembered, counted; and a model that really learns."""

import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.torch import load_file

from service.actions import Action, Rejected, key_of
from tests.trainer.workshop import START_MS, Told, Workshop, settings, told
from trainer.inspection import KEPT, Inspection
from trainer.teaching import Scoring


def sample(trainer: object, name: str, **labels: str) -> float:
    value = trainer.metrics.registry.get_sample_value(f"freshet_{name}", labels)  # type: ignore[attr-defined]
    assert value is not None, name
    return float(value)


def cycles(events: int, items: int = 30, users: int = 12) -> Told:
    """Every user goes round the same ring of items from a place of its own: each item is as
    popular as any other, and what follows is certain."""
    story, draw = Told(), np.random.default_rng(0)
    place = draw.integers(0, items, users)
    for number in range(events):
        user = int(draw.integers(users))
        place[user] = (place[user] + 1) % items
        at_ms = START_MS + 1000 * number
        action = Action(user=user, item=f"i{place[user]}", action="click", at=at_ms / 1000)
        story.append("actions", at_ms, msgspec.json.encode(action))
    return story


def test_the_model_learns_what_popularity_cannot_see(workshop: Workshop) -> None:
    workshop.sections = settings(trainer={"evaluate_rows": 16, "learning_rate": 5e-3})
    workshop.tell(cycles(4000))
    losses: list[float] = []
    with workshop.training() as trainer:
        trainer.teacher.observers.append(lambda _: losses.append(sample(trainer, "loss")))
        trainer.run(threading.Event(), lambda: True)
        rates = trainer.teacher.evaluation.hit_rates()
    assert rates["online"] > rates["popularity"] + 0.2
    assert np.mean(losses[-10:]) < np.mean(losses[1:11]) / 2


def test_stochastic_length_leaves_context_out_and_no_event_unlearned(tmp_path: Path) -> None:
    story, seen, learned = told(600, users=4), {}, {}
    for alpha in (None, 1.2, 1.2):
        workshop = Workshop(tmp_path / f"{alpha}-{len(seen)}")
        workshop.sections = settings(trainer={"stochastic_length": alpha, "evaluate_rows": 0})
        workshop.tell(story)
        events: list[int] = []
        with workshop.training() as trainer:
            trainer.teacher.observers.append(
                lambda told, events=events: events.append(len(told.scored.batch.seen.item_E))
            )
            trainer.run(threading.Event(), lambda: True)
        assert seen.setdefault(alpha, events) == events
        counters = trainer.teacher.state.counters
        learned[alpha] = counters["positives_trained"]
    assert sum(seen[1.2]) < 0.9 * sum(seen[None])
    assert learned[1.2] == learned[None] == story.positives


def test_a_poisoned_row_costs_its_batches_and_nothing_else(workshop: Workshop) -> None:
    workshop.sections = settings(trainer={"publish_seconds": 1e9})
    story = told(900)
    workshop.tell(story)
    with workshop.training() as trainer:
        state = trainer.teacher.state
        row: list[int] = []

        def poison(scoring: Scoring) -> None:
            if state.block == 4 and not row:
                row.append(int(scoring.truth_Q[0]))
                state.items.vectors_RD[row[0]] = float("nan")
            elif state.block == 8:
                state.items.vectors_RD[row[0]] = 0.01

        trainer.teacher.observers.append(poison)
        trainer.run(threading.Event(), lambda: True)
    counters = state.counters
    skipped, batches = counters["positives_skipped"], counters["batches_skipped"]
    assert skipped > 0
    assert counters["positives_trained"] == story.positives - skipped
    assert sample(trainer, "actions_total", outcome="skipped") == skipped
    assert sample(trainer, "batches_skipped_total") == batches
    kept = sorted((workshop.root / "skipped").iterdir())
    assert len(kept) == batches
    first = load_file(next(path for path in kept if "-next-items-" in path.name))
    assert len(first["0.truth_Q"]) == len(first["0.queries.limit"]) > 0
    assert first["0.seen.events.offsets"][-1] == len(first["0.seen.item_E"])
    for name, tensor in state.tensors().items():
        assert not tensor.is_floating_point() or tensor.isfinite().all(), name


def test_kept_batches_do_not_fill_the_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inspection = Inspection(tmp_path / "skipped")
    for block in range(KEPT + 20):
        inspection.keep([], block, 0)
    assert len(list(inspection.folder.iterdir())) == KEPT


def test_an_item_whose_key_is_taken_is_remembered_and_not_learned(workshop: Workshop) -> None:
    story = Told()
    for number in range(40):
        item = "owner" if number % 2 == 0 else key_of("owner")
        at_ms = START_MS + 1000 * number
        action = Action(user=number % 3, item=item, action="click", at=at_ms / 1000)
        story.append("actions", at_ms, msgspec.json.encode(action))
    workshop.tell(story)
    state = workshop.train().teacher.state
    assert state.counters["positives_trained"] == state.counters["context_only"] == 20
    assert state.ids.collisions == 20
    assert (len(state.items), state.ids.get(key_of("owner"))) == (1, "owner")
    assert state.histories.live_events == 40


def test_a_rejected_record_is_told_with_its_place_and_reason(workshop: Workshop) -> None:
    story = told(300)
    workshop.tell(story)
    trainer = workshop.train()
    with closing(workshop.stream()) as stream:
        records = stream.read("rejected", 0, 0, 100)
    rejected = [msgspec.json.decode(record.payload, type=Rejected) for record in records]
    assert len(rejected) == story.rejected > 0
    for one in rejected:
        assert (one.topic, one.reason) == ("actions", "bad_json")
        assert one.payload == story.payloads["actions"][one.offset][1].decode()
    assert sample(trainer, "rejected_total", reason="bad_json") == story.rejected


@pytest.mark.parametrize("said", [-1, 10**30])
def test_an_impression_that_lies_about_its_history_stops_nothing(
    workshop: Workshop, said: int
) -> None:
    story = told(200)
    shown = [(at, msgspec.json.decode(p)) for at, p in story.payloads["impressions"]]
    story.payloads["impressions"] = [
        (at, msgspec.json.encode({**one, "history": -1}).replace(b"-1", str(said).encode()))
        for at, one in shown
    ]
    workshop.tell(story)
    counters = workshop.train().teacher.state.counters
    assert counters["records"] == story.records


def test_rows_and_users_whose_time_is_over_leave(workshop: Workshop) -> None:
    workshop.sections = settings(
        store={"item": {"ttl_seconds": 60}}, histories={"ttl_seconds": 60}
    )  # fmt: skip
    workshop.tell(told(600, users=300, items=300))
    trainer = workshop.train()
    state = trainer.teacher.state
    assert len(state.items) == len(state.ids) < 250
    assert len(state.histories) < 250
    assert sample(trainer, "store_removed_total", slot="item", reason="expired") > 50
    assert len(workshop.restored().teacher.state.histories) == len(state.histories)


def test_live_blocks_are_cut_by_time_and_versions_by_the_clock(workshop: Workshop) -> None:
    workshop.sections = settings(
        trainer={"publish_clock": "wall", "publish_seconds": 0.01, "block_ms": 10},
        intake={"idle_ms": 1},
    )  # fmt: skip
    story, stop = told(150), threading.Event()
    with closing(workshop.stream()) as producer, workshop.training() as trainer:
        thread = threading.Thread(target=trainer.run, args=(stop,))
        thread.start()
        story.to_stream(producer, 0, 20)
        while sample(trainer, "version") < 1:
            assert thread.is_alive()
            time.sleep(0.01)
        story.to_stream(producer, 20)
        while trainer.teacher.state.counters["records"] < story.records:
            assert thread.is_alive()
            time.sleep(0.01)
        stop.set()
        thread.join()
    assert workshop.digest(trainer) == workshop.digest()
    assert sample(trainer, "stream_lag_records") == 0
    assert sample(trainer, "histories_users") == len(trainer.teacher.state.histories)
