"""Children are watched, stopped, and never outlive their parent."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.commands.processes import (
    Child,
    ProcessError,
    environment,
    free_port,
    interruptible,
    read_metrics,
)
from service.metrics import TrainerMetrics

DEADLINE_SECONDS = 20.0


def web(tmp_path: Path, port: int) -> Child:
    """A real process that serves the files of a folder."""
    arguments = ["--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)]
    return Child("http.server", arguments, tmp_path / "logs" / "web.log", port)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_child_is_looked_at_and_stopped(tmp_path: Path) -> None:
    metrics = TrainerMetrics()
    metrics.version.set(7)
    (tmp_path / "metrics").write_bytes(metrics.text())
    with web(tmp_path, free_port()) as child:
        wait_until(lambda: child.look().get("version") == 7, "its metrics were never read")
        assert child.running
    assert child.stop() == -signal.SIGTERM
    assert gone(child.pid)
    assert child.readings.get("version") == 7


def test_a_child_that_fails_says_so_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("no_such_module", [], tmp_path / "child.log", 1)
    with child, pytest.raises(ProcessError, match="No module named no_such_module"):
        wait_until(lambda: not child.look() and False, "it never ended")


def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(60)\n"
    )
    log = tmp_path / "child.log"
    with Child("stubborn", [], log, 1) as child:
        wait_until(lambda: "deaf" in log.read_text(), "it never started")
        assert child.stop(grace_seconds=0.1) == -signal.SIGKILL


def test_an_interrupt_stops_every_child(tmp_path: Path) -> None:
    first, second = web(tmp_path, free_port()), web(tmp_path, free_port())
    with pytest.raises(KeyboardInterrupt), first, second:
        raise KeyboardInterrupt
    assert gone(first.pid)
    assert gone(second.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        from pathlib import Path
        from service.commands.processes import Child
        arguments = ["--bind", "127.0.0.1", "{free_port()}"]
        with Child("http.server", arguments, Path("log"), 1) as child:
            print(child.pid, flush=True)
            input()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        child = int(parent.stdout.readline())
        assert not gone(child)
        wait_until(
            lambda: b"http.server" in Path(f"/proc/{child}/cmdline").read_bytes(), "no child"
        )
        parent.kill()
        parent.wait()
    wait_until(lambda: gone(child), "the child outlived its parent")


def test_a_guard_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    guard = Path(__file__).parents[3] / "service" / "commands" / "guard.py"
    ended = subprocess.run([sys.executable, str(guard), "1", "http.server"], check=False)
    assert ended.returncode == 1


def test_ctrl_c_sigterm_and_sighup_interrupt_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(number)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_taken_port_gives_way_to_a_free_one() -> None:
    wanted = free_port()
    assert free_port(wanted) == wanted
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", wanted))
        listener.listen()
        assert free_port(wanted) not in (wanted, 0)


def test_nothing_to_read_where_nothing_listens() -> None:
    assert read_metrics(free_port()) is None


def test_what_the_user_set_in_the_environment_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    made = environment()
    assert made["OMP_WAIT_POLICY"] == "PASSIVE"
    assert made["OMP_NUM_THREADS"] == "3"
    assert made["MALLOC_TRIM_THRESHOLD_"] == "2000000000"
