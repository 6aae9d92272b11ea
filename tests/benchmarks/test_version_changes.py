"""Published versions are what a trainer's are, and a mixed answer would be found."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.live import WATCHED
from benchmarks.publishing import BASE_EVERY, DENSE_EVERY, ROWS
from benchmarks.report import CheckFailed
from benchmarks.version_changes import Answer, Question, Truth
from benchmarks.visits import ITEMS, append
from service.actions import Action
from service.commands.folder import DataFolder
from service.model.ranker import ITEM_SLOT
from service.streams import LocalStream
from service.versions import Snapshot
from tests.serving.conftest import Publisher, Site, running

EVENTS = 20


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """Version 1 and a log of the watched users."""
    Publisher(tmp_path)(1, items=ITEMS)
    stream = LocalStream(tmp_path / "stream")
    start = time.time() - EVENTS * len(WATCHED)
    append(
        stream,
        [
            Action(user=user, item=ITEMS[7 * turn], action="click", at=start + turn)
            for turn in range(EVENTS)
            for user in WATCHED
        ],
    )
    stream.close()
    return DataFolder(tmp_path)


@pytest.fixture
def site(folder: DataFolder) -> Iterator[Site]:
    with running(folder.root) as started:
        started.until_ready()
        yield started


def ask(site: Site, question: Question) -> Answer:
    answer = site.http.post("/v1/rank", content=question.body(), headers=JSON)
    return Answer(0, 0.0, answer.status_code, answer.content)


JSON = {"Content-Type": "application/json"}


def test_each_version_is_served_by_what_it_changed_and_answers_as_it_says(
    site: Site, folder: DataFolder
) -> None:
    truth = Truth(folder)
    seen = set()
    for _ in range(BASE_EVERY + 2):
        number = truth.publisher.publish()
        site.until_version(number)
        answer = ask(site, truth.questions[number % len(WATCHED)])
        assert truth.check(truth.questions[number % len(WATCHED)], answer) == number
        manifest = truth.publisher.directory.manifest(number)
        last = Snapshot.read_file(truth.publisher.directory, manifest, manifest.snapshot[-1])
        whole = number % BASE_EVERY == 0
        assert (last.parent is None, len(manifest.snapshot) == 1) == (whole, whole)
        assert len(last.slots[ITEM_SLOT]) == (len(ITEMS) if whole else ROWS) + 1
        assert bool(last.dense) == (whole or number % DENSE_EVERY == 0)
        seen.add(answer.body)
    assert len(seen) == BASE_EVERY + 2
    assert not site.client.versions()["refused"]


def test_an_error_and_an_answer_of_two_versions_are_found(site: Site, folder: DataFolder) -> None:
    truth = Truth(folder)
    question = truth.questions[0]
    old = ask(site, question)
    assert truth.check(question, old) == 1
    number = truth.publisher.publish()
    while number % DENSE_EVERY != 0:
        number = truth.publisher.publish()
    claimed = replace(old, body=old.body.replace(b'"version":1,', b'"version":%d,' % number))
    assert claimed != old
    with pytest.raises(CheckFailed, match=f"version {number} gives {question.user}"):
        truth.check(question, claimed)
    worse = json.loads(old.body)
    worse["items"][3:5] = worse["items"][4:2:-1]
    with pytest.raises(CheckFailed, match="version 1 gives"):
        truth.check(question, replace(old, body=json.dumps(worse).encode()))
    with pytest.raises(CheckFailed, match="answered with 429"):
        truth.check(question, replace(old, status=429))
