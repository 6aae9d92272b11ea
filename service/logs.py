"""Log lines as JSON objects, one per line on standard error; users appear hashed only."""

import hashlib
import logging
import time
from typing import Any

import msgspec

from service.actions import Id

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}` with the fields given as `extra={"fields"}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def start_logging(level: str) -> None:
    """Send every log line of this process to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def hashed(user: Id) -> str:
    """How a user appears in logs: 64 bits of BLAKE2b in hex, never the id itself."""
    return hashlib.blake2b(str(user).encode(), digest_size=8).hexdigest()
