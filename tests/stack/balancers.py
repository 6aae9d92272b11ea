"""A real HAProxy on loopback, with the configuration of deploy/."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from service.commands.processes import free_port

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
READY_SECONDS = 15.0


class BalancerError(Exception):
    """There is no balancer; the message names the remedy."""


class Balancer:
    """One HAProxy before servers on these ports of 127.0.0.1; runs while it is entered."""

    def __init__(self, folder: Path, servers: Sequence[int]) -> None:
        found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise BalancerError(
                "haproxy was not found; install 2.6 or later (Debian, Ubuntu: apt install haproxy)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.metrics_port = free_port(), free_port()
        self.file, self._program, self._log = folder / "haproxy.cfg", found, folder / "log"
        text = CONFIGURATION.read_text()
        for number, port in enumerate(servers, 1):
            assert f"server-{number}:8080" in text
            text = text.replace(f"server-{number}:8080", f"127.0.0.1:{port}")
        text = text.replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        text = text.replace("bind :8405", f"bind 127.0.0.1:{self.metrics_port}")
        self.file.write_text(text)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> subprocess.CompletedProcess[str]:
        """Let HAProxy read its configuration."""
        command = [self._program, "-c", "-f", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-db", "-f", str(self.file)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise BalancerError(f"haproxy did not start: {self._log.read_text()[-600:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.metrics_port}/health").is_success
        except httpx.TransportError:
            return False
