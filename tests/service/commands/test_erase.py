"""`freshet erase`: what it decides, and when it says that the erasure is complete."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.actions import key_of
from service.commands.erase import NOT_COMPLETE
from service.commands.erasure import readings
from service.errors import InputError
from service.versions import Manifest, VersionDirectory
from tests.serving.conftest import Publisher, running


@pytest.fixture
def versions(tmp_path: Path) -> VersionDirectory:
    return VersionDirectory(tmp_path / "versions")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with an empty stream."""
    (tmp_path / "stream").mkdir()
    return tmp_path


def committed(versions: VersionDirectory, number: int, decisions: int = 0) -> None:
    """A version cut by a trainer that knew of so many decisions."""
    with versions.begin(number) as draft:
        draft.commit(
            Manifest(
                number=number, parent=None, created_at=1.0, watermark_ms=0, block=number,
                offsets={}, topic_ids={}, decisions=decisions,
            )
        )  # fmt: skip


def run(data: Path, *arguments: str, user: str = "u1", wait: str = "0") -> tuple[int, Any]:
    """Exit status and what was printed as JSON (plain text where that is none)."""
    command = ["erase", "--user", user, "--data", str(data), "--wait", wait, "--json", *arguments]
    ended = CliRunner().invoke(app, command)
    try:
        return ended.exit_code, json.loads(ended.stdout)
    except ValueError:
        return ended.exit_code, ended.output


def test_the_decision_holds_a_key_and_a_time_and_never_the_id(
    data: Path, versions: VersionDirectory
) -> None:
    before = time.time()
    status, report = run(data, user="sarah@example.org")
    assert status == NOT_COMPLETE
    key = key_of("sarah@example.org")
    assert (report["generation"], report["keys"]) == (1, [key])
    assert before + 300 <= report["before"] <= time.time() + 300  # intake.max_future_seconds
    assert versions.decisions().erased == {key: round(report["before"] * 1000)}
    files = [path for path in (data / "versions").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"sarah" in path.read_bytes()]


def test_an_id_that_may_be_text_or_an_integer_is_erased_as_both(
    data: Path, versions: VersionDirectory
) -> None:
    _, report = run(data, user="7")
    assert sorted(report["keys"]) == sorted(versions.decisions().erased) == sorted([7, key_of("7")])
    assert report["generation"] == versions.decisions().generation == 2


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        ("7", ["7", 7]), ("-7", ["-7", -7]), ("0", ["0", 0]), ("007", ["007"]), ("+7", ["+7"]),
        ("7.0", ["7.0"]), ("1_000", ["1_000"]), ("u7", ["u7"]), (" 7", [" 7"]),
        (str(2**63), [str(2**63)]), (str(-(2**63)), [str(-(2**63))]),
        (str(2**63 - 1), [str(2**63 - 1), 2**63 - 1]),
    ],
)  # fmt: skip
def test_a_word_is_an_id_and_the_integer_that_it_spells(word: str, ids: list[Any]) -> None:
    assert readings(word) == ids


def test_settings_say_how_far_ahead_actions_may_be(data: Path) -> None:
    (data / "settings.toml").write_text("[intake]\nmax_future_seconds = 0\n")
    _, report = run(data)
    assert report["before"] == pytest.approx(time.time(), abs=5)
    other = data / "other.toml"
    other.write_text("[intake]\nmax_future_seconds = 7200\n")
    _, report = run(data, "--settings", str(other))
    assert report["before"] == pytest.approx(time.time() + 7200, abs=5)


@pytest.mark.parametrize(
    ("arguments", "user", "said"),
    [
        ([], "", "is empty"),
        ([], "x" * 300, "is longer than 256 bytes"),
        (["--server", "localhost:8080"], "u1", "is no url of a server"),
        (["--server", "http://[::"], "u1", "is no url"),
        (["--settings", "nowhere.toml"], "u1", "settings file nowhere.toml does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_decided(
    data: Path, versions: VersionDirectory, arguments: list[str], user: str, said: str
) -> None:
    status, output = run(data, *arguments, user=user)
    assert (status, said in output) == (1, True), output
    assert versions.decisions().generation == 0


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    status, output = run(tmp_path)
    assert status == 1
    assert "holds neither a stream nor versions; mend --data" in output
    with pytest.raises(InputError):
        readings("\ud800")


def test_versions_are_done_when_none_is_left_that_did_not_know(
    data: Path, versions: VersionDirectory
) -> None:
    """Without a trainer the decision stands, and the status says that it is not complete."""

    def state(number: int) -> tuple[int, str]:
        status, report = run(data)
        assert report["generation"] == number
        (place,) = report["places"]
        assert (place["name"], place["done"], report["complete"]) == ("versions",) + (
            not status,
        ) * 2
        return status, place["says"]

    assert state(1) == (NOT_COMPLETE, "there are none yet; the trainer's first one will obey")
    for number in (4, 5):
        committed(versions, number, decisions=1)
    said = "versions 4 to 5 of before; they go when the trainer publishes its next version"
    assert state(2) == (NOT_COMPLETE, said)
    committed(versions, 6, decisions=3)
    assert state(3)[1] == said
    versions.forget(6)
    committed(versions, 7, decisions=4)
    assert state(4)[1].startswith("version 6 of before")
    versions.forget(7)
    committed(versions, 8, decisions=5)
    versions.forget(8)
    assert state(5) == (0, "version 8, none from before")


def test_it_waits_for_the_trainer(data: Path, versions: VersionDirectory) -> None:
    committed(versions, 1)

    def trainer() -> None:
        while not versions.decisions().generation:
            time.sleep(0.01)
        time.sleep(0.3)
        committed(versions, 2, decisions=1)
        versions.forget(2)

    thread = threading.Thread(target=trainer)
    thread.start()
    began = time.monotonic()
    status, report = run(data, wait="20")
    thread.join()
    assert (status, report["complete"]) == (0, True)
    assert time.monotonic() - began < 10
    assert "dense weights" in " ".join(report["remains"])


def test_a_damaged_manifest_is_named_and_nothing_is_complete(
    data: Path, versions: VersionDirectory
) -> None:
    committed(versions, 1, decisions=1)
    (data / "versions" / "manifests" / "00000001.json").write_text("{")
    status, report = run(data)
    assert status == NOT_COMPLETE
    assert "00000001.json" in report["places"][0]["says"]


def test_every_server_is_asked_what_it_obeys(tmp_path: Path) -> None:
    publish = Publisher(tmp_path)
    publish(1)
    with running(tmp_path) as one:
        one.until_ready()
        url = str(one.http.base_url)
        status, report = run(tmp_path, "--server", url, "--server", "http://127.0.0.1:9", wait="3")
        assert status == NOT_COMPLETE
        places = {place["name"]: place for place in report["places"]}
        assert places[url] | {"name": ""} == {
            "name": "", "done": True, "says": "obeys decisions up to 1",
        }  # fmt: skip
        assert not places["versions"]["done"]
        assert not places["http://127.0.0.1:9"]["done"]
        assert "cannot be asked" in places["http://127.0.0.1:9"]["says"]


def test_a_server_that_has_not_looked_yet_is_waited_for(tmp_path: Path) -> None:
    Publisher(tmp_path)(1)
    with running(tmp_path, serving={"poll_seconds": 600}) as one:
        one.until_ready()
        status, report = run(tmp_path, "--server", str(one.http.base_url))
        assert status == NOT_COMPLETE
        place = report["places"][1]
        assert (place["done"], place["says"]) == (False, "obeys decisions up to 0")


def test_people_are_told_the_same_in_words(data: Path, versions: VersionDirectory) -> None:
    ended = CliRunner().invoke(app, ["erase", "--user", "u1", "--data", str(data), "--wait", "0"])
    assert ended.exit_code == NOT_COMPLETE
    assert "waiting versions: there are none yet" in ended.output
    assert "not complete yet; the decision stands" in ended.output
    assert "not undone: raw records in the stream" in ended.output
