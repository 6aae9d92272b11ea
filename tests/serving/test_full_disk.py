"""The disk of the server's log is full: actions are refused with the remedy, rankings go on, and
nothing that was accepted is lost."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.actions import Action
from service.metrics import Readings
from service.streams.local import LocalStream
from tests.serving.conftest import Publisher, Site, running

DISK_BYTES = 4 << 20
CANDIDATES = [f"i{number}" for number in range(10)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of four megabytes with version 1 on it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "freshet-test", place],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.decode().strip()}")
    Publisher(place)(1)
    yield place
    subprocess.run(["umount", place], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not one more page to be had inside."""
    rubbish = disk / "rubbish"
    with rubbish.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    yield
    rubbish.unlink()


def posted(site: Site, number: int) -> Any:
    """Post one action of its own item."""
    action = {"user": "u1", "item": f"a{number}", "action": "click", "id": f"id{number}"}
    return site.http.post("/v1/actions", json={"actions": [action]})


def refused(site: Site, accepted: list[int]) -> Any:
    """Post actions until one is refused, for the last page takes some; the refusal."""
    for number in range(len(accepted), 5000):
        answer = posted(site, number)
        if answer.status_code != 202:
            return answer
        accepted.append(number)
    raise AssertionError("a full disk took 5,000 actions")


def logged(disk: Path) -> list[str]:
    """Items of the log, as another process reads them."""
    stream = LocalStream(disk / "stream")
    records = stream.read("actions", 0, 0, 10_000)
    stream.close()
    return [str(msgspec.json.decode(record.payload, type=Action).item) for record in records]


def metric(site: Site, name: str) -> float:
    return Readings(site.http.get("/metrics").text).get(name)


@contextmanager
def rankings(site: Site) -> Iterator[Callable[[], int]]:
    """A client that ranks all the while; how many were answered so far. None may fail."""
    answered, failures, stop = [], [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answered.append(len(site.client.rank("u1", CANDIDATES)["items"]))
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lambda: len(answered)
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert set(answered) == {len(CANDIDATES)}


def test_actions_are_refused_rankings_go_on_and_nothing_is_lost(disk: Path) -> None:
    accepted: list[int] = []
    with running(disk) as site:
        site.until_ready()
        assert posted(site, 0).status_code == 202
        accepted.append(0)
        with rankings(site) as count, full(disk):
            answer = refused(site, accepted)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            problem = answer.json()
            assert problem["type"] == "urn:freshet:problem:log-unavailable"
            assert "No space left on device; free some space there" in problem["detail"]
            assert "send the batch again" in problem["detail"]
            before = count()
            site.until(lambda: count() > before + 50)
            site.until(lambda: metric(site, "impressions_dropped_total"))
            assert site.client.ready()
        again = posted(site, len(accepted))  # the one that was refused
        assert again.status_code == 202
        accepted.append(len(accepted))
        site.until(lambda: metric(site, "history_records_total") == len(accepted))
    assert logged(disk) == [f"a{number}" for number in accepted]


def test_a_server_that_starts_again_on_a_full_disk_has_what_was_accepted(disk: Path) -> None:
    accepted: list[int] = []
    with running(disk) as site:
        site.until_ready()
        site.client.rank("u1", CANDIDATES)
        with full(disk):
            refused(site, accepted)
    with ExitStack() as rubbish:
        rubbish.enter_context(full(disk))
        with running(disk) as site:
            site.until_ready()
            assert metric(site, "history_records_total") == len(accepted)
            assert len(site.client.rank("u1", CANDIDATES)["items"]) == len(CANDIDATES)
            assert posted(site, len(accepted)).status_code == 503
            rubbish.close()
            assert posted(site, len(accepted)).status_code == 202


def test_a_new_version_is_served_while_the_log_s_disk_is_full(disk: Path, tmp_path: Path) -> None:
    elsewhere = Publisher(tmp_path)
    elsewhere(1)
    with running(disk, versions={"url": str(tmp_path / "versions")}) as site, full(disk):
        site.until_ready()
        elsewhere(2)
        site.until_version(2)
        assert site.client.rank("u1", CANDIDATES)["version"] == 2


def test_a_server_that_first_starts_on_a_full_disk_ranks_and_takes_actions_later(
    disk: Path,
) -> None:
    with ExitStack() as rubbish:
        rubbish.enter_context(full(disk))
        with running(disk) as site:
            site.until_ready()
            assert len(site.client.rank("u1", CANDIDATES)["items"]) == len(CANDIDATES)
            problem = posted(site, 0).json()
            assert problem["type"] == "urn:freshet:problem:log-unavailable"
            assert "cannot be opened or made: No space left on device; free" in problem["detail"]
            rubbish.close()
            assert posted(site, 0).status_code == 202
            site.until(lambda: metric(site, "history_records_total") == 1)
            described = {"items": [{"item": "i1", "hidden": True}]}
            assert site.http.post("/v1/items", json=described).status_code == 202
            site.until(lambda: site.client.rank("u1", CANDIDATES)["left_out"] == 1)
