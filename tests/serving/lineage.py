"""Versions of one changing catalogue, committed as a trainer does, and the truth about each."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from service.action_types import ActionTypes
from service.model.network import Network
from service.model.ranker import ITEM_SLOT, Ranker, described
from service.versions import FileEntry, Manifest, Snapshot, VersionDirectory
from tests.service.model.catalogue import Catalogue
from tests.serving.conftest import MODEL


@dataclass
class Lineage:
    """Publishes bases and deltas into `data/versions`; knows what each version must be."""

    data: Path
    seed: int = 0
    items: int = 40
    truth: dict[int, Snapshot] = field(default_factory=dict)
    chain: dict[str, FileEntry] = field(default_factory=dict)
    """The snapshot files of the newest version that was not held."""
    parent: Snapshot | None = None
    """The truth of that version."""

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        network = Network(MODEL, len(ActionTypes().types))
        dense = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
        told = described(MODEL, ActionTypes(), True)
        make = np.random.default_rng(self.seed)
        self.catalogue = Catalogue(MODEL.dim, len(MODEL.priors), told, dense, make)

    @property
    def directory(self) -> VersionDirectory:
        return VersionDirectory(self.data / "versions")

    def publish(
        self, base: bool = False, held: str | None = None, decisions: int = 0, **changes: Any
    ) -> Manifest:
        """Commit the next version: a delta, or (base) a whole one with the delta beside it."""
        delta = self.catalogue.delta(**changes) if self.truth else self.catalogue.base(self.items)
        number, whole = self.catalogue.number, self.catalogue.whole()
        self.truth[number] = whole
        if self.parent is not None and delta.parent != self.parent.number:
            delta = _since(self.parent, whole)
        with self.directory.begin(number) as draft:
            for name, entry in [] if base else self.chain.items():
                draft.share(name, entry)
            steps = [] if self.parent is None else _written(draft, delta)
            if base or self.parent is None:
                names = _written(draft, whole if self.parent else delta)
            else:
                names = [*self.chain, *steps]
            manifest = draft.commit(
                Manifest(
                    number=number,
                    parent=number - 1 or None,
                    created_at=time.time(),
                    watermark_ms=whole.at_ms,
                    block=number,
                    offsets={},
                    topic_ids={},
                    snapshot_parent=self.parent and self.parent.number,
                    step=steps[0] if steps else None,
                    held=held,
                    decisions=decisions,
                )
            )
        assert manifest.snapshot == names
        if held is None:
            self.chain = {name: manifest.files[name] for name in names}
            self.parent = whole
        return manifest

    def rewrite(self, manifest: Manifest, **changes: Any) -> None:
        """Put another manifest in a version's place, sealed like a good one."""
        path = self.data / "versions" / "manifests" / f"{manifest.number:08d}.json"
        path.write_bytes(msgspec.structs.replace(manifest, **changes).encode())

    def path(self, name: str) -> Path:
        """Where a file of a version lies."""
        return self.data / "versions" / name

    def ranker(self, number: int) -> Ranker:
        """A version, built at once from the truth about it."""
        return Ranker(self.truth[number])


def _written(draft: Any, snapshot: Snapshot) -> list[str]:
    before = set(draft.files)
    snapshot.write(draft)
    return [name for name in draft.files if name not in before]


def _since(parent: Snapshot, whole: Snapshot) -> Snapshot:
    """Everything as it is now, as a delta of a version that is not the one before."""
    now, then = (set(one.slots[ITEM_SLOT].keys_R.tolist()) for one in (whole, parent))
    removed = {ITEM_SLOT: torch.tensor(sorted(then - now), dtype=torch.int64)}
    return replace(whole, parent=parent.number, removed=removed)


def same(found: Ranker, expected: Ranker) -> bool:
    """Whether two rankers hold the same items and priors, to the bit."""
    keys = np.sort(expected.items.live_keys())
    if not np.array_equal(np.sort(found.items.live_keys()), keys):
        return False
    a, b = found.rows(keys), expected.rows(keys)
    zero, user_D = torch.zeros(1, dtype=torch.int64), torch.ones(MODEL.dim)
    return (
        found.number == expected.number
        and found.items.ids_of(a) == expected.items.ids_of(b)
        and torch.equal(found.items.gather(a), expected.items.gather(b))
        and torch.equal(found.items.gather(zero), expected.items.gather(zero))
        and torch.equal(found.items.logits(user_D, a), expected.items.logits(user_D, b))
        and all(
            torch.equal(weight, expected.model.network.state_dict()[name])
            for name, weight in found.model.network.state_dict().items()
        )
    )
