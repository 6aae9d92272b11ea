"""What people and programs are shown: every figure appears, with its unit."""

import json
from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from service.commands.action_table import ActionTable
from service.commands.folder import DataFolder
from service.commands.report import Report, Slot, Work
from service.commands.simulation import Change
from service.commands.summary import Summary
from service.commands.view import DemoView, ReplayView, demo_panel
from service.metrics import Readings, TrainerMetrics

CHANGE = Change("u1", ["jazz-1", "jazz-2"], "tea-1", ["tea-2", "jazz-1"], 0.031)


def summary(**changes: object) -> Summary:
    values = {
        "seconds": 21.5, "actions_appended": 40_000, "actions_trained": 39_500,
        "actions_per_second": 2_000.0, "version": 9, "version_age_seconds": 1.2, "loss": 3.25,
        "hit_rate_at_10": {"online": 0.71, "popularity": 0.12}, "visits": 50, "clicks": 20,
        "action_to_ranking_p50_seconds": 0.021, "action_to_ranking_p99_seconds": 0.09,
        "change": CHANGE, "docs_url": "http://127.0.0.1:8080/docs", **changes,
    }  # fmt: skip
    return Summary(**values)  # type: ignore[arg-type]


def drawn(shown: RenderableType) -> str:
    console = Console(width=100, file=StringIO())
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined]


def table() -> ActionTable:
    return ActionTable(
        [1, 2], ["a"], ["click"],
        np.array([0, 1], np.int32), np.zeros(2, np.int32), np.zeros(2, np.int16),
        np.array([1.0, 2.0]), Counter({"time is not a number": 3}),
    )  # fmt: skip


def readings() -> Readings:
    metrics = TrainerMetrics()
    metrics.actions_total.labels("trained").inc(1_900)
    metrics.actions_total.labels("skipped").inc(100)
    metrics.rejected_total.labels("too late").inc(2)
    metrics.duplicates_total.inc(4)
    metrics.version.set(7)
    metrics.store_rows.labels("item").set(100)
    metrics.store_bytes.labels("item").set(30_000)
    metrics.histories_users.set(50)
    metrics.histories_bytes.set(10_000)
    metrics.hit_rate.labels("online").set(0.5)
    return Readings(metrics.text().decode())


def test_the_demo_panel_shows_every_figure() -> None:
    shown = drawn(demo_panel(summary()))
    for figure in (
        "39,500 of 40,000", "2,000 actions/s", "9, 1.2 s old", "3.250", "21 ms (p50)",
        "online", "0.710", "popularity", "0.120", "u1 clicks tea-1", "31 ms later", "tea-2",
        "http://127.0.0.1:8080/docs",
    ):  # fmt: skip
        assert figure in shown


def test_the_demo_panel_says_what_is_not_known_yet() -> None:
    nothing = summary(action_to_ranking_p50_seconds=None, change=None, hit_rate_at_10={})
    assert "not measured yet" in drawn(demo_panel(nothing))
    same = Change("u1", ["a"], "b", ["a"], 2.0)
    assert "unchanged" in drawn(demo_panel(summary(change=same)))


def test_a_summary_is_one_json_object_and_says_when_it_is_enough() -> None:
    assert json.loads(summary().to_json())["change"]["after"] == ["tea-2", "jazz-1"]
    assert summary().convincing
    assert not summary(hit_rate_at_10={"online": 0.15, "popularity": 0.12}).convincing
    assert not summary(hit_rate_at_10={}).convincing
    assert not summary(version=1).convincing


def test_a_report_counts_memory_as_rows_times_bytes(tmp_path: Path) -> None:
    left = {
        "records": 2_106, "positives_trained": 1_900, "positives_skipped": 100, "duplicates": 4,
        "rejected_too late": 2, "users": 50, "history_bytes": 10_000, "items": 100,
        "item_bytes": 30_000, "hit_rates": {"online": 0.5},
    }  # fmt: skip
    (tmp_path / "trainer.json").write_text(json.dumps(left))
    for name in ("00000006", "00000007"):
        (tmp_path / "versions" / "manifests").mkdir(parents=True, exist_ok=True)
        (tmp_path / "versions" / "manifests" / f"{name}.json").touch()
    report = Report.of(table(), Work(4.0, 106, 1_000_000), DataFolder(tmp_path))
    assert report.slots == {"item": Slot(100, 30_000)}
    assert report.memory_bytes == 40_000
    assert report.read == 5
    assert report.actions_per_second == 500
    assert report.outcomes == {"trained": 1_900, "skipped": 100, "history only": 0}
    assert (report.version, report.versions_kept) == (7, 2)
    assert json.loads(report.to_json())["serve"] == f"freshet serve --data {tmp_path}"
    console = Console(width=120, file=StringIO())
    report.show(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    rejected = "5 (time is not a number: 3, too late: 2)"
    for figure in (
        rejected, "4.0 s, 500 actions/s", "online 0.500", "100 x 300 bytes = 0.0 MB",
        "50 x 200 bytes", "freshet serve",
    ):  # fmt: skip
        assert figure in shown


def test_the_views_draw_on_standard_error_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with ReplayView(shown) as bars, DemoView(False) as nothing:
            bars.read(0.5)
            bars.expect(2_000)
            bars.advance(2_000, readings())
            nothing.show(summary())
        written = capsys.readouterr()
        assert not written.out
        assert ("version 7  HR@10 online 0.500" in written.err) == shown
    with DemoView(True) as live:
        live.show(summary())
    assert "jazz-1" in capsys.readouterr().err
