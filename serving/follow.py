"""Follows the version directory: what operators decide and the trainer publishes is served.

A version that follows the served one is reached by what changed: its delta is read, verified and
prepared aside, and applied between two requests together with the version's manifest. Any other is
loaded whole and warmed aside, then swapped in. So no answer mixes two versions.

A version that cannot be reached is refused: logged and counted with its reason, and tried again
after a while, since its files may be complete by then. The version that answers stays until a
better one is ready.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from kernels.crew import Crew
from service.device import ON_CPU, Device
from service.errors import FreshetError, VersionError
from service.metrics import ServingMetrics
from service.model.ranker import Ranker, Step
from service.model.readings import Readings
from service.model.settings import Dense
from service.versions import Manifest, Snapshot, VersionDirectory
from serving.engine import Engine, Served, Tables
from serving.refusals import Refusals

log = logging.getLogger("serving.follow")


@dataclass(frozen=True)
class Standing:
    """What operators and the gate say of the versions, as of one look."""

    generation: int = 0
    """Number of the newest decision that was obeyed."""
    pinned: int | None = None
    held: dict[int, str] = field(default_factory=dict)
    """Versions that the gate held and nobody released, with its reason."""
    servable: list[int] = field(default_factory=list)
    """What may be served, best first: the pin alone, or else the newest versions."""


class VersionFollower:
    """A thread that looks into the directory every `poll_seconds`, or when it is woken."""

    def __init__(
        self,
        directory: VersionDirectory,
        engine: Engine,
        metrics: ServingMetrics,
        poll_seconds: float,
        readings: Readings | None = None,
        dense: Dense = "fp32",
        device: Device = ON_CPU,
        crew: Crew | None = None,
    ) -> None:
        """readings: where all versions keep the histories that they have read; dense: precision of
        their products; device, crew: where and by which threads these are computed."""
        self._readings, self._dense, self._device = readings, dense, device
        self._crew = crew
        self.refusals = Refusals(metrics)
        self.standing = Standing()
        self._manifests: dict[int, Manifest] = {}
        self._directory = directory
        self._engine = engine
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._stopped = False
        self._woken = threading.Event()
        self._newest: int | None = None
        """Of the versions that answered here: what a start or a way back adds is not fresh."""
        self._trouble = ""
        """What the last look failed with: said once, not five times a second."""
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def wake(self) -> None:
        """A decision was made by this process: obey it now."""
        self._woken.set()

    def close(self) -> None:
        """Stop following; a version being loaded is finished first."""
        self._stopped = True
        self._woken.set()
        self._thread.join()

    def look(self) -> Served | None:
        """Obey decisions, and serve the best version that can be; what is served then."""
        self._judge()
        for number in self.standing.servable:
            served = self._engine.served
            if served is not None and served.number == number:
                break
            if not self.refusals.waits(number) and self._reach(number):
                break
        return self._engine.served

    def _run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            try:
                self.look()
            except (VersionError, OSError) as error:
                # The served version stays; what cannot be read now is read again.
                if str(error) != self._trouble:
                    log.error("versions cannot be looked at, and are again: %s", error)
                self._trouble = str(error)
            except Exception:
                log.exception("looking for versions failed")
            else:
                self._trouble = ""
            self._woken.wait(self._poll_seconds)

    def _judge(self) -> None:
        """Read the decisions that were made, and what they make of the versions that are there."""
        decisions, numbers = self._directory.decisions(), set(self._directory.numbers())
        self._manifests = {n: known for n, known in self._manifests.items() if n in numbers}
        self.refusals.keep(numbers)
        servable = self._directory.servable()
        others = {n: self._manifest(n) for n in self._directory.live() if n not in servable}
        held = {n: other.held for n, other in others.items() if other and other.held}
        pinned = decisions.pinned if decisions.pinned in numbers else None
        best_first = servable[::-1] if pinned is None else [pinned]
        self.standing = Standing(decisions.generation, pinned, held, best_first)
        self._metrics.version_pinned.set(self.standing.pinned is not None)
        self._metrics.version_generation.set(self.standing.generation)

    def _manifest(self, number: int) -> Manifest | None:
        """The manifest of a version; one that cannot be read is refused."""
        if number not in self._manifests and not self.refusals.waits(number):
            try:
                self._manifests[number] = self._directory.manifest(number)
                self.refusals.served(number)
            except VersionError as error:
                self._refuse(number, error)
        return self._manifests.get(number)

    def _refuse(self, number: int, error: Exception) -> None:
        # A version may be pruned while it is read; that is no fault of its own.
        if number in self._directory.numbers():
            self.refusals.add(number, error)

    def _reach(self, number: int) -> bool:
        """Serve a version, or refuse it."""
        manifest, started = self._manifest(number), time.monotonic()
        if manifest is None:
            return False
        try:
            how = "delta" if self._follow(manifest) else "base"
            if how == "base":
                self._load(manifest)
        except (FreshetError, KeyError, ValueError) as error:
            self._refuse(number, error)
            return False
        self.refusals.served(number)
        self._metrics.version_applied_total.labels(how).inc()
        fields = {"version": number, "how": how, "seconds": round(time.monotonic() - started, 3)}
        log.info("version served", extra={"fields": fields})
        return True

    def _follow(self, manifest: Manifest) -> bool:
        """Reach a version by the deltas that lie between, each as the version that it makes.

        False if there is no such way. Raises VersionError or ModelMismatch if there is one and it
        is damaged, in which case a whole version made of the same files would be no better.
        """
        served = self._engine.served
        names = missing(served.manifest, manifest) if served is not None else []
        if served is None or not names:
            return False
        try:
            links = list(self._links(manifest, names))
            for delta, made in links:
                served = Served(served.ranker, made)
                self._apply(served.ranker.prepare(delta), served)
            if served.number != manifest.number:
                raise VersionError(
                    f"{names[-1]}, the last of its chain, is of version {served.number}, not of "
                    f"{manifest.number}"
                )
        except FreshetError as error:
            if set(names) <= set(manifest.snapshot) and not isinstance(error, LinkGone):
                raise
            log.warning("version %d cannot be followed: %s", manifest.number, error)
            return False
        except ApplyFailed:
            log.exception("version %d: it is loaded whole", manifest.number)
            return False
        return True

    def _links(self, manifest: Manifest, names: list[str]) -> Iterator[tuple[Snapshot, Manifest]]:
        """Deltas in order, each with the manifest of the version that it makes."""
        for name in names:
            delta = Snapshot.read_file(self._directory, manifest, name)
            yield delta, self._made(manifest, delta.number)

    def _made(self, manifest: Manifest, number: int) -> Manifest:
        """The manifest of a version on the way to `manifest`."""
        if number == manifest.number:
            return manifest
        try:
            return self._directory.manifest(number)
        except VersionError as error:
            raise LinkGone(f"version {number} cannot be passed: {error}") from None

    def _apply(self, step: Step, served: Served) -> None:
        """Become the next version, between two requests."""

        def change(tables: Tables) -> float:
            started = time.perf_counter()
            try:
                served.ranker.apply(step)
            except Exception as error:
                tables.served = None  # nobody knows which version this is now
                raise ApplyFailed(
                    f"version {served.number} was applied in part: {error}"
                ) from error
            tables.serve(served, step.rows.touched_keys)
            return time.perf_counter() - started

        self._changed(served, self._engine.do(change))

    def _load(self, manifest: Manifest) -> None:
        """Load a whole version aside and swap it in."""
        snapshot = Snapshot.read(self._directory, manifest.number)
        ranker = Ranker(snapshot, self._readings, self._dense, self._device, self._crew)
        if self._dense == "auto":
            log.info("products are computed in %s, as is fastest here", ranker.dense)
            self._dense = ranker.dense
        ranker.warm()
        served = Served(ranker, manifest)

        def swap(tables: Tables) -> tuple[float, Served | None]:
            started = time.perf_counter()
            before = tables.served
            tables.serve(served)
            return time.perf_counter() - started, before

        # The version before is let go here: giving its memory back takes longer than the swap.
        seconds, _ = self._engine.do(swap)
        self._changed(served, seconds)

    def _changed(self, served: Served, seconds: float) -> None:
        self._metrics.version_apply_seconds.observe(seconds)
        self._metrics.version.set(served.number)
        appended = served.manifest.first_append_seconds
        if appended is not None and self._newest is not None and served.number > self._newest:
            self._metrics.action_to_version_seconds.observe(max(0.0, time.time() - appended))
        self._newest = max(served.number, self._newest or 0)


class LinkGone(VersionError):
    """A version between the served one and the wanted one was pruned."""


class ApplyFailed(Exception):
    """A fault of this program: a prepared step could not be applied."""


def missing(served: Manifest, wanted: Manifest) -> list[str]:
    """The deltas that lead from one version to another, in order; none if there is no such way."""
    if wanted.snapshot_parent == served.number and wanted.step is not None:
        return [wanted.step]
    held = len(served.snapshot)
    if held and wanted.snapshot[:held] == served.snapshot:
        return wanted.snapshot[held:]
    return []
