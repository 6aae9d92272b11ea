"""A directory of versions: commit, list, read with every byte checked, decide, prune.

manifests/00000012.json      creating it is the commit of version 12
data/00000012-9f3a1c20/...   what the draft of version 12 wrote; later versions may share it
decisions/00000007.json      what operators decided, one file after another
LATEST                       a hint for people and scripts: the number committed last
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from service.errors import VersionError, VersionExists
from service.versions.decision_log import DecisionLog
from service.versions.decisions import Decision, Decisions
from service.versions.draft import DATA, Draft, private_folder
from service.versions.manifest import Manifest, manifest_name
from service.versions.standing import Standing
from service.versions.storage import Steps, open_storage
from service.versions.tensors import TensorFile, unpack

_log = logging.getLogger(__name__)
_ASIDE_VERSIONS = 1000
"""So many versions on, prune clears what a process left that was killed while it decided."""
_MANIFEST = re.compile(r"manifests/(\d{8,})\.json")


class VersionDirectory:
    """Versions under a local path or an fsspec url. Safe for many processes at once.

    `steps` is told of every completed change of the storage; by default it is logged.
    """

    def __init__(self, url: str | Path, steps: Steps = _log.debug) -> None:
        self.url = str(url)
        self._storage = open_storage(url, steps)
        self._decided = DecisionLog(self._storage, self.url)
        self._standing = Standing(self.manifest)

    def numbers(self) -> list[int]:
        """The committed versions, ascending."""
        found = map(_MANIFEST.fullmatch, self._storage.names("manifests"))
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> int | None:
        """The highest committed number, or None. Never trusts the LATEST hint."""
        return max(self.numbers(), default=None)

    def manifest(self, number: int) -> Manifest:
        """The manifest of a version. Raises VersionError if it is missing, damaged or unknown."""
        name = manifest_name(number)
        return Manifest.decode(name, self._bytes(name))

    def begin(self, number: int, decisions: int | None = None) -> Draft:
        """Start version `number`, by a trainer that knows of so many decisions.

        Raises VersionExists unless it is above every committed one, and if training branched and
        the trainer does not know; without `decisions` the commit alone finds that out.
        """
        self.check_newest(number - 1)
        if decisions is not None:
            self.check_branches(decisions)
        return Draft(self, self._storage, number)

    def check_newest(self, number: int) -> None:
        """Raise VersionExists if a version above `number` is committed (fencing)."""
        latest = self.latest()
        if latest is not None and latest > number:
            raise VersionExists(
                f"version {latest} is committed in {self.url} where {number} should be the newest: "
                "another trainer is ahead. Stop this one, or let it resume from there"
            )

    def check_branches(self, known: int) -> None:
        """Raise VersionExists if a decision above `known` lets training go on elsewhere."""
        for generation, version in self.decisions().branches:
            if generation > known:
                raise VersionExists(
                    f"decision {generation} in {self.url} lets training go on from version "
                    f"{version}, and this trainer knows decisions up to {known}: stop it and start "
                    "it again, it then resumes from there"
                )

    def decide(self, decision: Decision) -> int:
        """Append an operator's decision; returns its generation.

        Raises VersionError if the version it speaks of cannot be read, or an earlier decision.
        """
        version = getattr(decision, "version", None)
        if version is not None:
            self.manifest(version)
        aside = private_folder((self.latest() or 0) + _ASIDE_VERSIONS)
        return self._decided.append(decision, aside)

    def decisions(self) -> Decisions:
        """All decisions as of now. Raises VersionError naming one that is damaged or unknown."""
        return self._decided.read()

    def decisions_until(self, generation: int) -> Decisions:
        """The decisions up to a generation: what a version that names it knew."""
        return self._decided.until(generation)

    def live(self) -> list[int]:
        """The committed versions that no branch abandoned, ascending."""
        decisions = self.decisions()
        return self._standing.live(self.numbers(), decisions)

    def servable(self) -> list[int]:
        """Of the live versions those that can be read and are not held, or were released."""
        decisions = self.decisions()
        live = self._standing.live(self.numbers(), decisions)
        return [number for number in live if self._standing.may_serve(number, decisions)]

    def objection(self, number: int) -> str | None:
        """Why servers may not be told to serve a committed version; None if they may.

        Raises VersionError if its manifest cannot be read.
        """
        if number not in self.live():
            return "was abandoned when training went back behind it"
        held = self.manifest(number).held
        if held is None or number in self.decisions().released:
            return None
        return f"is held: {held}; `freshet versions release {number}` lets servers have it"

    def target(self) -> int | None:
        """What servers must serve: the pinned version if it is there, else the newest servable."""
        decisions, numbers = self.decisions(), self.numbers()
        if decisions.pinned in numbers:
            return decisions.pinned
        live = self._standing.live(numbers, decisions)
        return next((n for n in reversed(live) if self._standing.may_serve(n, decisions)), None)

    def read(self, number: int, name: str) -> dict[str, Tensor]:
        """The tensors of one file of a version, its size and SHA-256 checked on these very bytes.

        `name` is a key of the manifest's `files`. Raises VersionError naming the file and reason.
        """
        return self.open(self.manifest(number), name).tensors

    def open(self, manifest: Manifest, name: str) -> TensorFile:
        """Like `read`, with the facts of the file's header, for a manifest at hand."""
        return unpack(name, self._checked(manifest, name))

    def verify(self, number: int, part: str | None = None) -> Manifest:
        """Read and check every file of a part of a version (of all parts by default)."""
        manifest = self.manifest(number)
        for name in manifest.files if part is None else manifest.part(part):
            self._checked(manifest, name)
        return manifest

    def _checked(self, manifest: Manifest, name: str) -> bytes:
        entry = manifest.files.get(name)
        if entry is None:
            raise VersionError(f"version {manifest.number} has no file {name!r}")
        data = self._bytes(name)
        if problem := entry.problem(data):
            raise VersionError(f"{name} {problem}")
        return data

    def _bytes(self, name: str) -> bytes:
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            raise VersionError(f"{name} is missing from {self.url}") from None
        except OSError as error:
            raise VersionError(f"{name} cannot be read from {self.url}: {error}") from error

    def prune(self, keep: int) -> list[int]:
        """Remove versions that nobody needs; returns their numbers.

        Kept are the newest `keep` of all, of the live and of the servable ones, and the pinned one.

        1. Read the manifests to keep: an unreadable one raises VersionError and nothing is removed.
        2. Remove the others, oldest first.
        3. Remove the data files that no kept manifest names and whose draft was numbered at or
           below the newest version. Such a draft is committed and pruned, crashed, or a racer that
           lost: numbers are never reused, so it can never commit. A draft in progress is numbered
           above the newest version, and its files stay.
        """
        if keep < 1:
            raise ValueError(f"prune must keep at least 1 version, not {keep}")
        numbers, decisions = self.numbers(), self.decisions()
        live = self._standing.live(numbers, decisions)
        servable = [n for n in live if self._standing.may_serve(n, decisions)]
        kept = {*numbers[-keep:], *live[-keep:], *servable[-keep:], decisions.pinned}
        return self._remove([n for n in numbers if n not in kept], numbers)

    def forget(self, before: int) -> list[int]:
        """Remove every version below a number, held and pinned ones, too, as `prune` does; returns
        their numbers. Raises ValueError unless a version at or above it is committed."""
        numbers = self.numbers()
        if not numbers or numbers[-1] < before:
            raise ValueError(
                f"the versions before {before} cannot be forgotten: no later one is committed"
            )
        return self._remove([n for n in numbers if n < before], numbers)

    def _remove(self, gone: list[int], numbers: Iterable[int]) -> list[int]:
        left = sorted(set(numbers) - set(gone))
        needed = {name for number in left for name in self._standing.files(number)}
        for number in gone:
            self._storage.remove(manifest_name(number))
        for name in self._storage.names("data") if left else ():
            match = DATA.fullmatch(name)
            if match and int(match[1]) <= left[-1] and name not in needed:
                self._storage.remove(name)
        self._standing.forget(gone)
        return gone
