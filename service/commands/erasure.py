"""An erasure: decided once, then watched until every version and every server has obeyed it."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from rich.console import Console

from service.actions import Id, id_problem, key_of
from service.client import Client, RequestError
from service.commands.action_table import CANONICAL_INTEGER
from service.commands.folder import DataFolder
from service.errors import InputError, VersionError
from service.intake_settings import IntakeSettings
from service.settings import Settings
from service.versions import VersionDirectory
from service.versions.decisions import Erase
from service.versions.settings import versions_of

LOOK_SECONDS = 0.2
ASK_SECONDS = 5.0
"""Longest wait for one answer of a server."""
REMAINS = (
    "raw records in the stream, rejected ones among them, until you remove them there",
    "what dense weights and item vectors have learned from the person",
    "lines of logs that name users by a hash",
    "your backups of versions",
)


@dataclass(frozen=True)
class Place:
    """Somewhere that knows of people: the versions, or a server. `says` is its state in words."""

    name: str
    done: bool
    says: str


@dataclass(frozen=True)
class Report:
    """How far an erasure is. `generation` is the number of its decision, `before` event time in
    seconds since the epoch: what the user did up to then is gone."""

    complete: bool
    generation: int
    keys: tuple[int, ...]
    before: float
    places: tuple[Place, ...]
    remains: tuple[str, ...] = REMAINS

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    def show(self, console: Console) -> None:
        """The same for people."""
        console.print(f"decision {self.generation}: events up to {self.before:.3f} are erased")
        for place in self.places:
            console.print(f"{'done   ' if place.done else 'waiting'} {place.name}: {place.says}")
        console.print("complete" if self.complete else "not complete yet; the decision stands")
        console.print("not undone: " + "; ".join(self.remains))


@dataclass(frozen=True)
class Erasure:
    """A decision to erase, and who has to obey it."""

    directory: VersionDirectory
    servers: Sequence[str]
    keys: tuple[int, ...]
    before_ms: int
    generation: int

    @classmethod
    def decided(
        cls, folder: DataFolder, user: str, servers: Sequence[str], settings: Path | None
    ) -> "Erasure":
        """Write the decision. It covers every action that a stream may have taken in by now.

        An action's time may lie `intake.max_future_seconds` ahead of the clock, so far the erasure
        reaches. Raises InputError for a folder, an id or a url that cannot be used.
        """
        path = settings or (folder.settings if folder.settings.exists() else None)
        chosen = Settings.load(path)
        directory = versions_of(chosen, folder.root)
        if not folder.stream.exists() and directory.latest() is None:
            raise InputError(f"{folder.root} holds neither a stream nor versions; mend --data")
        keys = tuple(key_of(one) for one in readings(user))
        for url in servers:
            _check_url(url)
        ahead_seconds = chosen.section("intake", IntakeSettings).max_future_seconds
        now, generation = time.time(), 0
        before_ms = round((now + ahead_seconds) * 1000)
        for key in keys:
            generation = directory.decide(Erase(user=key, before_ms=before_ms, at=now))
        return cls(directory, servers, keys, before_ms, generation)

    def awaited(self, seconds: float) -> Report:
        """Look until everyone has obeyed or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            places = tuple(self._places())
            complete = all(place.done for place in places)
            if complete or time.monotonic() >= deadline:
                before = self.before_ms / 1000
                return Report(complete, self.generation, self.keys, before, places)
            time.sleep(LOOK_SECONDS)

    def _places(self) -> Iterator[Place]:
        yield self._versions()
        for url in self.servers:
            yield self._server(url)

    def _versions(self) -> Place:
        """Done when there are versions, and none that was cut in ignorance of the decision."""
        try:
            numbers = self.directory.numbers()
            known = [self.directory.manifest(number).decisions for number in numbers]
        except VersionError as error:
            return Place("versions", False, str(error))
        older = [n for n, known in zip(numbers, known, strict=True) if known < self.generation]
        if not numbers:
            return Place("versions", False, "there are none yet; the trainer's first one will obey")
        if older:
            words = "of before; they go when the trainer publishes its next version"
            return Place("versions", False, f"{_named(older)} {words}")
        return Place("versions", True, f"{_named(numbers)}, none from before")

    def _server(self, url: str) -> Place:
        try:
            with Client(url, ASK_SECONDS, patience_seconds=0.0) as client:
                obeyed: object = client.versions().get("generation")
        except (RequestError, httpx.HTTPError) as error:
            return Place(url, False, f"cannot be asked: {error}")
        if not isinstance(obeyed, int):
            return Place(url, False, "is too old to say which decisions it obeys")
        return Place(url, obeyed >= self.generation, f"obeys decisions up to {obeyed}")


def readings(user: str) -> list[Id]:
    """The ids that a word of a command line may stand for: itself and, where it is written like
    one, the integer. Raises InputError for one that no user can have."""
    if problem := id_problem(user):
        raise InputError(f"user {user[:40]!r} {problem}; give the id as it stands in actions")
    integer = int(user) if CANONICAL_INTEGER.fullmatch(user) else None
    return [user] if integer is None or id_problem(integer) else [user, integer]


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"--server {url} is no url: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"--server {url} is no url of a server, such as http://127.0.0.1:8080")


def _named(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"version {first}" if first == last else f"versions {first} to {last}"
