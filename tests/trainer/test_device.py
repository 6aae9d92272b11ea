"""Where the trainer computes: what the setting chooses, how batches get there, and that the path of
a GPU learns what the CPU learns."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from service.device import CPU, Device, chosen
from service.errors import SettingsError
from service.settings import Settings
from tests.trainer.workshop import settings
from trainer.build import Plan
from trainer.device import distinct, repacked, sent
from trainer.examples import Batch
from trainer.seen import by_first_place, seen_mask

ROOT = Path(__file__).parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_in_the_interpreter_it_learns_what_the_cpu_learns_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.trainer.device_cases", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_cpu_is_chosen_without_triton() -> None:
    assert chosen("cpu", "trainer.device") == Device(CPU, "numba")


@NO_GPU
def test_without_a_gpu_the_setting_is_refused_with_the_remedy() -> None:
    pytest.importorskip("triton")
    with pytest.raises(
        SettingsError,
        match=r"trainer.device = 'cuda', .*no GPU; set it to \"cpu\", .*or set TRITON",
    ):
        Plan(Settings(settings(trainer={"device": "cuda"})))


def test_an_optimizer_of_the_cpu_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.build.chosen", lambda *_: Device(CPU, "triton"))
    sections = settings(trainer={"device": "cuda"}, store={"item": {"optimizer": "sgd"}})
    with pytest.raises(SettingsError, match=r"store.item.optimizer = 'sgd' runs on the CPU alone"):
        Plan(Settings(sections))


@dataclass(frozen=True)
class Inner:
    at: torch.Tensor
    label: torch.Tensor


@dataclass(frozen=True)
class Outer:
    inner: Inner
    one: torch.Tensor
    same: torch.Tensor
    none: torch.Tensor


def outer(first: int) -> Outer:
    one = torch.arange(first, first + 3)
    label = torch.rand(2, 3)
    return Outer(Inner(torch.arange(5) * first, label), one, one, torch.zeros(0).long())


def test_a_batch_is_sent_in_one_piece_for_each_type_and_arrives_as_it_was() -> None:
    given, pieces = [outer(1), outer(7)], []

    def send(packed: torch.Tensor) -> torch.Tensor:
        pieces.append(packed.numel())
        return packed.clone()

    found = repacked(given, send)
    assert sorted(pieces) == [16, 20]  # each filled up to whole 16 bytes
    for one, other in zip(found, given, strict=True):
        assert one.same is one.one
        for value, expected in (
            (one.one, other.one), (one.none, other.none), (one.inner.at, other.inner.at),
            (one.inner.label, other.inner.label),
        ):  # fmt: skip
            assert torch.equal(value, expected)
            assert value.data_ptr() % 16 == 0
            assert value.untyped_storage().data_ptr() != expected.untyped_storage().data_ptr()


def test_on_the_cpu_nothing_is_sent() -> None:
    given = [outer(1)]
    assert sent(given, CPU) is given


def test_distinct_rows_ascend_with_their_counts() -> None:
    rows_U, times_U = distinct(torch.tensor([5, 1, 5, 0, 5]))
    assert rows_U.tolist() == [0, 1, 5]
    assert times_U.tolist() == [1, 1, 3]


@pytest.mark.parametrize("seed", range(5))
def test_what_was_seen_is_the_same_by_loop_and_by_first_place(seed: int) -> None:
    draw = np.random.default_rng(seed)
    events_B, queries_B = draw.integers(0, 6, 7), draw.integers(1, 4, 7)
    limit_Q = np.concatenate(
        [draw.integers(0, e + 1, q) for e, q in zip(events_B, queries_B, strict=True)]
    )
    batch = batch_of(events_B, queries_B, limit_Q)
    item_E = torch.from_numpy(draw.integers(0, 8, int(events_B.sum())))
    rows_S = torch.tensor([0, 2, 3, 5, 6])
    asked = torch.from_numpy(draw.permutation(len(limit_Q)))[: len(limit_Q) - 1]
    column_E = torch.full_like(item_E, -1)
    for column, row in enumerate(rows_S.tolist()):
        if row:
            column_E[item_E == row] = column
    expected = seen_mask(batch, item_E, rows_S, asked)
    assert torch.equal(by_first_place(batch, column_E, asked, len(rows_S)), expected)
    assert 0 < expected.sum() < expected.numel()


def batch_of(events_B: np.ndarray, queries_B: np.ndarray, limit_Q: np.ndarray) -> Batch:
    from kernels.attention import Events, Rows
    from trainer.examples import Seen

    def ends(counts: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))

    none = torch.zeros(0, dtype=torch.int64)
    limit = torch.from_numpy(limit_Q)
    seen = Seen(none, none, none, Events(ends(events_B), none))
    return Batch(seen, Rows(ends(queries_B), limit, limit, none), none, none)
