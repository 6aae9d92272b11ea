"""Decisions of operators: one log for all, and what follows from it for servers and trainers."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import VersionError, VersionExists
from service.versions import (
    Branch,
    Decision,
    Decisions,
    Erase,
    Manifest,
    Pin,
    Release,
    VersionDirectory,
)
from service.versions.decisions import decision_name, encode

ManifestOf = Callable[..., Manifest]


@pytest.fixture
def commit(manifest_of: ManifestOf) -> Callable[..., Manifest]:
    """Commit an empty version."""

    def of(directory: VersionDirectory, number: int, **changes: Any) -> Manifest:
        with directory.begin(number) as draft:
            return draft.commit(manifest_of(number, **changes))

    return of


def test_nothing_is_decided_at_first(any_directory: VersionDirectory, commit: Any) -> None:
    assert any_directory.decisions() == Decisions()
    assert (any_directory.live(), any_directory.servable(), any_directory.target()) == (
        [],
        [],
        None,
    )
    commit(any_directory, 1)
    assert (any_directory.live(), any_directory.servable(), any_directory.target()) == ([1], [1], 1)


def test_decisions_come_to_what_they_say(any_directory: VersionDirectory, commit: Any) -> None:
    for number in range(1, 5):
        commit(any_directory, number)
    said: list[tuple[Decision, dict[str, Any]]] = [
        (Pin(2), {"pinned": 2, "pin_generation": 1}),
        (Erase(7, 100), {"erased": {7: 100}, "erase_generation": 2}),
        (Branch(3), {"branches": ((3, 3),)}),
        (Release(4), {"released": frozenset({4})}),
        (Erase(-9, 50), {"erased": {7: 100, -9: 50}, "erase_generation": 5}),
        (Erase(7, 300), {"erased": {7: 300, -9: 50}, "erase_generation": 6}),
        (Pin(None), {"pinned": None, "pin_generation": 7}),
        (Release(1), {"released": frozenset({1, 4})}),
        (Branch(1), {"branches": ((3, 3), (9, 1))}),
        (Erase(7, 200), {"erase_generation": 10}),  # it does not take back what went farther
    ]
    expected: dict[str, Any] = {}
    for generation, (decision, change) in enumerate(said, 1):
        assert any_directory.decide(decision) == generation
        expected |= change
        assert any_directory.decisions() == Decisions(generation=generation, **expected)
    fresh = VersionDirectory(any_directory.url)
    assert fresh.decisions() == any_directory.decisions()
    assert any_directory._storage.names("data") == []


def test_only_new_decisions_are_read(any_directory: VersionDirectory, commit: Any) -> None:
    commit(any_directory, 1)
    any_directory.decide(Pin(1))
    any_directory.decisions()
    any_directory._storage.write(decision_name(1), b"changed behind its back")
    VersionDirectory(any_directory.url)
    any_directory._storage.write(decision_name(2), encode(2, "x", Pin(None)))
    assert any_directory.decisions().pinned is None
    with pytest.raises(VersionError, match=r"decisions/00000001\.json is not a decision"):
        VersionDirectory(any_directory.url).decisions()


def test_of_many_who_decide_at_once_everyone_gets_a_number(
    any_directory: VersionDirectory,
) -> None:
    people, each = 8, 5
    barrier, numbers = threading.Barrier(people), list[int]()

    def decide(person: int) -> None:
        own = VersionDirectory(any_directory.url)
        barrier.wait()
        numbers.extend(own.decide(Erase(1, 2, at=3.0)) for _ in range(each))

    threads = [threading.Thread(target=decide, args=(person,)) for person in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, people * each + 1))
    assert any_directory.decisions().generation == people * each
    assert any_directory._storage.names("data") == []


def test_processes_that_decide_at_once_all_succeed(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    script = (
        "import sys; from service.versions import Erase, VersionDirectory\n"
        "d = VersionDirectory(sys.argv[1]); input()\n"
        "print(*(d.decide(Erase(int(sys.argv[2]), n, at=1.0)) for n in range(8)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(person)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for person in range(2)
    ]  # fmt: skip
    numbers = [int(n) for one in running for n in _answered(one)]
    assert sorted(numbers) == list(range(1, 17))
    assert VersionDirectory(tmp_path).decisions().erased == {0: 7, 1: 7}


def _answered(process: "subprocess.Popen[str]") -> list[str]:
    out, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    return out.split()


def test_a_decision_whose_answer_was_lost_finds_itself_made(
    any_directory: VersionDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = any_directory._storage
    create = storage.create

    def retried(name: str, data: bytes, aside: str) -> None:
        create(name, data, aside)
        raise FileExistsError(name)

    monkeypatch.setattr(storage, "create", retried)
    assert any_directory.decide(Erase(1, 2)) == 1
    assert any_directory.decisions().generation == 1


def test_what_is_not_there_cannot_be_decided_upon(
    any_directory: VersionDirectory, commit: Any
) -> None:
    commit(any_directory, 1)
    for decision in (Pin(2), Branch(2), Release(2)):
        with pytest.raises(VersionError, match=r"manifests/00000002\.json is missing"):
            any_directory.decide(decision)
    assert any_directory.decisions().generation == 0


def test_any_flipped_bit_of_a_decision_is_refused(directory: VersionDirectory) -> None:
    directory.decide(Erase(7, 1732096800123, at=1.5))
    path = Path(directory.url, decision_name(1))
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(VersionError, match=r"decisions/00000001\.json"):
            VersionDirectory(directory.url).decisions()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(VersionError, match=r"decisions/00000001\.json"):
            VersionDirectory(directory.url).decisions()


def test_a_decision_of_the_future_a_gap_and_a_copy_are_refused_by_name(
    directory: VersionDirectory,
) -> None:
    directory.decide(Erase(7, 1, at=1.0))
    first = Path(directory.url, decision_name(1))
    whole, second = first.read_bytes(), Path(directory.url, decision_name(2))
    second.write_bytes(whole)
    with pytest.raises(VersionError, match=r"00000002\.json is decision 1; someone renamed"):
        directory.decisions()
    with pytest.raises(VersionError, match=r"00000002\.json is decision 1; someone renamed"):
        directory.decide(Erase(8, 1))
    second.rename(Path(directory.url, decision_name(3)))
    with pytest.raises(VersionError, match=r"00000002\.json is missing"):
        directory.decisions()
    Path(directory.url, decision_name(3)).unlink()
    second.write_bytes(future(b'"erase"', b'"freeze"'))
    known = "this release knows pin, branch, release, erase"
    with pytest.raises(VersionError, match=rf"00000002\.json .* kind 'freeze', {known}"):
        directory.decisions()
    second.write_bytes(future(b'"format": 2', b'"format": 3'))
    with pytest.raises(VersionError, match=r"00000002\.json has format 3, this release reads"):
        directory.decisions()
    second.write_bytes(future(b'"user": 7', b'"user": 7, "later": [1]'))
    assert directory.decisions().generation == 2
    first.unlink()
    with pytest.raises(VersionError, match=r"00000001\.json is missing"):
        VersionDirectory(directory.url).decisions()


def future(was: bytes, becomes: bytes) -> bytes:
    """Decision 2 as a later release could seal it."""
    body = encode(2, "x", Erase(7, 1, at=1.0)).rpartition(b',\n "sha256"')[0]
    assert was in body
    body = body.replace(was, becomes)
    return body + b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def test_servers_serve_the_pin_then_what_is_not_held(
    any_directory: VersionDirectory, commit: Any
) -> None:
    for number, held in ((1, None), (2, None), (3, "its loss rose"), (4, "its loss rose")):
        commit(any_directory, number, held=held)
    assert (any_directory.live(), any_directory.servable()) == ([1, 2, 3, 4], [1, 2])
    assert any_directory.target() == 2
    any_directory.decide(Pin(1))
    assert any_directory.target() == 1
    any_directory.decide(Release(3))
    assert (any_directory.target(), any_directory.servable()) == (1, [1, 2, 3])
    any_directory.decide(Pin(None))
    assert any_directory.target() == 3
    commit(any_directory, 5)
    assert any_directory.target() == 5
    any_directory.decide(Pin(4))  # an operator may pin what is held
    assert any_directory.target() == 4
    any_directory.forget(5)
    assert any_directory.target() == 5


def test_a_version_that_cannot_be_read_is_live_but_never_the_target(
    directory: VersionDirectory, commit: Any
) -> None:
    for number in (1, 2, 3):
        commit(directory, number)
    directory.decide(Branch(1))
    commit(directory, 4, decisions=1)
    for number in (3, 4):
        Path(directory.url, f"manifests/0000000{number}.json").write_text("{")
    fresh = VersionDirectory(directory.url)
    assert fresh.live() == [1, 3, 4]
    assert (fresh.servable(), fresh.target()) == ([1], 1)


def test_a_manifest_that_cannot_be_read_now_sends_no_server_back(
    directory: VersionDirectory, commit: Any
) -> None:
    commit(directory, 1)
    path = Path(directory.url, "manifests/00000002.json")
    path.mkdir()  # reading it fails, although it is there
    (path / "x").touch()
    storage = directory._storage
    names = storage.names
    storage.names = lambda folder: [*names(folder), "manifests/00000002.json"]  # type: ignore
    with pytest.raises(VersionError, match="cannot be read"):
        directory.target()


def test_a_branch_abandons_what_was_made_without_knowing_of_it(
    any_directory: VersionDirectory, commit: Any
) -> None:
    for number in range(1, 6):
        commit(any_directory, number)
    assert any_directory.decide(Branch(2)) == 1
    assert (any_directory.live(), any_directory.target()) == ([1, 2], 2)
    commit(any_directory, 6, decisions=1)
    commit(any_directory, 7, decisions=1)
    assert (any_directory.live(), any_directory.target()) == ([1, 2, 6, 7], 7)
    any_directory.decide(Branch(6))
    assert any_directory.live() == [1, 2, 6]
    commit(any_directory, 8, decisions=2)
    assert any_directory.live() == [1, 2, 6, 8]
    any_directory.decide(Branch(1))
    assert (any_directory.live(), any_directory.target()) == ([1], 1)
    any_directory.decide(Pin(7))
    assert any_directory.target() == 7


def test_a_trainer_that_does_not_know_of_a_branch_is_fenced(
    any_directory: VersionDirectory, commit: Any, manifest_of: ManifestOf
) -> None:
    for number in (1, 2):
        commit(any_directory, number)
    late = any_directory.begin(3, 0)
    any_directory.decide(Pin(1))
    any_directory.decide(Branch(1))
    said = r"decision 2 in .* go on from version 1, and this trainer knows decisions up to 1"
    with pytest.raises(VersionExists, match=said):
        any_directory.begin(3, 1)
    with late, pytest.raises(VersionExists, match="knows decisions up to 0: stop it and start"):
        late.commit(manifest_of(3))
    assert any_directory.numbers() == [1, 2]
    any_directory.decide(Release(1))  # no branch: nobody is fenced for not knowing
    with any_directory.begin(3, 2) as draft:
        draft.commit(manifest_of(3, decisions=2))
    assert any_directory.live() == [1, 3]


@pytest.mark.parametrize("moment", ["link manifests", "create manifests"])
def test_a_branch_that_comes_between_leaves_the_version_abandoned(
    tmp_path: Path, commit: Any, manifest_of: ManifestOf, moment: str
) -> None:
    url = f"memory:/{tmp_path}" if moment.startswith("create") else str(tmp_path)
    others = VersionDirectory(url)
    commit(others, 1)

    def branch(step: str) -> None:
        if step.startswith(moment):
            others.decide(Branch(1))

    with VersionDirectory(url, branch).begin(2, 0) as draft, pytest.raises(VersionExists):
        draft.commit(manifest_of(2))
    assert others.numbers() == [1, 2]
    assert (others.live(), others.target()) == ([1], 1)
    assert others.manifest(2).decisions == 0
