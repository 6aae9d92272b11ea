"""Log lines of every process: JSON objects, one a line, or text for a terminal; to standard error.

No line holds a body, a key or a user's id: users appear as keyed hashes (`hashed`). Lines that are
written while a request is answered carry what `about` said of it, in whichever thread.
"""

import argparse
import functools
import hashlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

import msgspec

from service.actions import Id
from service.errors import SettingsError

SALT = "FRESHET_LOG_SALT"
"""Environment variable: the secret under which users are hashed, the same for every process whose
lines are to be compared. Without it each process draws its own."""
LEAST_SALT = 16
FORMATS = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")

_encode = msgspec.json.Encoder(enc_hook=str).encode
_about: ContextVar[Mapping[str, Any] | None] = ContextVar("about", default=None)


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines written inside carry these fields, also from threads that work for it."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}` with the fields given as `extra={"fields"}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; a trace is one of its strings."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE name=value ...` for people; a trace follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever characters a message holds."""
        fields = [f"{name}={value}" for name, value in _fields(record).items()]
        words = [_time(record), f"{record.levelname:7}", record.name, record.getMessage(), *fields]
        line = _printable(" ".join(words))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """`--log-level` and `--log-format`, the same for every process."""
    parser.add_argument("--log-level", default="info", choices=LEVELS)
    parser.add_argument(
        "--log-format", choices=FORMATS, help="default: text to a terminal, JSON anywhere else"
    )


def start_logging(level: str = "info", form: str | None = None) -> None:
    """Send every line of this process to standard error; without `form`, text only to a terminal.

    Raises SettingsError when FRESHET_LOG_SALT is too short to keep a secret.
    """
    root, handler = logging.getLogger(), _StandardError()
    as_text = sys.stderr.isatty() if form is None else form == "text"
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root.handlers = [one for one in root.handlers if not isinstance(one, _StandardError)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    _salt()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is when the line comes."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """The base class sets one."""


def log_uncaught() -> None:
    """What nobody catches, in any thread, is logged like everything else."""
    log = logging.getLogger("uncaught")

    def of_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("the process ends", exc_info=(kind, error, trace))

    def of_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and failed.exc_type is not SystemExit:
            name = failed.thread.name if failed.thread else "unknown"
            trace = (failed.exc_type, failed.exc_value, failed.exc_traceback)
            log.critical("thread %s ended", name, exc_info=trace)

    sys.excepthook = of_process
    threading.excepthook = of_thread


def hashed(user: Id) -> str:
    """How a user appears in logs: 64 bits of BLAKE2b in hex, keyed so that trying ids is no use."""
    return hashlib.blake2b(str(user).encode(), digest_size=8, key=_salt()).hexdigest()


@functools.cache
def _salt() -> bytes:
    said = os.environ.get(SALT)
    if said is None:
        return secrets.token_bytes(32)
    if len(said) < LEAST_SALT:
        raise SettingsError(
            f"{SALT} has {len(said)} characters; give it {LEAST_SALT} or more, as "
            "`openssl rand -hex 32` makes them, or leave it out"
        )
    return hashlib.blake2b(said.encode(), digest_size=32).digest()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {**(_about.get() or {}), **getattr(record, "fields", {})}


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _printable(text: str) -> str:
    """The text with everything escaped that could start a line or steer a terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
