"""The benchmark of cold items: the same events both ways, and chance where nothing is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cold_items, report


def test_both_ways_are_scored_alike_and_without_categories_all_unseen_items_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, at = np.random.default_rng(0), 1000
    rows, groups = ["user_id,item_id,timestamp"], ["item_id,genres"]
    groups += [f"{item},g{item % 5}|all" for item in range(300)]
    for number in range(1_200):
        user = int(make.integers(40))
        item = int(make.integers(min(300, 20 + number // 4)))
        rows.append(f"{user},{item - item % 5 + user % 5},{at + number}")
    data, items = tmp_path / "a.csv", tmp_path / "items.csv"
    data.write_text("\n".join(rows))
    items.write_text("\n".join(groups))
    arguments = ["--json", "--data", str(data), "--items", str(items)]
    assert report.run(cold_items.parser(), cold_items.check, cold_items.measure, arguments) == 0
    figures = {one["figure"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    names = ["all.mrr", "all.hr_at_10", "first.mrr", "2_to_5.mrr", "unseen.place"]
    for way in ("with", "without"):
        assert all(0 <= figures[f"cold_items.{way}.{name}"]["value"] <= 1 for name in names)
        assert figures[f"cold_items.{way}.all.mrr"]["settings"]["scored"] == 213  # of 300
    assert figures["cold_items.without.unseen.place"]["value"] == pytest.approx(0.5, abs=0.02)
    assert figures["cold_items.with.unseen.place"]["value"] != pytest.approx(0.5, abs=1e-6)
