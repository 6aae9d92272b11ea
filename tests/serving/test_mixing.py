"""Requests on three threads while fifty versions come: every answer is one version's alone."""

import threading
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from service.actions import key_of
from service.model.ranker import ITEM_SLOT
from serving import scoring
from serving.engine import Engine
from tests.serving.lineage import Lineage
from tests.serving.test_deltas import Follower, new_weights

AT_MS = 1_732_096_900_000


def rounded(values_C: Tensor) -> list[float]:
    return values_C.double().round(decimals=6).tolist()


class Asker(threading.Thread):
    """Ranks and recommends without a pause."""

    def __init__(self, engine: Engine, keys: np.ndarray, seed: int) -> None:
        super().__init__()
        self.engine, self.keys, self.make = engine, keys, np.random.default_rng(seed)
        self.ranked: list[tuple[np.ndarray, scoring.Ranking]] = []
        self.recommended: list[scoring.Ranking] = []
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            keys = self.make.choice(self.keys, 12)
            job = scoring.Rank(7, keys.tolist(), keys, AT_MS, None)
            self.ranked.append((keys, self.engine.do(job)))
            job = scoring.Recommend(7, 5, True, np.zeros(0, np.int64), AT_MS)
            self.recommended.append(self.engine.do(job))


def test_no_answer_mixes_versions(tmp_path: Path) -> None:
    lineage, make = Lineage(tmp_path), np.random.default_rng(4)
    lineage.publish()
    follower = Follower(lineage.directory)
    follower.versions._poll_seconds = 0.001
    follower.look()
    keys = np.array([*range(3, 60, 3), *list(lineage.catalogue.items)[1:], -5])
    askers = [Asker(follower.engine, keys, seed) for seed in range(3)]
    follower.versions.start()
    for asker in askers:
        asker.start()
    for version in range(50):
        dense = new_weights(lineage, make) if version % 5 == 4 else None
        manifest = lineage.publish(base=version % 20 == 19, dense=dense)
        while follower.engine.served.number != manifest.number:
            time.sleep(0.001)
    for asker in askers:
        asker.stopped = True
        asker.join()
    (history,) = follower.engine.do(lambda tables: tables.read([7]))
    follower.versions.close()
    follower.engine.close()
    assert follower.bases == 1

    rankers = {number: lineage.ranker(number) for number in lineage.truth}
    seen = set()
    for asker in askers:
        for keys, answer in asker.ranked:
            number = answer.served.number
            seen.add(number)
            scores = rounded(rankers[number].rank(history, keys, AT_MS).score_C)
            assert answer.score_N == sorted(scores, reverse=True)
        for answer in asker.recommended:
            number = answer.served.number
            items = list(lineage.truth[number].slots[ITEM_SLOT].ids)[1:]
            assert len(answer.items) == 5
            keys_5 = np.array([key_of(item) for item in answer.items])
            assert set(answer.items) <= set(items)
            expected = rankers[number].rank(history, keys_5, AT_MS)
            assert answer.next_item_N == rounded(expected.next_item_C)
    assert len(seen) > 30
