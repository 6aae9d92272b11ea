"""A real Prometheus on loopback, with the configuration of deploy/.

    with Prometheus(tmp_path / "prometheus", {"trainer:9100": "127.0.0.1:4711", ...}) as prometheus:
        prometheus.query("up")

Scrapes and rules run every second, so that a test need not wait. Whatever is missing raises
PrometheusError, one line with the remedy.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from service.commands.processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
READY_SECONDS = 30.0


class PrometheusError(Exception):
    """There is no Prometheus; the message names the remedy."""


class Prometheus:
    """One Prometheus with its data under `folder`; runs while it is entered."""

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        """addresses: where each target of deploy/prometheus/targets/full.yml really is."""
        self._program = program("prometheus")
        self.port, self._folder = free_port(), folder
        (folder / "targets").mkdir(parents=True)
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        text = re.sub(
            r"(scrape_interval|scrape_timeout|evaluation_interval): \d+s", r"\1: 1s", text
        )
        text = text.replace("127.0.0.1:9090", f"127.0.0.1:{self.port}")
        (folder / "prometheus.yml").write_text(text)
        shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
        targets = (DEPLOY / "prometheus" / "targets" / "full.yml").read_text()
        for known, address in addresses.items():
            assert f'"{known}"' in targets
            targets = targets.replace(f'"{known}"', f'"{address}"')
        (folder / "targets" / "full.yml").write_text(targets)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10.0)

    def __enter__(self) -> Self:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                cwd=self._folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._await()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query: `metric` and `value`. Fails for what is no query."""
        answer = self._http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else [{"value": result}]

    def history(self, expression: str, seconds: float, step: str = "1s") -> list[dict[str, Any]]:
        """The series of a range query over the last so many seconds."""
        end = time.time()
        parameters = {"query": expression, "start": end - seconds, "end": end, "step": step}
        answer = self._http.get("/api/v1/query_range", params=parameters).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        """Every rule by its name, as it stands."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def targets(self) -> dict[str, str]:
        """How each target of the stack is: by address, up or down."""
        active = self._http.get("/api/v1/targets").json()["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["health"] for target in active}

    def until(self, expression: str, holds: Callable[[float], bool], seconds: float) -> None:
        """Return once the query has a sample for which it holds."""
        deadline = time.monotonic() + seconds
        while not any(holds(float(one["value"][1])) for one in self.query(expression)):
            assert time.monotonic() < deadline, f"{expression}: {self.query(expression)}"
            time.sleep(0.2)

    def _await(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "log").read_text()[-600:]
                raise PrometheusError(f"Prometheus did not start: {said}")
            try:
                if self._http.get("/-/ready").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)

    def _stop(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool; `text` is its standard input."""
    return subprocess.run(
        [program("promtool"), *map(str, arguments)],
        input=text, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip


def program(name: str) -> str:
    """Where one of Prometheus' programs is. Raises PrometheusError."""
    found = shutil.which(name)
    if found is None:
        raise PrometheusError(
            f"{name} was not found; install Prometheus 2.42 or later (Debian, Ubuntu: apt install "
            "prometheus)"
        )
    return found
