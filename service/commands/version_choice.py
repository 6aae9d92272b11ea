"""Operators' decisions about versions: which one servers answer from, and where training goes on.

Every server that follows the directory obeys within its next look; a trainer at its next version.
"""

import json
import time
from dataclasses import asdict, dataclass

from rich.console import Console

from service.errors import InputError, VersionError
from service.versions import Checkpoint, Manifest, Snapshot, VersionDirectory
from service.versions.decisions import Branch, Pin, Release


@dataclass(frozen=True)
class Chosen:
    """A decision as it was written: `generation` is its number, `served` what servers are to
    answer from now."""

    decision: str
    version: int | None
    generation: int
    served: int | None
    branched: bool
    note: str

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def show(self, console: Console) -> None:
        """One line."""
        console.print(self.note, soft_wrap=True, markup=False, highlight=False)


def roll_back(directory: VersionDirectory, number: int, trainer: bool) -> Chosen:
    """Pin a version; with `trainer`, training goes on from it as well.

    Raises InputError for a version that is unknown, abandoned or held, VersionError for one that
    cannot be read; then nothing is decided.
    """
    manifest = known(directory, number)
    if objection := directory.objection(number):
        raise InputError(
            f"version {number} {objection}, or choose another of `freshet versions ls`"
        )
    _check_readable(directory, manifest, trainer)
    generation = directory.decide(Pin(number, at=time.time()))
    note = f"version {number} is pinned (decision {generation}); servers answer from it"
    if trainer:
        generation = directory.decide(Branch(number, at=time.time()))
        note += (
            f", and training goes on from it (decision {generation}): a running trainer stops at "
            "its next version, start it again. Later versions are abandoned"
        )
    note += "; `freshet versions unpin` follows the newest version again"
    return Chosen("rollback", number, generation, directory.target(), trainer, note)


def unpin(directory: VersionDirectory) -> Chosen:
    """Follow the newest version again. Raises InputError if none is pinned."""
    pinned = directory.decisions().pinned
    if pinned is None:
        raise InputError(f"no version of {directory.url} is pinned; servers follow the newest one")
    generation, served = directory.decide(Pin(None, at=time.time())), directory.target()
    note = (
        f"version {pinned} is not pinned any more (decision {generation}); servers answer from the "
        f"newest version, {served}"
    )
    return Chosen("unpin", pinned, generation, served, False, note)


def release(directory: VersionDirectory, number: int) -> Chosen:
    """Let servers have a version that the gate held.

    Raises InputError for a version that is unknown, abandoned or not held, VersionError for one
    that cannot be read.
    """
    manifest = known(directory, number)
    if number not in directory.live():
        raise InputError(f"version {number} {directory.objection(number)}; nobody may have it")
    if manifest.held is None:
        raise InputError(f"version {number} is not held; there is nothing to release")
    if number in directory.decisions().released:
        raise InputError(f"version {number} was released before; there is nothing to release")
    _check_readable(directory, manifest, trainer=False)
    generation, served = directory.decide(Release(number, at=time.time())), directory.target()
    note = f"version {number} is released (decision {generation}); servers answer from {served}"
    return Chosen("release", number, generation, served, False, note)


def known(directory: VersionDirectory, number: int) -> Manifest:
    """The manifest of a version. Raises InputError if it is not there."""
    numbers = directory.numbers()
    if number not in numbers:
        known = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise InputError(f"version {number} is not in {directory.url}, which has {known}")
    return directory.manifest(number)


def _check_readable(directory: VersionDirectory, manifest: Manifest, trainer: bool) -> None:
    try:
        Snapshot.read(directory, manifest.number)
        if trainer:
            Checkpoint.chain(directory, manifest)
            directory.verify(manifest.number, "histories")
    except VersionError as error:
        raise VersionError(
            f"version {manifest.number} cannot be used: {error}; choose another of "
            "`freshet versions ls`"
        ) from None
