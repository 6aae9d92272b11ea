"""The log of decisions in a storage: read what is new, append if nobody was faster."""

import re
import secrets

from service.errors import VersionError
from service.versions.decisions import Decision, Decisions, decision_name, decode, encode
from service.versions.storage import Storage

_DECISION = re.compile(r"decisions/(\d{8,})\.json")


class DecisionLog:
    """Safe for many processes and threads at once. What was read is never read again."""

    def __init__(self, storage: Storage, url: str) -> None:
        self._storage, self._url = storage, url
        self._known = Decisions()

    def read(self) -> Decisions:
        """All decisions, as of now. Raises VersionError for a damaged, missing or unknown one."""
        known = self._known  # once: other threads read, too
        unread = range(known.generation + 1, self._newest() + 1)
        later = [decode(generation, self._bytes(generation)) for generation in unread]
        if later:
            self._known = known = known.followed_by(*later)
        return known

    def until(self, generation: int) -> Decisions:
        """The decisions up to a generation."""
        known = self.read()
        if known.generation <= generation:
            return known
        early = [decode(one, self._bytes(one)) for one in range(1, generation + 1)]
        return Decisions().followed_by(*early)

    def append(self, decision: Decision, aside: str) -> int:
        """Make a decision; returns its generation. Whoever finds a number taken takes the next.

        `aside` is a folder that nobody else uses. Raises VersionError if the decisions before it
        cannot be read: nobody should decide upon a state they do not know.
        """
        writer = secrets.token_hex(8)
        try:
            while True:
                generation = self.read().generation + 1
                name, data = decision_name(generation), encode(generation, writer, decision)
                try:
                    self._storage.create(name, data, f"{aside}/decision.json")
                except FileExistsError:
                    # A put that was retried after a lost answer finds itself.
                    if self._bytes(generation) != data:
                        continue
                return generation
        finally:
            self._storage.remove(f"{aside}/decision.json")

    def _newest(self) -> int:
        found = map(_DECISION.fullmatch, self._storage.names("decisions"))
        return max((int(match[1]) for match in found if match), default=0)

    def _bytes(self, generation: int) -> bytes:
        name = decision_name(generation)
        try:
            return self._storage.read(name)
        except FileNotFoundError:
            raise VersionError(f"{name} is missing from {self._url}") from None
        except OSError as error:
            raise VersionError(f"{name} cannot be read from {self._url}: {error}") from error
