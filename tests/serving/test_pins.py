"""Pins over HTTP: written for all servers, obeyed at once, refused with the reason."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import RequestError
from service.metrics import Readings
from service.versions.decisions import Branch, Release
from tests.serving.conftest import Site, running
from tests.serving.lineage import Lineage

SLOW = {"poll_seconds": 20.0}


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    lineage = Lineage(tmp_path)
    for _ in range(4):
        lineage.publish()
    return lineage


@pytest.fixture
def both(lineage: Lineage) -> Iterator[tuple[Site, Site]]:
    """Two servers of one directory; the second looks more often."""
    with (
        running(lineage.data, serving=SLOW) as first,
        running(lineage.data, serving={"poll_seconds": 0.05}) as second,
    ):
        for site in (first, second):
            site.until_ready()
            site.until_version(4)
        yield first, second


def refused(site: Site, number: int) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        site.client.activate(number)
    return caught.value.status, caught.value.problem["type"].rpartition(":")[2]


def test_every_server_obeys_a_pin_within_a_second(
    lineage: Lineage, both: tuple[Site, Site]
) -> None:
    first, second = both
    started = time.monotonic()
    assert first.client.activate(2) == {"generation": 1, "pinned": 2}
    for site in both:
        site.until_version(2)
    second.until(lambda: second.client.versions()["generation"] == 1)
    assert time.monotonic() - started < 1
    assert first.client.versions()["pinned"] == 2
    assert first.client.rank("u1", [3])["version"] == 2
    lineage.publish()
    assert second.client.unpin() == {"generation": 2, "pinned": None}
    second.until_version(5)
    assert second.client.versions()["pinned"] is None
    assert Readings(second.http.get("/metrics").text).get("version_generation") == 2


def test_only_a_version_that_can_be_served_is_pinned(
    lineage: Lineage, both: tuple[Site, Site]
) -> None:
    _, site = both
    assert refused(site, 9) == (404, "no-such-version")
    lineage.publish(held="it doubts")
    assert refused(site, 5) == (409, "not-servable")
    site.until(lambda: site.client.versions()["held"])
    assert site.client.versions()["held"] == [{"number": 5, "reason": "it doubts"}]
    lineage.directory.decide(Release(5, at=0.0))
    assert site.client.activate(5) == {"generation": 2, "pinned": 5}
    lineage.directory.decide(Branch(3, at=0.0))
    assert refused(site, 4) == (409, "not-servable")
    path = lineage.path(str(lineage.directory.manifest(2).step))
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(site, 3) == (409, "not-servable")
    assert site.client.activate(1)["pinned"] == 1


@pytest.mark.parametrize("path", ["/v1/versions/x/activate", "/v1/versions/-1/activate"])
def test_a_number_that_is_none_is_no_path(both: tuple[Site, Site], path: str) -> None:
    answer = both[0].http.post(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:freshet:problem:not-found")
