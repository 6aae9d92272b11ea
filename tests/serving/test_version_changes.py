"""Two hundred version changes under load: deltas, bases, rollbacks. No request fails, and every
answer is, number by number, what its version alone answers."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.action_types import ActionTypes
from service.actions import RESERVED_KEY, key_of
from service.histories.local import Histories
from service.model.network import Network
from service.model.ranker import COUNTS, COUNTS_ORIGIN, Ranker, described
from service.versions import Manifest, SlotRows, Snapshot, VersionDirectory
from service.versions.decisions import Pin
from service.versions.rows import RowIds
from tests.serving.conftest import MODEL, Site, running

BASE_EVERY, ROLLBACK_EVERY = 32, 20
ITEMS = [f"i{number}" for number in range(60)]
USERS = ["nobody", "u1", "u2"]
CLIENTS, PAUSE_SECONDS = 2, 0.004
AT = 1_732_096_900.0
SECTIONS = {
    "serving": {"poll_seconds": 0.003, "log_impressions": False},
    "intake": {"max_late_seconds": 1e9},
}
AT_MS = 1_732_096_800_000


class Chain:
    """Versions that follow each other: each changes some rows and removes others."""

    def __init__(self, data: Path) -> None:
        self.directory = VersionDirectory(data / "versions")
        self.number = 0
        self._draw = np.random.default_rng(3)
        self._names: list[str] = []
        self._parent: Manifest | None = None

    def publish(self) -> int:
        """Commit the next version; its number."""
        self.number += 1
        parent = self._parent if self.number % BASE_EVERY else None
        removed = self._draw.choice(ITEMS, 3, replace=False).tolist() if parent else []
        written = self._draw.choice(ITEMS, 8, replace=False).tolist() if parent else ITEMS
        torch.manual_seed(self.number)
        snapshot = Snapshot(
            self.number, self._model(), self._dense(whole=parent is None),
            {"item": self._rows(written)}, parent and parent.number,
            {"item": torch.tensor([key_of(name) for name in removed])} if parent else {}, AT_MS,
        ).quantized({"slots/item": "int8"})  # fmt: skip
        with self.directory.begin(self.number, self.directory.decisions().generation) as draft:
            for name in parent.snapshot if parent else ():
                draft.share(name, parent.files[name])
            entry = snapshot.write(draft)
            step = next(name for name, one in draft.files.items() if one is entry)
            self._parent = draft.commit(
                Manifest(
                    number=self.number, parent=self.number - 1 or None, created_at=time.time(),
                    watermark_ms=AT_MS, block=self.number, offsets={}, topic_ids={},
                    snapshot_parent=parent and parent.number, step=step if parent else None,
                )
            )  # fmt: skip
        return self.number

    def _model(self) -> dict[str, Any]:
        return {**described(MODEL, ActionTypes(), action_heads=True), COUNTS_ORIGIN: AT_MS}

    def _dense(self, whole: bool) -> dict[str, torch.Tensor]:
        """Dense weights change in every third version."""
        if not whole and self.number % 3:
            return {}
        network = Network(MODEL, len(ActionTypes().types))
        return {name: weight.detach().clone() for name, weight in network.state_dict().items()}

    def _rows(self, names: list[str]) -> SlotRows:
        keys = torch.tensor([RESERVED_KEY, *map(key_of, names)])
        counts = torch.rand(len(keys), len(MODEL.priors)) * 50
        vectors = torch.randn(len(keys), MODEL.dim) * 0.1
        return SlotRows(keys, vectors, {COUNTS: counts}, RowIds.from_list(["", *names]))


@dataclass
class Load:
    """Clients that ask again and again; what they were answered, and what went wrong."""

    site: Site
    answers: list[tuple[str, list[str], dict[str, Any]]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, seed: int) -> None:
        """One client."""
        draw = np.random.default_rng(seed)
        while not self.stop.is_set():
            user, items = str(draw.choice(USERS)), draw.choice([*ITEMS, "i-none"], 10).tolist()
            try:
                self.answers.append((user, items, self.site.client.rank(user, items, at=AT)))
            except BaseException as error:
                self.failures.append(error)
                return
            time.sleep(PAUSE_SECONDS)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self.ask, args=(seed,)) for seed in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


def change(chain: Chain, site: Site, number: int) -> int:
    """One change of version, and until it is served: a new one, or back by a few, or forth."""
    match number % ROLLBACK_EVERY:
        case 0 if number:
            expected = chain.number - 2
            chain.directory.decide(Pin(expected, at=0.0))
        case 1 if number > 1:
            chain.directory.decide(Pin(None, at=0.0))
            expected = chain.number
        case _:
            expected = chain.publish()
    site.until_version(expected)
    return expected


def history(site: Site, user: str) -> Histories:
    """What the server knows of a user."""
    return site.core.engine.do(lambda tables: tables.read([key_of(user)])[0])


@pytest.mark.parametrize("changes", [50, pytest.param(200, marks=pytest.mark.long)])
def test_no_request_fails_and_none_mixes_versions(
    tmp_path: Path, clicks: Any, changes: int
) -> None:
    chain = Chain(tmp_path)
    with running(tmp_path, **SECTIONS) as site:
        change(chain, site, 0)
        site.until_ready()
        for user in USERS[1:]:
            site.client.act(clicks(user, ["i1", "i7", user, "i3"], at=AT - 10))
        site.until(lambda: all(len(history(site, user).item_T) == 4 for user in USERS[1:]))
        histories = {user: history(site, user) for user in USERS}
        with Load(site) as load:
            served = [change(chain, site, number) for number in range(1, changes + 1)]
        assert not site.client.versions()["refused"]

    assert not load.failures
    assert len(set(served)) > changes * 3 / 4
    answered = {answer["version"] for _, _, answer in load.answers}
    assert len(answered & set(served)) > changes / 4
    rankers: dict[int, Ranker] = {}
    for user, items, answer in load.answers:
        number = answer["version"]
        if number not in rankers:
            rankers[number] = Ranker(Snapshot.read(chain.directory, number))
        keys_C = np.array([key_of(item) for item in items])
        scores = rankers[number].rank(histories[user], keys_C, int(AT * 1000))
        expected = dict(zip(items, scores.score_C.tolist(), strict=True))
        found = {row["item"]: row["score"] for row in answer["items"]}
        assert found == pytest.approx(expected, abs=2e-6), number
