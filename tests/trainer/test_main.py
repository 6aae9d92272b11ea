"""`python -m trainer`, called in this process: what it says when it cannot, and leaves behind."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.commands.settings_file import write_settings
from tests.trainer.workshop import Workshop, told
from trainer.__main__ import main


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The one line of an error."""
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert "\n" not in record.getMessage()
    return record.getMessage()


def test_a_data_directory_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "nowhere"
    assert main(["--data", str(nowhere)]) == 1
    assert said(caplog) == f"data directory {nowhere} does not exist; make it, or mend --data"
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "settings file .*s.toml does not exist"),
        ("[trainer", "settings file .*s.toml is not TOML"),
        ("[trainr]", r"settings section \[trainr\] is unknown; did you mean trainer"),
        ("[trainer]\nblock_recods = 1", "trainer.block_recods is unknown; did you mean block_rec"),
        ("[trainer]\nkeep_versions = 1", "trainer.keep_versions = 1: .* greater than or equal"),
        ("[histories]\ncapacity = 100", "histories.capacity = 100: .* power of two"),
        ("[model]\nwindow = 512", "histories.capacity = 512 must be above model.window = 512"),
        ("[stream]\npartitions = 0", "stream.partitions = 0"),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, problem: str
) -> None:
    file = tmp_path / "s.toml"
    if text is not None:
        file.write_text(text)
    assert main(["--data", str(tmp_path), "--settings", str(file)]) == 1
    assert re.search(problem, said(caplog))


def test_it_stands_back_as_far_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_back: list[int] = []
    monkeypatch.setattr("os.nice", stood_back.append)
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "END").touch()
    write_settings(tmp_path / "s.toml", {"trainer": {"nice": 7}})
    arguments = ["--data", str(tmp_path), "--settings", str(tmp_path / "s.toml"), "--until-end"]
    assert main(arguments) == 0
    assert stood_back == [7]


def test_a_metrics_port_that_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--data", str(tmp_path), "--metrics-port", str(port)]) == 1
    assert f"metrics cannot be served on 127.0.0.1:{port}" in said(caplog)


def test_it_trains_to_the_end_of_the_stream_and_leaves_its_counts(workshop: Workshop) -> None:
    story = told(300)
    workshop.tell(story)
    file = workshop.root / "settings.toml"
    write_settings(file, workshop.sections)
    (workshop.root / "stream" / "END").touch()
    arguments = ["--data", str(workshop.root), "--settings", str(file), "--until-end"]
    assert main(arguments) == 0
    report = json.loads((workshop.root / "trainer.json").read_text())
    assert report["records"] == story.records
    assert report["positives_trained"] == story.positives
    assert (report["users"], report["items"], report["duplicates"]) == (20, 40, story.duplicates)
    assert report["history_events"] == story.actions - story.duplicates
    assert report["item_bytes"] > 40 * 16 * 4
    assert set(report["hit_rates"]) == {"online", "popularity"}
    digest = workshop.digest()
    assert main(arguments) == 0  # nothing left to do, and nothing is done
    assert workshop.digest() == digest
    again = json.loads((workshop.root / "trainer.json").read_text())
    assert again | {"item_bytes": 0} == report | {"item_bytes": 0, "hit_rates": {}}
