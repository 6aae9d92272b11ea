"""Fewer negatives: which, and that what is served stays calibrated."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration.learning import learned
from benchmarks.calibration.world import World
from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from trainer.joining import Shown
from trainer.sampling import Sampling
from trainer.targets import Targets


def test_the_share_is_kept_and_depends_on_request_item_and_seed_alone() -> None:
    items = np.arange(-500, 500)
    for keep in (0.5, 0.1, 0.01):
        kept_NR = np.array([Sampling(keep, 3).kept(key, items) for key in range(-200, 200)])
        assert kept_NR.mean() == pytest.approx(keep, rel=0.03)
        assert kept_NR.mean(0).std() < 3 * (keep / 400) ** 0.5  # no item is favoured
        assert kept_NR.mean(1).std() < 3 * (keep / 1000) ** 0.5  # nor is a request
        again = Sampling(keep, 3).kept(7, items[::-1])[::-1]
        assert again.tolist() == Sampling(keep, 3).kept(7, items).tolist()
        assert again.tolist() != Sampling(keep, 4).kept(7, items).tolist()
    assert Sampling(1.0).kept(7, items).all()


def test_positives_are_always_kept_and_rows_without_any_label_are_not_made() -> None:
    histories, items = LocalHistories(HistorySettings(capacity=64)), list(range(200))
    sampling = Sampling(0.1, 0)
    kept_R = sampling.kept(5, np.array(items))
    shown = Shown(1000, 1, items, 0, dict.fromkeys(range(50), 1), key=5)
    ((batch,), unusable) = Targets(16, 2, sampling).batches([shown], histories)
    assert unusable == []
    assert batch.item_R.tolist() == [n for n in items if n < 50 or kept_R[n]]
    first_R = (batch.item_R < 50).numpy()
    assert batch.label_RA.tolist() == [[float(one), 0.0] for one in first_R]
    # The other head's labels 0 are left out of positive rows, too: else they were too many.
    kept = kept_R[batch.item_R.numpy()]
    assert batch.counted_RA.tolist() == [
        [float(one or other), float(other)] for one, other in zip(first_R, kept, strict=True)
    ]
    assert batch.shown_P.sum() == 200  # where items stood does not depend on what is learned


def test_lists_of_which_nothing_is_left_make_no_batch() -> None:
    histories = LocalHistories(HistorySettings(capacity=64))
    made, unusable = Targets(16, 1, Sampling(1e-9)).batches([Shown(1, 1, [1, 2], 0)], histories)
    assert (made, unusable) == ([], [])


@pytest.mark.parametrize("keep", [1.0, 0.1])
def test_predictions_are_the_rates_that_are_observed(keep: float, tmp_path: Path) -> None:
    """Short; `python -m benchmarks.calibration` has 20,000 clicks and 1 %, too."""
    world = World(2000, size=20, log_odds=-2.2)
    _, found = learned(world, folder=tmp_path, keep_negatives=keep)
    assert found.raw.clicked > 1500
    assert 0.94 < found.raw.ratio < 1.06
    assert 0.94 < found.served.ratio < 1.06
    assert found.rows_learned < (40_000 if keep == 1 else 11_000)
