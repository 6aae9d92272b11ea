"""Log lines are JSON and never hold a user's id."""

import json
import logging
import sys

from service.logs import JsonFormatter, hashed, start_logging


def line(**extra) -> dict:
    record = logging.LogRecord("serving.access", logging.INFO, __file__, 1, "request", (), None)
    record.__dict__.update(extra)
    return json.loads(JsonFormatter().format(record))


def test_a_line_is_one_json_object_with_its_fields():
    written = line(fields={"request_id": "r-1", "status": 200})
    assert (written["level"], written["message"], written["request_id"]) == (
        "info",
        "request",
        "r-1",
    )
    assert written["time"].endswith("Z")


def test_an_error_keeps_its_trace():
    try:
        raise ValueError("broken")
    except ValueError:
        assert "ValueError: broken" in line(exc_info=sys.exc_info())["error"]


def test_users_are_hashed_and_told_apart():
    assert hashed("alice") != hashed("bob")
    assert "alice" not in hashed("alice")
    assert len(hashed("alice")) == 16


def test_logging_starts_at_the_level_asked_for():
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        start_logging("warning")
        assert root.level == logging.WARNING
        assert isinstance(root.handlers[0].formatter, JsonFormatter)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
