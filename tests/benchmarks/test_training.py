"""The training benchmark: its stand-ins for settings, its stream, and a run on a bare machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import training
from benchmarks.training import PARTS, Shape, Story
from service.device import ON_CPU
from service.model.settings import ModelSettings
from service.settings import Section
from service.store.settings import SlotSettings
from trainer.settings import TrainerSettings

SHAPE = Shape(window=16, dim=16, events=48, rows=512, blocks=2, users=12)

BARE = """
import json, sys
for name in ("pydantic", "msgspec", "prometheus_client", "safetensors", "xxhash", "rich"):
    sys.modules[name] = None
from benchmarks import training
training.shapes = lambda device, quick: [training.Shape(16, 16, 16, 512, 1, 4)]
training.check("cuda")
print(json.dumps(training.measure("cuda", quick=True)))
"""


@pytest.mark.parametrize(
    ("stand_in", "section"),
    [
        (training.model_settings(Shape(256, 64, 1, 1, 1)), ModelSettings()),
        (training.slot_settings(64), SlotSettings()),
        (training.trainer_settings(), TrainerSettings()),
    ],
    ids=["model", "store.item", "trainer"],
)
def test_stand_ins_are_the_defaults(stand_in: Any, section: Section) -> None:
    for name, value in vars(stand_in).items():
        expected = getattr(section, name)
        assert value() == expected() if callable(value) else value == expected, name


def test_the_stream_is_in_order_has_new_items_all_the_time_and_repeats() -> None:
    blocks = [Story(SHAPE, seed=3).block(200) for _ in range(2)]
    assert np.array_equal(blocks[0].item_T, blocks[1].item_T)
    story, last_ms, known = Story(SHAPE, seed=3), 0, set[int]()
    new = []
    for _ in range(30):
        events = story.block(200)
        assert last_ms <= events.at_ms_T[0]
        assert (np.diff(events.at_ms_T) >= 0).all()
        last_ms = int(events.at_ms_T[-1])
        items = set(events.item_T.tolist())
        new.append(len(items - known) / len(items))
        known |= items
        assert 1 <= events.user_T.min() <= events.user_T.max() <= SHAPE.users
    assert 0.1 < np.mean(new[-5:]) < 0.9


def test_every_part_of_a_step_is_measured() -> None:
    found = training.measured(SHAPE, ON_CPU, "float32")
    assert found["actions_per_second"] > 0
    assert found["step_p50_seconds"] <= found["step_p99_seconds"]
    assert found["steps"] >= SHAPE.blocks
    assert found["share"].keys() == set(PARTS)
    assert sum(found["share"].values()) == pytest.approx(1)
    assert min(found["share"].values()) > 0


def test_it_runs_where_there_is_nothing_but_torch_triton_numba_and_numpy() -> None:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", BARE], cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["precision"] == "float32"
    assert found["window16_dim16_block16"]["actions_per_second"] > 0
