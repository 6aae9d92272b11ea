"""The demo: trainer, server and feed together, and nothing of them afterwards."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.commands.demo import Patience, demo_folder, run_demo
from service.commands.processes import free_port, read_metrics
from service.commands.view import DemoView
from service.errors import InputError


def test_a_demo_learns_shows_lists_and_leaves_nothing_running(tmp_path: Path) -> None:
    patience = Patience(ready_seconds=120, least_seconds=0, most_seconds=4)
    with demo_folder(tmp_path) as folder:
        summary = run_demo(folder, DemoView(False), 1, free_port(), True, patience)
    assert 0 < summary.actions_trained <= summary.actions_appended + summary.visits + 1
    assert summary.version > 0
    assert summary.visits > 0
    assert summary.action_to_ranking_p50_seconds is not None
    assert set(summary.hit_rate_at_10) == {"online", "popularity"}
    assert summary.change is not None
    assert len(summary.change.before) == 5
    port = int(summary.docs_url.split(":")[2].split("/")[0])
    assert read_metrics(port) is None
    with pytest.raises(InputError, match="already holds a stream; choose another --data"):
        next(iter(demo_folder(tmp_path).gen))  # type: ignore[attr-defined]


def test_a_temporary_folder_is_removed() -> None:
    with demo_folder(None) as folder:
        (folder.root / "stream").mkdir()
    assert not folder.root.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children under /proc")
@pytest.mark.parametrize(("more", "status"), [(["--once"], 130), ([], 0)])
def test_an_interrupted_demo_stops_its_children(
    more: list[str], status: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "service", "demo", *more, "--port", str(free_port())]
    demo = subprocess.Popen([*command, "--data", str(tmp_path)], stderr=subprocess.PIPE)
    assert demo.stderr is not None
    with demo.stderr:
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
        deadline = time.monotonic() + 60
        while len(pids := children.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == status, demo.stderr.read()
    for pid in pids:  # those started last may still be dying by the kernel's hand
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_taken_folder_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "stream").mkdir()
    result = CliRunner().invoke(app, ["demo", "--once", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
