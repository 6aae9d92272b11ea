"""The follower is fed deltas that are dropped, doubled, disordered and damaged, and killed: it
never serves anything but a version as it was published, and ends where the trainer is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service.histories.local import LocalHistories
from service.histories.settings import HistorySettings
from service.metrics import Readings, ServingMetrics
from service.versions import Manifest, VersionDirectory
from service.versions.decisions import Branch, Pin, Release
from serving import refusals
from serving.engine import Engine, Tables
from serving.follow import VersionFollower
from tests.serving.lineage import Lineage, same


class Follower:
    """A follower that looks when it is told to, and its engine."""

    def __init__(self, directory: VersionDirectory) -> None:
        self.metrics = ServingMetrics()
        self.engine = Engine(Tables(LocalHistories(HistorySettings())), 8, 9.0)
        self.engine.start()
        self.versions = VersionFollower(directory, self.engine, self.metrics, 1.0)

    def look(self) -> int | None:
        """The number that is served after a look."""
        served = self.versions.look()
        return served and served.number

    def read(self, name: str, **labels: str) -> float:
        return Readings(self.metrics.text().decode()).get(name, **labels)

    @property
    def deltas(self) -> float:
        return self.read("version_applied_total", how="delta")

    @property
    def bases(self) -> float:
        return self.read("version_applied_total", how="base")

    def is_version(self, lineage: Lineage, number: int | None) -> bool:
        """Whether it serves this version, and nothing of any other."""
        served = self.engine.served
        if number is None or served is None:
            return number is served is None
        return served.number == number and same(served.ranker, lineage.ranker(number))


@contextmanager
def following(lineage: Lineage) -> Iterator[Follower]:
    follower = Follower(lineage.directory)
    try:
        yield follower
    finally:
        follower.engine.close()


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


@pytest.fixture(autouse=True)
def _try_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "FIRST_SECONDS", 0.0)


def test_a_version_is_reached_by_its_delta_alone(lineage: Lineage) -> None:
    base = lineage.publish()
    with following(lineage) as follower:
        assert follower.look() == 1
        lineage.path(base.snapshot[0]).unlink()
        for number in range(2, 6):
            lineage.publish()
            assert follower.look() == number
            assert follower.is_version(lineage, number)
        assert (follower.deltas, follower.bases) == (4, 1)
        assert follower.look() == 5
        assert follower.read("version_apply_seconds_count") == 5


def test_deltas_that_came_while_it_looked_away_are_applied_in_order(lineage: Lineage) -> None:
    base = lineage.publish()
    with following(lineage) as follower:
        follower.look()
        lineage.path(base.snapshot[0]).unlink()
        for _ in range(4):
            lineage.publish()
        assert follower.look() == 5
        assert follower.is_version(lineage, 5)
        assert (follower.deltas, follower.bases) == (1, 1)
        assert follower.read("version_apply_seconds_count") == 5


def test_a_base_is_reached_by_the_delta_beside_it(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        base = lineage.publish(base=True)
        lineage.path(base.snapshot[0]).unlink()
        assert follower.look() == 2
        lineage.publish()
        assert follower.look() == 3
        assert follower.is_version(lineage, 3)
        assert follower.bases == 1


def test_a_base_ends_a_damaged_chain(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        cut(lineage, lineage.publish())
        assert follower.look() == 1
        assert follower.read("versions_refused_total", reason="truncated") == 1
        lineage.publish()
        assert follower.look() == 1
        lineage.publish(base=True)
        assert follower.look() == 4
        assert follower.is_version(lineage, 4)
        assert follower.look() == 4
        assert follower.read("versions_refused_total", reason="truncated") == 2


def test_a_base_whose_step_is_damaged_is_loaded_whole(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        flip(lineage, lineage.publish(base=True))
        assert follower.look() == 2
        assert follower.is_version(lineage, 2)
        assert (follower.deltas, follower.bases) == (0, 2)
        assert not follower.versions.refusals.all()


def test_a_delta_that_is_complete_later_is_applied_then(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        path = lineage.path(str(lineage.publish().step))
        aside = path.rename(path.with_suffix(".late"))
        assert follower.look() == 1
        assert follower.versions.refusals.get(2)
        aside.rename(path)
        assert follower.look() == 2
        assert follower.is_version(lineage, 2)
        assert not follower.versions.refusals.all()


def test_versions_between_that_are_gone_are_passed_over(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        for _ in range(4):
            lineage.publish()
        lineage.directory.prune(2)
        assert follower.look() == 5
        assert follower.is_version(lineage, 5)
        assert follower.bases == 2


def test_a_refused_version_is_left_alone_for_longer_and_longer(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "FIRST_SECONDS", 1.0)
    now, tried = [100.0], []
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    lineage.publish()
    flip(lineage, lineage.publish())
    with following(lineage) as follower:
        reach = follower.versions._reach

        def trying(number: int) -> bool:
            tried.append((number, now[0]))
            return reach(number)

        monkeypatch.setattr(follower.versions, "_reach", trying)
        for _ in range(640):
            follower.versions.look()
            now[0] += 0.25
    waits = np.diff([at for number, at in tried if number == 2])
    np.testing.assert_allclose(waits, [1, 2, 4, 8, 16, 32, 60], atol=0.26)
    assert follower.read("versions_refused_total", reason="altered") == 1


def test_a_held_version_is_never_served_and_a_released_one_is(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        lineage.publish(held="its loss is too high")
        assert follower.look() == 1
        assert follower.versions.standing.held == {2: "its loss is too high"}
        lineage.publish()
        assert follower.look() == 3
        assert follower.is_version(lineage, 3)
        assert follower.bases == 1
        lineage.publish(held="again")
        assert follower.look() == 3
        lineage.directory.decide(Release(4, at=0.0))
        assert follower.look() == 4
        assert follower.is_version(lineage, 4)
        assert follower.versions.standing.held == {2: "its loss is too high"}


def test_a_pin_is_kept_until_it_is_lifted(lineage: Lineage) -> None:
    for _ in range(4):
        lineage.publish()
    with following(lineage) as follower:
        assert follower.look() == 4
        lineage.directory.decide(Pin(2, at=0.0))
        assert follower.look() == 2
        assert follower.is_version(lineage, 2)
        assert (follower.read("version_pinned"), follower.read("version_generation")) == (1, 1)
        lineage.publish()
        assert follower.look() == 2
        lineage.directory.decide(Pin(None, at=0.0))
        assert follower.look() == 5
        assert follower.is_version(lineage, 5)
        assert (follower.read("version_pinned"), follower.read("version_generation")) == (0, 2)


def test_a_pinned_version_is_served_or_none(lineage: Lineage) -> None:
    manifests = [lineage.publish() for _ in range(3)]
    lineage.directory.decide(Pin(2, at=0.0))
    cut(lineage, manifests[1])
    with following(lineage) as follower:
        assert follower.look() is None
        lineage.directory.decide(Pin(1, at=0.0))
        assert follower.look() == 1


def test_versions_that_a_branch_left_behind_are_left(lineage: Lineage) -> None:
    for _ in range(3):
        lineage.publish()
    with following(lineage) as follower:
        assert follower.look() == 3
        generation = lineage.directory.decide(Branch(1, at=0.0))
        assert follower.look() == 1
        assert follower.is_version(lineage, 1)
        lineage.publish(base=True, decisions=generation)
        assert follower.look() == 4
        assert follower.is_version(lineage, 4)


def test_items_that_went_are_gone(lineage: Lineage) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        before = set(lineage.catalogue.items)
        lineage.publish(removed=10)
        follower.look()
        gone = np.array(sorted(before - set(lineage.catalogue.items)))
        ranker = follower.engine.served.ranker
        assert len(gone) == 9
        assert ranker.rows(gone).tolist() == [0] * 9
        assert not set(gone.tolist()) & set(ranker.items.live_keys().tolist())


def test_a_step_that_fails_in_the_engine_is_answered_by_a_whole_version(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage.publish()
    with following(lineage) as follower:
        follower.look()
        lineage.publish()
        served = follower.engine.served

        def half(step: object) -> None:
            served.ranker.items._vectors.flat[:] = 7
            raise IndexError("a fault of this program")

        monkeypatch.setattr(served.ranker, "apply", half)
        seen = []
        load = follower.versions._load
        monkeypatch.setattr(
            follower.versions, "_load", lambda m: (seen.append(follower.engine.served), load(m))
        )
        assert follower.look() == 2
        assert seen == [None]
        assert follower.is_version(lineage, 2)


def cut(lineage: Lineage, manifest: Manifest) -> None:
    path = lineage.path(str(manifest.step))
    path.write_bytes(path.read_bytes()[:-7])


def flip(lineage: Lineage, manifest: Manifest) -> None:
    path = lineage.path(str(manifest.step))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def drop(lineage: Lineage, manifest: Manifest) -> None:
    lineage.path(str(manifest.step)).unlink()


def _other_step(lineage: Lineage, manifest: Manifest, chain: list[str]) -> None:
    known = lineage.directory.manifest(manifest.number - 1).files | manifest.files
    step = chain[-1]
    lineage.rewrite(manifest, snapshot=chain, step=step, files=known)


def double(lineage: Lineage, manifest: Manifest) -> None:
    """The version before comes once more, in the place of this one."""
    _other_step(lineage, manifest, manifest.snapshot[:-1])


def leave_out(lineage: Lineage, manifest: Manifest) -> None:
    """The chain lacks the version before."""
    _other_step(lineage, manifest, [*manifest.snapshot[:-2], manifest.snapshot[-1]])


def swap(lineage: Lineage, manifest: Manifest) -> None:
    """The last two have changed places."""
    *rest, a, b = manifest.snapshot
    _other_step(lineage, manifest, [*rest, b, a])


def go_back(lineage: Lineage, manifest: Manifest) -> None:
    """An earlier version's delta stands at the end."""
    _other_step(lineage, manifest, [*manifest.snapshot[:-1], manifest.snapshot[-3]])


DAMAGES = {
    cut: "truncated", flip: "altered", drop: "missing", double: "duplicate", leave_out: "gap",
    swap: "gap", go_back: "order",
}  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items())
def test_each_damage_is_named_and_never_applied(
    lineage: Lineage, damage: Callable[[Lineage, Manifest], None], reason: str
) -> None:
    for _ in range(3):
        lineage.publish()
    with following(lineage) as follower:
        follower.look()
        lineage.publish()
        if reason != "gap":
            follower.look()
        damage(lineage, lineage.publish())
        assert follower.look() == 4
        assert follower.is_version(lineage, 4)
        assert follower.read("versions_refused_total", reason=reason) == 1
    with following(lineage) as follower:
        assert follower.look() == 4
        assert follower.is_version(lineage, 4)
        lineage.publish(base=True)
        assert follower.look() == 6
        assert follower.is_version(lineage, 6)


@pytest.mark.parametrize("seed", range(3))
def test_it_serves_versions_as_they_are_or_not_at_all(tmp_path: Path, seed: int) -> None:
    lineage, make = Lineage(tmp_path, seed), np.random.default_rng([seed, 8])
    lineage.publish()
    follower = Follower(lineage.directory)
    served: list[int | None] = []
    for _ in range(30):
        manifest = lineage.publish(
            base=make.random() < 0.1, held="so" if make.random() < 0.05 else None,
            dense=new_weights(lineage, make) if make.random() < 0.2 else None,
        )  # fmt: skip
        if make.random() < 0.3 and len(manifest.snapshot) > 3:
            list(DAMAGES)[make.integers(len(DAMAGES))](lineage, manifest)
        if make.random() < 0.15:
            follower.engine.close()
            follower = Follower(lineage.directory)
        if make.random() < 0.7:
            served.append(follower.look())
            assert follower.is_version(lineage, served[-1])
    lineage.publish(base=True)
    assert follower.look() == lineage.catalogue.number
    assert follower.is_version(lineage, lineage.catalogue.number)
    follower.engine.close()
    assert None not in served
    assert len(set(served)) > 8


def new_weights(lineage: Lineage, make: np.random.Generator) -> dict[str, object]:
    factor = float(make.uniform(0.9, 1.1))
    return {name: weight * factor for name, weight in lineage.catalogue.dense.items()}
