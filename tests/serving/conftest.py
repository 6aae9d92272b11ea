"""A real server on a real port, on a real stream, with real versions of a tiny model."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn

from service.action_types import ActionTypes
from service.actions import RESERVED_KEY, Id, key_of
from service.client import Client
from service.histories.local import Events
from service.histories.segments import Segment
from service.model.network import Network
from service.model.ranker import COUNTS, COUNTS_ORIGIN, described
from service.model.settings import ModelSettings
from service.settings import Settings
from service.versions import Manifest, RowIds, SlotRows, Snapshot, VersionDirectory
from serving.app import create_app
from serving.connections import connections
from serving.core import Core
from serving.server import Server
from serving.whole import whole_server

MODEL = ModelSettings(dim=16, layers=2, heads=1, qk_width=8, v_width=8, window=16)
ITEMS = [f"i{number}" for number in range(40)]


@dataclass
class Publisher:
    """Commits versions of random models into `data/versions`."""

    data: Path

    @property
    def directory(self) -> VersionDirectory:
        return VersionDirectory(self.data / "versions")

    def __call__(
        self,
        number: int,
        *,
        items: Sequence[Id] = ITEMS,
        heads: bool = True,
        precision: str = "int8",
        offsets: dict[str, dict[str, int]] | None = None,
        topic_ids: dict[str, str] | None = None,
        history: Segment | None = None,
        model: dict[str, object] | None = None,
        metrics: dict[str, float] | None = None,
        beside: dict[str, torch.Tensor] | None = None,
    ) -> Manifest:
        types = ActionTypes()
        torch.manual_seed(number)
        network = Network(MODEL, len(types.types))
        keys_R = torch.tensor([RESERVED_KEY, *map(key_of, items)])
        rows = SlotRows(
            keys_R,
            torch.randn(len(keys_R), MODEL.dim) * 0.1,
            {COUNTS: torch.zeros(len(keys_R), len(MODEL.priors))},
            RowIds.from_list(["", *items]),
        )
        dense = {name: weight.detach() for name, weight in network.state_dict().items()}
        dense |= beside or {}
        says = {**(model or described(MODEL, types, heads)), COUNTS_ORIGIN: 0}
        snapshot = Snapshot(number, says, dense, {"item": rows}).quantized(
            {"slots/item": precision}
        )
        with self.directory.begin(number) as draft:
            snapshot.write(draft)
            if history is not None:
                draft.write("histories/0.safetensors", history.to_tensors())
            return draft.commit(
                Manifest(
                    number=number,
                    parent=None,
                    created_at=time.time(),
                    watermark_ms=1_732_096_800_000,
                    block=number,
                    offsets=offsets or {},
                    topic_ids=topic_ids or {},
                    metrics=metrics or {},
                )
            )

    def snapshot_file(self, number: int) -> Path:
        """Where the snapshot of a version lies."""
        [name] = self.directory.manifest(number).snapshot
        return self.data / "versions" / name


@dataclass
class Site:
    """A running server and ways to talk to it."""

    core: Core
    server: Server
    http: httpx.Client
    client: Client

    def until(self, holds: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Return what `holds` returns once it is true; fail when that takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := holds():
                return found
            time.sleep(0.01)
        raise AssertionError(f"not true within {seconds} s")

    def connect(self, seconds: float = 20.0) -> socket.socket:
        """A plain connection, for requests that no client would send."""
        url = self.http.base_url
        return socket.create_connection((url.host, url.port), seconds)

    def until_ready(self) -> None:
        self.until(self.client.ready, 240.0)  # nothing may be compiled yet

    def until_version(self, number: int) -> None:
        def served() -> bool:
            version = self.client.versions()["served"]
            return version is not None and version["number"] == number

        self.until(served)


@contextmanager
def running(data: Path, **sections: Any) -> Iterator[Site]:
    # Not by measuring: what is answered is compared with what is computed here.
    sections["serving"] = {"dense": "fp32", **sections.get("serving", {})}
    core, server = whole_server(data, Settings(sections))
    config = uvicorn.Config(
        create_app(server),
        port=0,
        http=connections(server.settings, server.metrics),
        log_config=None,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    http = uvicorn.Server(config)
    thread = threading.Thread(target=http.run, daemon=True)
    thread.start()
    while not http.started:
        assert thread.is_alive()
        time.sleep(0.005)
    url = f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
    try:
        with (
            httpx.Client(base_url=url, timeout=30) as raw,
            Client(url, 30, patience_seconds=0.0) as client,
        ):
            yield Site(core, server, raw, client)
    finally:
        http.should_exit = True
        thread.join()
        # FastAPI remembers the routes of every application, and they their server: its tables would
        # go on reserving most of a terabyte of addresses, and a process has 128.
        del core.engine._tables
        vars(core.items).clear()


@pytest.fixture
def publish(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
def site(tmp_path: Path, publish: Publisher) -> Iterator[Site]:
    """A server that is ready with version 1."""
    publish(1)
    with running(tmp_path) as started:
        started.until_ready()
        yield started


@pytest.fixture
def run_site(tmp_path: Path) -> Callable[..., Any]:
    """Start a server on the test's folder with settings sections, as a context manager."""

    def start(**sections: Any) -> Any:
        return running(tmp_path, **sections)

    return start


@pytest.fixture
def clicks() -> Callable[..., list[dict[str, Any]]]:
    """Actions of one user on items, one per item."""

    def make(user: Id, items: Sequence[Id], **more: Any) -> list[dict[str, Any]]:
        return [{"user": user, "item": item, "action": "click", **more} for item in items]

    return make


@pytest.fixture
def segment() -> Callable[..., Segment]:
    """A history segment: items of one user, a second apart, just now."""

    def make(user: Id, items: Sequence[Id]) -> Segment:
        count = len(items)
        events = Events(
            np.full(count, key_of(user)),
            np.array([key_of(item) for item in items], np.int64),
            np.zeros(count, np.int64),
            time.time_ns() // 1_000_000 - 1000 * np.arange(count)[::-1],
            np.zeros(count, np.int64),
        )
        return Segment(events, np.arange(count), np.zeros(0, np.int64))

    return make
