"""New versions come in without a lost request; damaged ones stay out and are named."""

import threading
import time

import pytest

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.metrics import Readings, ServingMetrics
from service.model.ranker import described
from service.versions import VersionDirectory
from serving.engine import Engine, Tables
from serving.follow import VersionFollower
from tests.serving.conftest import MODEL


def refused(site, number):
    return site.until(
        lambda: next((r for r in site.client.versions()["refused"] if r["number"] == number), None)
    )


def refusals(site, reason):
    read = Readings(site.http.get("/metrics").text)
    return read.get("versions_refused_total", reason=reason)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


def test_a_new_version_is_served_as_soon_as_it_is_there(site, publish):
    publish(2)
    site.until_version(2)
    assert site.client.rank("u1", ["i1"])["version"] == 2
    versions = site.client.versions()
    assert versions["available"] == [1, 2]
    assert versions["compute"]["rows"] == "int8"
    assert versions["compute"]["device"] == "cpu"
    assert versions["served"]["watermark"] == 1_732_096_800.0


def test_a_full_precision_version_is_served_too(publish, run_site):
    publish(1, precision="fp32")
    with run_site() as site:
        site.until_ready()
        assert site.client.versions()["compute"]["rows"] == "fp32"


@pytest.mark.parametrize(
    ("damage", "reason"), [(truncate, "truncated"), (alter, "altered"), (remove, "missing")]
)
def test_a_damaged_version_is_refused_and_the_last_good_one_stays(
    publish, run_site, damage, reason
):
    publish(1)
    publish(2)
    damage(publish.snapshot_file(2))
    with run_site() as site:
        site.until_ready()
        assert reason in refused(site, 2)["reason"]
        assert site.client.rank("u1", ["i1"])["version"] == 1
        assert refusals(site, reason) == 1
        publish(3)
        site.until_version(3)
        assert refusals(site, reason) == 1


def test_a_manifest_that_cannot_be_read_is_refused(site, publish):
    folder = publish.data / "versions" / "manifests"
    (folder / "00000002.json").write_text('{"format": 1, "number"')
    assert "00000002.json" in refused(site, 2)["reason"]
    assert refusals(site, "truncated") == 1


def test_a_manifest_of_a_later_format_is_refused(site, publish):
    manifest = publish(2)
    path = publish.data / "versions" / "manifests" / f"{manifest.number:08d}.json"
    site.until_version(2)
    later = publish.data / "versions" / "manifests" / "00000003.json"
    later.write_text(path.read_text().replace('"format": 2', '"format": 99'))
    assert "format" in refused(site, 3)["reason"]
    assert refusals(site, "format") == 1


def test_a_half_written_version_is_not_seen(site, publish):
    draft = publish.directory.begin(2)
    draft.write("snapshot/base.safetensors", {})
    assert site.client.versions()["available"] == [1]
    assert site.client.rank("u1", ["i1"])["version"] == 1


def test_a_version_whose_model_does_not_fit_is_refused(site, publish):
    other = MODEL.model_copy(update={"dim": 32})
    publish(2, model=described(other, site.core.actions, action_heads=True))
    assert "does not fit" in refused(site, 2)["reason"]
    publish(3, model={"nothing": 1})
    refused(site, 3)
    assert refusals(site, "model") == 2
    assert site.client.rank("u1", ["i1"])["version"] == 1


def test_a_directory_that_is_away_for_a_while_changes_nothing(publish):
    class Away(VersionDirectory):
        away = True

        def numbers(self):
            if self.away:
                self.away = False
                raise OSError("the network is down")
            return super().numbers()

    publish(1)
    engine = Engine(Tables(LocalHistories(HistorySettings())), 8, 9.0)
    follower = VersionFollower(
        Away(publish.data / "versions"), engine, ServingMetrics(), poll_seconds=0.01
    )
    engine.start()
    follower.start()
    while engine.served is None:
        time.sleep(0.01)
    follower.close()
    engine.close()
    assert engine.served.number == 1


def test_no_request_is_lost_or_mixes_versions_while_versions_change(site, publish):
    """Each version answers a fixed question in one way: an answer that differs would be a mix."""
    candidates = [f"i{number}" for number in range(40)]
    answers, stop = [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            answer = site.client.rank("nobody", candidates, at=1.0)
            answers.append((answer["version"], tuple(s["score"] for s in answer["items"])))

    thread = threading.Thread(target=load)
    thread.start()
    for number in range(2, 8):
        publish(number)
        site.until_version(number)
    stop.set()
    thread.join()
    by_version = {}
    for version, scores in answers:
        assert by_version.setdefault(version, scores) == scores
    versions = [version for version, _ in answers]
    assert versions == sorted(versions)
    assert versions[-1] == 7
