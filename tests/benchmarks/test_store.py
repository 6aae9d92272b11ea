"""The store's benchmark: its workload, its checks, its rounds, and a whole run in small."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import store
from benchmarks.peers import checks
from benchmarks.peers.workload import Workload, gradients, vectors_of
from benchmarks.report import CheckFailed
from benchmarks.stores import compare, curve
from benchmarks.stores.compare import OURS, Case
from benchmarks.stores.curve import Point
from benchmarks.stores.workers import Round, Shape, Worker

TINY = Shape(keys=3_000, batch=1_024, dim=8, threads=2)


@pytest.fixture(scope="module")
def bare() -> Iterator[Worker]:
    with Worker(sys.executable, "benchmarks.peers.bare", TINY) as worker:
        yield worker


def test_equal_seeds_give_equal_batches_and_others_do_not():
    one, two = Workload(1000, 200), Workload(1000, 200)
    for kind in ("zipf", "uniform"):
        (first,), (again,) = one.batches(kind, 5, 1), two.batches(kind, 5, 1)
        (other,) = two.batches(kind, 6, 1)
        assert (first.keys_N == again.keys_N).all()
        assert (first.keys_N != other.keys_N).any()


def test_batches_hold_preloaded_keys_but_for_a_tenth_of_the_uniform_ones():
    workload = Workload(5_000, 20_000)
    assert len(np.unique(workload.keys_K)) == 5_000
    (zipf,), (uniform,) = workload.batches("zipf", 0, 1), workload.batches("uniform", 0, 1)
    assert (workload.keys_K[zipf.places_N] == zipf.keys_N).all()
    known_N = uniform.places_N >= 0
    assert known_N.mean() == pytest.approx(0.9, abs=0.01)
    assert (workload.keys_K[uniform.places_N[known_N]] == uniform.keys_N[known_N]).all()
    assert not np.isin(uniform.keys_N[~known_N], workload.keys_K).any()


def test_the_busiest_key_has_its_share_under_zipfs_law():
    workload = Workload(1_000, 100_000)
    (batch,) = workload.batches("zipf", 0, 1)
    shares = np.arange(1, 1001) ** -1.05
    busiest = np.unique(batch.keys_N, return_counts=True)[1].max() / 100_000
    assert busiest == pytest.approx(shares[0] / shares.sum(), rel=0.05)


def test_a_table_that_gives_one_key_anothers_vector_fails_its_check():
    workload = Workload(100, 50)

    def right(batch):
        return vectors_of(batch.places_N, 8)

    def wrong(batch):
        busiest = np.bincount(np.maximum(batch.places_N, 0)).argmax()
        return vectors_of(np.where(batch.places_N == busiest, 0, batch.places_N), 8)

    checks.lookups(right, workload, 8)
    with pytest.raises(AssertionError, match="have another's vector"):
        checks.lookups(wrong, workload, 8)


def test_a_table_that_steps_once_per_occurrence_fails_its_check():
    workload = Workload(20, 50)
    rows_RD = vectors_of(np.arange(20), 8).astype(np.float64)

    def train(batch):
        np.subtract.at(rows_RD, batch.places_N, 0.1 * np.sign(gradients(50, 8)))

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        checks.row_wise_adagrad(lambda b: rows_RD[b.places_N].copy(), train, workload, 0.1)


def test_the_bare_table_checks_itself_and_answers_every_measure(bare: Worker):
    for measure in ("lookup", "update", "step"):
        done = bare.round(measure, "zipf", 0, 2)
        assert done.keys == 2 * TINY.batch
        assert 0 < done.seconds < 60
        assert done.cpu_seconds > 0


def test_a_worker_that_cannot_start_says_why(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(CheckFailed, match="fbgemm"):
        Worker(sys.executable, "benchmarks.peers.fbgemm", TINY).__enter__()
    assert "fbgemm_gpu" in capsys.readouterr().err


def test_without_a_peers_environment_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert store.main(["--quick", "--peers", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "make peers" in said.err
    assert said.out == ""


def test_ratios_compare_turn_by_turn_and_the_best_of_each():
    case = Case("lookup", "zipf")
    rounds = {
        (OURS, case): [Round(100, 1.0, 1.0), Round(100, 0.5, 1.0)],
        (OURS, Case("gather", "zipf")): [Round(100, 0.5, 1.0), Round(100, 0.5, 1.0)],
        ("other", case): [Round(100, 2.0, 1.0), Round(100, 4.0, 1.0)],
    }
    found = {
        (figure.figure, figure.settings.get("over")): figure
        for figure in compare.figures(rounds, TINY, ["other"])
    }
    ratio = found["store.lookup_ratio", "other"]
    assert (ratio.low, ratio.high, ratio.settings["of_bests"]) == (2.0, 8.0, 4.0)
    assert found["store.lookup_ratio", "given rows"].value == 0.75


def test_the_curve_is_drawn(tmp_path: Path):
    points = [
        Point(rows, case, [Round(rows, 0.1, 0.1)])
        for rows in (100_000, 1_000_000)
        for case in curve.LINES
    ]
    curve.draw(tmp_path / "curve.png", points)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_small_run_prints_every_figure_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    sizes = ["--keys=40000", "--batch=4096", "--dim=16", "--runs=2", "--batches=1"]
    assert store.main(["--json", "--quick", *sizes]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = {figure["figure"] for figure in figures}
    assert names >= {
        "store.lookup_keys_per_second", "store.read_keys_per_second",
        "store.update_keys_per_second", "store.step_keys_per_second",
        "store.gather_keys_per_second", "store.update_cpu_ns_per_key",
        "store.copy_gigabytes_per_second", "store.lookup_ratio", "store.bytes_per_row",
        "store.growth.longest_over_median_ms", "store.memory.last_over_account",
    }  # fmt: skip
    assert {figure["settings"].get("table") for figure in figures} >= {OURS, compare.OURS_ADAM}
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in figures)
