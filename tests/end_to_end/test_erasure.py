"""`freshet erase` against real processes: a person is gone from every file, trainer and server."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.actions import Action, Impression, key_of
from service.client import Client
from service.commands.erase import NOT_COMPLETE
from service.commands.folder import DataFolder
from service.commands.processes import ROOT, Child, environment, free_port
from service.commands.settings_file import write_settings
from service.streams import LocalStream
from service.versions import VersionDirectory
from tests.trainer.workshop import settings

USERS, ITEMS = [f"person-{n}" for n in range(12)], [f"i{n}" for n in range(30)]
GONE, HERE, STRANGER = USERS[3], USERS[4], "nobody-ever"
SECTIONS = settings(
    intake={"max_future_seconds": 0.5},
    store={"max_bytes": 10_000_000},  # then checkpoints hold the users of histories
    trainer={"publish_clock": "wall", "publish_seconds": 0.3, "join_seconds": 100_000},
    serving={"poll_seconds": 0.05, "log_impressions": False},
)
PATIENCE_SECONDS = 120


@dataclass
class Site:
    """A data folder, the processes that work on it, and what was appended so far."""

    root: Path
    told: dict[str, list[bytes]]
    appended: int = 0

    @property
    def folder(self) -> DataFolder:
        return DataFolder(self.root)

    @property
    def versions(self) -> VersionDirectory:
        return VersionDirectory(self.root / "versions")

    def trainer(self, *more: str) -> Child:
        return self.folder.trainer(free_port(), *more)

    def server(self) -> Child:
        return self.folder.server(free_port())

    def append(self, topic: str, payloads: list[bytes]) -> None:
        """At the end of the stream, as of now."""
        with closing(LocalStream(self.folder.stream)) as stream:
            stream.append(topic, 0, payloads)
        self.appended += len(payloads)

    def until_learned(self, trainer: Child) -> None:
        """Return when everything that was appended is in the newest version."""
        until(lambda: not trainer.running or self.folder.trained_records == self.appended)
        assert trainer.running

    def erase(self, user: str, *more: str, wait: float = 0) -> tuple[int, dict[str, Any]]:
        """`freshet erase` in a process of its own: exit status and report."""
        options = ["--user", user, "--data", str(self.root), "--wait", str(wait), "--json", *more]
        command = [sys.executable, "-P", "-m", "service", "erase", *options]
        ended = subprocess.run(
            command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode in (0, NOT_COMPLETE), ended.stderr
        report: dict[str, Any] = json.loads(ended.stdout)
        return ended.returncode, report

    def files_with(self, user: str) -> list[str]:
        """Files of versions that hold the user's key, in either order of its bytes."""
        key = key_of(user)
        needles = [key.to_bytes(8, order, signed=True) for order in ("little", "big")]
        return [
            str(path.relative_to(self.root))
            for folder, _, names in os.walk(self.root / "versions")
            for path in (Path(folder, name) for name in names)
            if any(needle in content(path) for needle in needles)
        ]


def content(path: Path) -> bytes:
    """What a file holds; nothing if it was removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def until(holds: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


def story(count: int, seed: int) -> dict[str, list[bytes]]:
    """What the users did in the last seconds: actions, and lists of which some were acted on."""
    told: dict[str, list[bytes]] = {"actions": [], "impressions": []}
    draw = np.random.default_rng(seed)
    start = time.time() - 0.01 * count
    for number in range(count):
        user, at = USERS[int(draw.integers(len(USERS)))], start + 0.01 * number
        item = ITEMS[int(draw.integers(len(ITEMS)))]
        request = f"r{seed}-{number}" if number % 5 == 0 else None
        if request:
            shown = Impression(request=request, user=user, at=at, items=[item, *ITEMS[:3]])
            told["impressions"].append(msgspec.json.encode(shown))
        action = Action(
            user=user, item=item, action="click", at=at, id=f"a{seed}-{number}", request=request
        )
        told["actions"].append(msgspec.json.encode(action))
    return told


def of(user: str, told: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    needle = f'"user":"{user}"'.encode()
    return {topic: [p for p in payloads if needle in p] for topic, payloads in told.items()}


def scores(client: Client, user: str) -> dict[str, float]:
    answer = client.rank(user, ITEMS, at=4e9)
    return {one["item"]: one["score"] for one in answer["items"]}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder with a story in its stream."""
    site = Site(tmp_path, story(900, seed=0))
    write_settings(site.folder.settings, SECTIONS)
    for topic, payloads in site.told.items():
        site.append(topic, payloads)
    return site


def test_an_erased_person_is_gone_everywhere_and_stays_so(site: Site) -> None:
    with site.trainer() as trainer, site.server() as server:
        url = f"http://127.0.0.1:{server.port}"
        with Client(url) as client:
            site.until_learned(trainer)
            until(client.ready)
            until(lambda: scores(client, HERE) != scores(client, STRANGER))
            assert scores(client, GONE) != scores(client, STRANGER)
            assert site.files_with(GONE)
            (site.root / "skipped").mkdir()
            (site.root / "skipped" / "block-00000001-actions-0.safetensors").write_bytes(b"hers")

            status, report = site.erase(GONE, "--server", url, wait=PATIENCE_SECONDS)
            assert (status, report["complete"]) == (0, True), report
            decision = f"versions/decisions/{report['generation']:08d}.json"
            assert str(key_of(GONE)) in (site.root / decision).read_text()
            assert GONE not in (site.root / decision).read_text()
            assert site.files_with(GONE) == []
            assert list((site.root / "skipped").iterdir()) == []
            assert scores(client, GONE) == scores(client, STRANGER)
            assert scores(client, HERE) != scores(client, STRANGER)
            assert site.files_with(HERE)

            hers = of(GONE, site.told)
            for topic, payloads in hers.items():  # all of it comes again
                site.append(topic, payloads)
            site.append("actions", [p.replace(b"click", b"tap") for p in hers["actions"]])
            site.until_learned(trainer)
            counters = (site.folder.newest_manifest() or {})["counters"]
            assert counters["erased"] == 2 * len(hers["actions"]) + len(hers["impressions"])
            assert counters.get("rejected_unknown_action", 0) == 0
            assert site.files_with(GONE) == []
            assert scores(client, GONE) == scores(client, STRANGER)

            until(lambda: time.time() > report["before"])  # she comes back
            client.act([{"user": GONE, "item": ITEMS[0], "action": "click"}])
            until(lambda: scores(client, GONE) != scores(client, STRANGER))


def test_a_server_that_starts_ranks_without_what_an_older_version_holds(site: Site) -> None:
    """A trainer that starts later obeys at once; until then the command says what is missing."""
    with site.trainer() as trainer:
        site.until_learned(trainer)
    status, report = site.erase(GONE)
    assert status == NOT_COMPLETE
    assert "when the trainer publishes its next version" in report["places"][0]["says"]
    assert site.files_with(GONE)
    with site.server() as server, Client(f"http://127.0.0.1:{server.port}") as client:
        until(client.ready)
        assert scores(client, GONE) == scores(client, STRANGER)
        assert scores(client, HERE) != scores(client, STRANGER)
        with site.trainer():
            until(lambda: not site.files_with(GONE))
        numbers = site.versions.numbers()
        known = [site.versions.manifest(number).decisions for number in numbers]
        assert min(known) >= report["generation"]
