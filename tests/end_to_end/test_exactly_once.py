"""Real trainer processes, killed at any moment: every action is trained once, bit for bit."""

import json
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from service.metrics import Readings
from tests.end_to_end.sites import DEADLINE_SECONDS, Site, check_counts, killed_at_the_end
from tests.trainer.workshop import Told, Workshop, settings, told

SECTIONS = settings(
    store={"item": {"ttl_seconds": 600}},
    trainer={"publish_seconds": 30, "sweep_rows": 20},
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(Workshop(tmp_path, SECTIONS))


def uninterrupted(story: Told, root: Path) -> Site:
    site = Site(Workshop(root, SECTIONS))
    root.mkdir(exist_ok=True)
    site.told(story)
    check_counts(site.finish(), story)
    return site


def test_killed_trainers_train_every_action_once_and_bit_for_bit(
    site: Site, tmp_path: Path
) -> None:
    story = told(4000, users=200, items=300, described=True)
    whole = uninterrupted(story, tmp_path / "whole")
    site.told(story)
    assert site.killed_at_random(kills=3, versions=whole.newest(), seed=0) >= 2
    check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


@pytest.mark.long
def test_a_producer_that_is_still_appending_changes_nothing(site: Site, tmp_path: Path) -> None:
    story = told(2000, seed=1, users=100, items=200)
    whole = uninterrupted(story, tmp_path / "whole")
    producer = site.producer(story)
    with killed_at_the_end(producer):
        site.killed_at_random(kills=2, versions=whole.newest(), seed=1)
        check_counts(site.finish(), story)
        assert producer.wait() == 0
    assert site.workshop.digest() == whole.workshop.digest()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_many_kills_under_a_live_producer(site: Site, tmp_path: Path, seed: int) -> None:
    story = told(20_000, seed=seed, users=500, items=800)
    whole = uninterrupted(story, tmp_path / "whole")
    producer = site.producer(story)
    with killed_at_the_end(producer):
        assert site.killed_at_random(kills=25, versions=whole.newest(), seed=seed) >= 20
        check_counts(site.finish(), story)
    assert site.workshop.digest() == whole.workshop.digest()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_sigterm_publishes_what_was_trained_and_loses_nothing(site: Site) -> None:
    """A live trainer; its metrics say how far it is."""
    trainer = {**SECTIONS["trainer"], "publish_clock": "wall", "publish_seconds": 0.05}
    site.workshop.sections = SECTIONS | {"trainer": trainer}
    story, port = told(2000, seed=2), free_port()
    site.workshop.tell(story)
    process = site.trainer("--metrics-port", str(port))
    with killed_at_the_end(process):
        while readings(port).get("version") < 1:
            assert process.poll() is None, site.log[-3000:]
            time.sleep(0.02)
        assert readings(port).get("histories_users") > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    report = json.loads((site.data / "trainer.json").read_text())
    manifest = site.workshop.versions.manifest(site.newest())
    assert manifest.block == report["block"]
    assert manifest.counters["records"] == report["records"] > 0
    site.end()
    check_counts(site.finish(), story)


def readings(port: int) -> Readings:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return Readings(answer.read().decode())
    except OSError:
        return Readings("")
