"""The command: its figures, its plot, and what it says of wrong input."""

import json

import numpy as np
import pytest

from benchmarks import curves, prequential, report
from benchmarks.protocol import Average

BASELINES = ["popularity", "cooccurrence", "blend"]


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """3,000 clicks in three days by users who each like one half of the items."""
    random = np.random.default_rng(0)
    user_T = random.integers(0, 60, 3000)
    item_T = random.integers(0, 20, 3000) + 20 * (user_T % 2)
    at_T = np.sort(random.integers(0, 3 * 86_400, 3000))
    path = tmp_path_factory.mktemp("data") / "clicks.csv"
    rows = np.stack([user_T, item_T, at_T], axis=1)
    np.savetxt(path, rows, "%d", ",", header="user_id,item_id,timestamp", comments="")
    return path


def run(arguments: list[str]) -> int:
    return report.run(
        prequential.parser(), prequential.check, prequential.measure, [str(a) for a in arguments]
    )


def figures(capsys) -> dict[str, dict]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["figure"]: line for line in lines}


def test_every_method_gets_every_metric_with_its_interval_and_protocol(clicks, capsys):
    arguments = ["--data", clicks, "--json", "--methods", *BASELINES, "--sample", "500"]
    assert run(arguments) == 0
    found = figures(capsys)
    for method in BASELINES:
        for prefix in ("", "unseen.", "second_half."):
            for metric in ("hr_at_10", "mrr_at_10", "ndcg_at_10"):
                line = found[f"prequential.{method}.{prefix}{metric}"]
                assert prefix == "unseen." or line["low"] <= line["value"] <= line["high"]
    settings = found["prequential.blend.ndcg_at_10"]["settings"]
    assert {"active_hours": 24.0, "sample": 500, "part": "last 80 %"}.items() <= settings.items()
    assert settings["beta"] > 0
    assert len(found) == 27


def test_tuned_baselines_learn_what_separates_the_users(clicks, capsys):
    arguments = ["--data", clicks, "--json", "--tune", "--active-hours", "all", "--methods"]
    assert run([*arguments, "popularity", "blend"]) == 0
    found = figures(capsys)
    blend, popularity = (found[f"prequential.{m}.hr_at_10"] for m in ("blend", "popularity"))
    assert blend["low"] > popularity["high"]
    assert blend["settings"]["active_hours"] == "all"


def test_days_come_on_request_and_the_plot_is_drawn(clicks, capsys, tmp_path):
    plot = tmp_path / "curves.png"
    arguments = ["--data", clicks, "--json", "--by-day", "--plot", plot, "--limit", "2500"]
    assert run([*arguments, "--methods", "popularity"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    days = [line["settings"]["day"] for line in lines if "by_day.hr" in line["figure"]]
    assert days == ["1970-01-01", "1970-01-02", "1970-01-03"]
    assert lines[0]["settings"]["events"] == 2500
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_file_without_the_columns_is_refused_with_their_names(clicks, capsys):
    assert run(["--data", clicks, "--user-column", "person", "--methods", "popularity"]) == 2
    assert "person" in capsys.readouterr().err


def test_labels_keep_their_order_and_their_distance():
    heights = curves.spaced([0.1, 0.11, 0.12, 0.5, 0.9, 0.9], gap=0.05)
    assert (np.diff(heights) >= 0.05 - 1e-12).all()
    assert heights[1] == pytest.approx(0.11), "a run of labels stays centred on its lines"
    assert heights[3] == 0.5


def test_days_with_too_few_events_are_not_drawn(tmp_path):
    few = {"2017-10-01": Average(0.3, 0.1, 0.5, curves.FEWEST - 1)}
    with pytest.raises(ValueError, match="no day holds 100 scored events"):
        curves.draw(tmp_path / "a.png", {"online": few}, "title")
