"""The synthetic stream against its description, and the harness around it."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks import report
from benchmarks.drift.__main__ import check, measure, parser
from benchmarks.drift.intervals import interval
from benchmarks.drift.stream import ALPHA, NONE, PUBLISHED, Size, ceiling, stream
from benchmarks.drift.training import VARIANTS, Task, built, run, scores

SIZE = Size(records=6_000, items=2_000, categories=50, length=32)
TASK = Task(
    "hstu", 0, records=1_500, items=200, categories=5, length=16, dim=16, layers=1, heads=1,
    batch=8, negatives=64, learning_rate=5e-3, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return stream(SIZE, seed=1)


def test_the_published_stream_is_that_of_the_paper():
    assert Size(1_000_000, 20_000, 100, 128) == PUBLISHED
    assert PUBLISHED.available(0) == 8_000
    assert PUBLISHED.available(500_000) == 14_000


def test_a_seed_gives_one_stream(made):
    assert np.array_equal(stream(SIZE, seed=1).item_NL, made.item_NL)
    assert not np.array_equal(stream(SIZE, seed=2).item_NL, made.item_NL)


def test_records_draw_what_is_available_and_all_of_it(made):
    highest_N = made.item_NL.max(1)
    available_N = np.array([SIZE.available(r) for r in range(SIZE.records)])
    assert (highest_N < available_N).all()
    assert made.item_NL.min() == 0
    last = made.item_NL[-600:]
    assert len(np.unique(last)) > 0.98 * SIZE.available(SIZE.records - 600)


def test_items_come_from_at_most_five_chosen_categories(made):
    drawn_NL = made.category_I[made.item_NL]
    assert (drawn_NL[:, :, None] == made.chosen_NP[:, None]).any(2).all()
    parts_N = (made.chosen_NP != NONE).sum(1)
    assert np.bincount(parts_N, minlength=6)[1:] == pytest.approx(SIZE.records / 5, rel=0.1)
    for chosen_P, parts in zip(made.chosen_NP, parts_N, strict=True):
        assert len(set(chosen_P[:parts])) == parts
    assert np.bincount(made.chosen_NP[made.chosen_NP != NONE]).min() > 0


def test_the_prior_is_random_and_alpha_uniform(made):
    parts_N = (made.chosen_NP != NONE).sum(1)
    assert made.prior_NP.sum(1) == pytest.approx(1)
    assert not made.prior_NP[made.chosen_NP == NONE].any()
    two_N = made.prior_NP[parts_N == 2, 0]  # uniform on [0, 1]
    assert (two_N.mean(), two_N.var()) == pytest.approx((1 / 2, 1 / 12), rel=0.1)
    assert np.quantile(made.alpha_N, [0, 0.5, 1]) == pytest.approx([*ALPHA[:1], 250, 500], abs=12)


def test_categories_follow_the_urn(made):
    """p = alpha / (alpha + n - 1) of a draw from H, else in proportion to counts: the expected
    count of every category at every place, given what was drawn before it."""
    place_L = np.arange(SIZE.length)
    is_of_NLP = made.category_I[made.item_NL][:, :, None] == made.chosen_NP[:, None]
    before_NLP = is_of_NLP.cumsum(1) - is_of_NLP
    mass_NLP = (made.alpha_N[:, None] * made.prior_NP)[:, None] + before_NLP
    expected_NLP = mass_NLP / (made.alpha_N[:, None] + place_L)[:, :, None]
    for few in (made.alpha_N < 30, made.alpha_N > 300):
        share = expected_NLP[few]
        for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.98)):
            inside = (share > low) & (share < high)
            inside[:, 0] = False
            error = np.sqrt((share * (1 - share))[inside].sum()) / inside.sum()
            drift = is_of_NLP[few][inside].mean() - share[inside].mean()
            assert abs(drift) < 4 * error


def test_items_of_a_category_are_alike(made):
    """Within a category, counts of items vary as those of independent uniform draws do."""
    count_I = np.bincount(made.item_NL[-1_000:].ravel(), minlength=SIZE.items)
    spread = freedom = 0.0
    for c in range(SIZE.categories):
        of_c = np.flatnonzero(made.category_I[: SIZE.available(SIZE.records - 1_000)] == c)
        old_C = count_I[of_c]
        spread += ((old_C - old_C.mean()) ** 2).sum() / old_C.mean()
        freedom += len(of_c) - 1
    assert spread / freedom == pytest.approx(1, abs=4 * (2 / freedom) ** 0.5)


def test_sizes_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="4 categories: a record has up to 5"):
        stream(Size(records=10, items=60, categories=4), seed=0)
    with pytest.raises(ValueError, match="take more items or fewer categories"):
        stream(Size(records=10, items=60, categories=50), seed=0)


def test_the_ceiling_is_what_the_best_guess_hits(made):
    """Places worked out item by item; and one who lists the likeliest ten hits about as often."""
    first = SIZE.records - 100
    chances, hits = [], []
    for r in range(first, SIZE.records):
        chosen_P = made.chosen_NP[r][made.chosen_NP[r] != NONE]
        mass = dict(zip(chosen_P, made.alpha_N[r] * made.prior_NP[r], strict=False))
        category_I = made.category_I[: SIZE.available(r)]
        for n, item in enumerate(made.item_NL[r]):
            weight_I = np.zeros(len(category_I))
            for c in chosen_P:
                weight_I[category_I == c] = mass[c] / (category_I == c).sum()
            best = np.argsort(-weight_I)[:10]
            if n:
                chances.append(weight_I[best].sum() / weight_I.sum())
                hits.append(item in best)
            mass[category_I[item]] += 1
    assert ceiling(made, first, 10) == pytest.approx(np.mean(chances))
    error = np.std(hits) / len(hits) ** 0.5
    assert np.mean(hits) == pytest.approx(np.mean(chances), abs=4 * error)


class _Knows(torch.nn.Module):
    """Expects the item of a place again, and half as much the one numbered above it."""

    def __init__(self, items):
        super().__init__()
        self.vectors = torch.eye(items + 1)

    def forward(self, item_T, offsets):
        return self.vectors[item_T] + 0.5 * self.vectors[(item_T + 1) % len(self.vectors)]

    def item_vectors(self):
        return self.vectors


def test_ranks_are_among_available_items():
    """A record that repeats an item is hit at once, whatever is said of items that do not exist
    yet; ties stand before, so a flat score misses."""
    task = replace(TASK, records=20, items=400)
    repeated, model = stream(task.size, 0), _Knows(400)
    repeated.item_NL[:] = np.arange(20)[:, None]
    model.vectors[task.size.available(19) + 1 :] = 9.0
    found = scores(model, repeated, 10, task)
    assert found == {f"{p}hr_at_{k}": 1.0 for p in ("", "last_") for k in (10, 50)}
    repeated.item_NL[:, -1] = 200  # nothing points there, so all that scores zero ties with it
    found = scores(model, repeated, 10, task)
    assert found["last_hr_at_50"] == 0
    assert found["hr_at_10"] == pytest.approx(14 / 15)


def test_a_model_that_has_come_apart_misses():
    model = _Knows(400)
    model.vectors = model.vectors * torch.nan
    assert scores(model, stream(TASK.size, 0), 1_480, TASK)["hr_at_50"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_what_they_are_called(variant):
    model = built(replace(TASK, variant=variant))
    names = " ".join(name for name, _ in model.named_parameters())
    assert ("distance_bias" in names) == (variant == "hstu")
    assert "time_bias" not in names
    assert ("inner" in names) == (variant == "transformer")
    if variant != "transformer":
        assert model.layers[0].form.weights == ("softmax" if variant == "softmax" else "silu")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(variant):
    """Much better than chance after one pass over a small stream."""
    result = run(asdict(replace(TASK, variant=variant)))
    assert result["losses"][-1] < result["losses"][0]
    assert result["hr_at_10"] > 1.3 * 10 / 200


def test_a_seed_gives_one_result():
    first, same, other = (run(asdict(replace(TASK, records=200, seed=seed))) for seed in (0, 0, 1))
    assert first["losses"] == same["losses"] != other["losses"]
    assert first["hr_at_50"] == same["hr_at_50"]


def test_intervals():
    known = interval([0.1, 0.2, 0.3])
    assert known.mean == pytest.approx(0.2)
    assert known.deviation == pytest.approx(0.1)
    assert known.high - known.mean == pytest.approx(4.303 * 0.1 / 3**0.5)
    alone = interval([0.5])
    assert (alone.low, alone.high, alone.runs) == (0.5, 0.5, 1)
    with pytest.raises(ValueError, match="11 runs"):
        interval([0.0] * 11)


def test_the_command_keeps_what_is_done(tmp_path, capsys):
    """Figures, a picture, and a second run that trains nothing."""
    kept, drawn = tmp_path / "runs.jsonl", tmp_path / "drift.png"
    small = ["--records", "150", "--items", "400", "--categories", "10", "--seeds", "2", "--json"]
    command = [*small, "--jobs", "1", "--variants", "no-rab", "transformer", "--out", str(kept)]
    assert report.run(parser(), check, measure, [*command, "--plot", str(drawn)]) == 0
    out, said = capsys.readouterr()
    figures = {line["figure"]: line for line in map(json.loads, out.splitlines())}
    ours = figures["drift.no-rab.hr_at_10"]
    assert ours["runs"] == 2
    assert ours["low"] <= ours["value"] <= ours["high"]
    assert ours["settings"]["size"] == "reduced"
    assert "drift.hstu_minus_no-rab.hr_at_10" not in figures
    lines = kept.read_text().splitlines()
    assert [json.loads(line)["trial"]["seed"] for line in lines] == [0, 0, 1, 1]
    assert figures["drift.ceiling.hr_at_10"]["value"] > 10 / 400
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert "no-rab seed 1: 100%" in said
    assert report.run(parser(), check, measure, command) == 0
    out, said = capsys.readouterr()
    assert "100%" not in said
    assert {line["figure"]: line for line in map(json.loads, out.splitlines())} == figures
    assert kept.read_text().splitlines() == lines
