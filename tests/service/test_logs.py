"""Log lines are JSON or text, one line each, and never hold a user's id."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service import logs
from service.errors import SettingsError
from service.logs import JsonFormatter, TextFormatter, about, hashed, start_logging

SALT = "0123456789abcdef"


def record(message: str = "request", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("serving.access", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def line(**extra: object) -> dict:
    return json.loads(JsonFormatter().format(record(**extra)))


def broken() -> object:
    try:
        raise ValueError("broken")
    except ValueError:
        return sys.exc_info()


@pytest.fixture
def salted(monkeypatch) -> Iterator[None]:
    """Starts from an environment without a salt, and forgets the one of the test."""
    monkeypatch.delenv(logs.SALT, raising=False)
    logs._salt.cache_clear()
    yield
    monkeypatch.undo()
    logs._salt.cache_clear()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    found = logging.getLogger()
    before = (found.level, found.handlers[:])
    yield found
    logging.captureWarnings(False)
    found.setLevel(before[0])
    found.handlers[:] = before[1]


def test_a_line_is_one_json_object_with_its_fields():
    written = line(fields={"request_id": "r-1", "status": 200})
    assert (written["level"], written["message"], written["request_id"]) == (
        "info",
        "request",
        "r-1",
    )
    assert written["time"].endswith("Z")


def test_an_error_keeps_its_trace_on_one_line_of_json():
    text = JsonFormatter().format(record(exc_info=broken()))
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["error"]


def test_text_is_one_line_with_fields_and_a_trace_below():
    text = TextFormatter().format(record(fields={"status": 200}, exc_info=broken()))
    first, *trace = text.splitlines()
    assert first.endswith("INFO    serving.access request status=200")
    assert trace[-1] == "ValueError: broken"


def test_what_a_message_holds_cannot_begin_a_line_or_steer_a_terminal():
    forged = "bad\n2026-01-01T00:00:00.000Z INFO all is well\x1b[2J\u2028"
    text = TextFormatter().format(record(forged, fields={"reason": "a\rb"}))
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert json.loads(JsonFormatter().format(record(forged)))["message"] == forged


def test_lines_of_a_request_carry_its_id_from_threads_too():
    with about(request_id="r-1"):
        assert line()["request_id"] == "r-1"
        with about(user="x"):
            assert {"request_id", "user"} <= set(line())
    assert "request_id" not in line()


@pytest.mark.usefixtures("salted")
def test_users_are_hashed_and_told_apart():
    assert hashed("alice") == hashed("alice") != hashed("bob")
    assert "alice" not in hashed("alice")
    assert len(hashed("alice")) == 16


@pytest.mark.usefixtures("salted")
def test_hashes_of_two_processes_compare_under_one_salt_only(monkeypatch):
    def of_another_process(**environment: str) -> str:
        program = "from service.logs import hashed; print(hashed('alice'))"
        inherited = {name: value for name, value in os.environ.items() if name != logs.SALT}
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**inherited, **environment}, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    assert of_another_process() != hashed("alice")
    monkeypatch.setenv(logs.SALT, SALT)
    logs._salt.cache_clear()
    assert of_another_process(**{logs.SALT: SALT}) == hashed("alice")


@pytest.mark.usefixtures("salted", "root")
def test_a_salt_that_can_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv(logs.SALT, "short")
    with pytest.raises(SettingsError, match="FRESHET_LOG_SALT has 5 characters; give it 16"):
        start_logging()


@pytest.mark.parametrize(
    ("form", "kind"), [("json", JsonFormatter), ("text", TextFormatter), (None, JsonFormatter)]
)
def test_logging_starts_at_the_level_and_in_the_form_asked_for(root, form, kind):
    start_logging("warning", form)
    assert root.level == logging.WARNING
    assert type(root.handlers[-1].formatter) is kind
    start_logging()
    assert [type(one) for one in root.handlers].count(type(root.handlers[-1])) == 1


def test_what_nobody_catches_is_one_json_line_in_every_thread():
    program = (
        "import threading\n"
        "from service.logs import log_uncaught, start_logging\n"
        "start_logging(form='json'); log_uncaught()\n"
        "def fail(): raise ValueError('of a thread')\n"
        "thread = threading.Thread(target=fail, name='worker'); thread.start(); thread.join()\n"
        "raise ValueError('of the process')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    of_thread, of_process = [json.loads(text) for text in ended.stderr.splitlines()]
    assert of_thread["message"] == "thread worker ended"
    assert "ValueError: of a thread" in of_thread["error"]
    assert "ValueError: of the process" in of_process["error"]
