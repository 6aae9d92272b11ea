"""The S3 server of a test: its process, its address, and the faults it is told to make."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "freshet"


class ObjectStore:
    """A running server with one bucket; `options` are what fsspec must know to use it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self.options: dict[str, Any] = {
            "endpoint_url": self.address,
            "key": "anyone",
            "secret": "anything",
            "config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 2},
        }
        self._ask("PUT", BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        """The options as a process is told them from outside."""
        return {**os.environ, "FSSPEC_S3": json.dumps(self.options)}

    def fault(self, name: str, times: int = 1) -> None:
        """Make the next conditional puts go wrong; `s3_server.py` has the names."""
        self._ask("POST", f"_fault/{name}/{times}")

    def _ask(self, method: str, path: str) -> None:
        request = urllib.request.Request(f"{self.address}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextmanager
def running(log: Path) -> Iterator[ObjectStore]:
    """An object store, from its start to its end."""
    script = Path(__file__).with_name("s3_server.py")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True,
        )  # fmt: skip
    with process:
        assert process.stdout is not None
        try:
            yield ObjectStore(process, int(process.stdout.readline()))
        finally:
            process.kill()
