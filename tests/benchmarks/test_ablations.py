"""The ablations: one tiny stream through the command, and the arithmetic of its table."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablations, prequential, report


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 clicks in a day by users who each like one half of the items."""
    random = np.random.default_rng(0)
    user_T = random.integers(0, 40, 1500)
    item_T = random.integers(0, 20, 1500) + 20 * (user_T % 2)
    at_T = np.sort(random.integers(0, 86_400, 1500))
    path = tmp_path_factory.mktemp("data") / "clicks.csv"
    rows = np.stack([user_T, item_T, at_T], axis=1)
    np.savetxt(path, rows, "%d", ",", header="user_id,item_id,timestamp", comments="")
    return path


def run(*arguments: object) -> int:
    return report.run(
        ablations.parser(), prequential.check, ablations.measure, [str(a) for a in arguments]
    )


def test_a_variant_stands_beside_the_default_and_nothing_is_run_twice(clicks, tmp_path, capsys):
    out, table = tmp_path / "runs.jsonl", tmp_path / "table.md"
    arguments = (
        "--data", clicks, "--events", 1200, "--sample", 200, "--seeds", 1, "--jobs", 1,
        "--only", "history-row", "--out", out, "--table", table, "--json",
    )  # fmt: skip
    assert run(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {figure["figure"]: figure for figure in map(json.loads, lines)}
    assert len(found) == 2 * 7
    default, variant = (
        found[f"ablations.{name}.ndcg_at_10"] for name in ("default", "history-row")
    )
    assert 0 < variant["value"] != default["value"] > 0, "the setting reached the model"
    assert default["settings"]["minus_default"] == 0
    difference = variant["value"] - default["value"]
    assert variant["settings"]["minus_default"] == pytest.approx(difference)
    assert variant["settings"]["events"] == 1200
    served = found["ablations.default.served_ndcg_at_10"]["value"]
    assert 0 < served != default["value"]
    assert [line.split("|")[1].strip() for line in table.read_text().splitlines()[4:]] == [
        "`default`",
        "`history-row`",
    ]
    kept = out.read_text()
    assert kept.count("\n") == 2
    assert run(*arguments) == 0
    assert out.read_text() == kept
    assert capsys.readouterr().out.splitlines() == lines


def test_the_table_pairs_runs_of_the_same_seed():
    def result(ndcg: float) -> dict[str, float]:
        return dict.fromkeys((*ablations.NAMES, ablations.SPEED), ndcg)

    runs = {
        "default": [result(0.40), result(0.42), result(0.47)],
        "softmax": [result(0.41), result(0.42), result(0.50)],
    }
    default, softmax = ablations.table(runs).splitlines()[4:]
    assert default.startswith("| `default` | 0.4300 ± 0.0361 |")
    # differences .01, .00, .03: mean .0133, sd .0153, error .0153 / sqrt 3
    assert softmax.count("| +0.0133 ± 0.0088 |") == 2
    assert softmax.startswith("| `softmax` | 0.4433 ± 0.0493 |")


def test_every_variant_changes_something_and_is_a_setting_that_exists():
    from benchmarks.online import SETTINGS
    from service.settings import Settings
    from trainer.build import Plan

    plans = []
    for changed in ablations.VARIANTS.values():
        sections = {
            name: {**SETTINGS.get(name, {}), **changed.get(name, {})}
            for name in {*SETTINGS, *changed}
        }
        plan = Plan(Settings(sections))
        plans.append((plan.model, plan.trainer, plan.histories))
    assert all(plan not in plans[:n] for n, plan in enumerate(plans))
