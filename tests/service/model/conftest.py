"""Small models with every weight alive, and users with histories."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from service.action_types import ActionTypes
from service.actions import RESERVED_KEY
from service.histories.local import Events, Histories, LocalHistories
from service.histories.settings import HistorySettings
from service.model.network import Network
from service.model.ranker import COUNTS, COUNTS_ORIGIN, ITEM_SLOT, Ranker, described
from service.model.settings import ModelSettings
from service.versions import SlotRows, Snapshot
from tests.service.model.catalogue import Catalogue

NOW_MS = 1_732_096_800_000
SMALL = {"dim": 16, "layers": 3, "heads": 2, "qk_width": 8, "v_width": 12, "window": 16}

NetworkOf = Callable[..., Network]
SnapshotOf = Callable[..., Snapshot]
RankerOf = Callable[..., Ranker]
HistoryOf = Callable[..., Histories]


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """So small a model on two threads waits for itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def network_of() -> NetworkOf:
    """A network whose weights are all random, biases and scalars included."""

    def build(seed: int = 0, **model: Any) -> Network:
        make = torch.Generator().manual_seed(seed)
        network = Network(ModelSettings(**(SMALL | model)), len(ActionTypes().types))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.3, generator=make)
        return network.eval()

    return build


@pytest.fixture(scope="session")
def snapshot_of(network_of: NetworkOf) -> SnapshotOf:
    """A full-precision snapshot with items 1 .. items-1 (keys 100, 101, ...)."""

    def build(
        items: int = 40, seed: int = 0, action_heads: bool = True, types: ActionTypes | None = None,
        **model: Any,
    ) -> Snapshot:  # fmt: skip
        network = network_of(seed, **model)
        make = torch.Generator().manual_seed(seed + 1)
        rows = SlotRows(
            torch.tensor([RESERVED_KEY, *range(100, 99 + items)]),
            torch.randn(items, network.settings.dim, generator=make),
            {COUNTS: 9 * torch.rand(items, 3, generator=make)},
        )
        told = described(network.settings, types or ActionTypes(), action_heads)
        told[COUNTS_ORIGIN] = NOW_MS - 3_600_000
        slots = {ITEM_SLOT: rows}
        return Snapshot(7, told, dict(network.state_dict()), slots, at_ms=NOW_MS)

    return build


@pytest.fixture(scope="session")
def catalogue_of(network_of: NetworkOf) -> Callable[..., Catalogue]:
    """Items that change, and the model of `network_of`."""

    def build(seed: int = 0, action_heads: bool = True, **model: Any) -> Catalogue:
        network = network_of(seed, **model)
        told = described(network.settings, ActionTypes(), action_heads)
        half_lives = len(network.settings.priors)
        make, dense = np.random.default_rng(seed), dict(network.state_dict())
        return Catalogue(network.settings.dim, half_lives, told, dense, make)

    return build


@pytest.fixture(scope="session")
def ranker_of(snapshot_of: SnapshotOf) -> RankerOf:
    """A ranker of such a snapshot."""

    def build(**changes: Any) -> Ranker:
        return Ranker(snapshot_of(**changes))

    return build


@pytest.fixture(scope="session")
def history_of() -> HistoryOf:
    """The last `most` of a user's `count` random events, some of them of unknown items."""

    def build(count: int, seed: int = 0, most: int = SMALL["window"] + 1) -> Histories:
        make = np.random.default_rng([seed, 9])
        times = NOW_MS - 40 * 86_400_000 + np.cumsum(10 ** make.uniform(2, 7, 400)).astype(np.int64)
        events = Events(
            np.full(400, 5), make.integers(95, 145, 400), make.integers(0, 5, 400), times,
            np.zeros(400, np.int64),
        )  # fmt: skip
        histories = LocalHistories(HistorySettings(ttl_seconds=None))
        histories.append(events.where(np.arange(400) < count), 0)
        return histories.read(np.array([5]), most)

    return build
