"""What operators decide while the trainer runs: looked up before every version."""

import logging

from service.errors import VersionError, VersionExists
from service.histories.erased import Erased
from service.versions import Decisions, VersionDirectory
from trainer.cuts import Orders
from trainer.erasing import erase
from trainer.gate import Gate
from trainer.publish import Publisher
from trainer.teaching import Teacher

_log = logging.getLogger(__name__)


class Operators:
    """Reads the decisions of a version directory and has the trainer obey."""

    def __init__(self, directory: VersionDirectory, known: Decisions, obeyed: Decisions) -> None:
        """`known`: decisions that the trainer began with; `obeyed`: those that its state has
        obeyed."""
        self._directory, self._known, self._obeyed = directory, known, obeyed
        self._wipe = False
        self.erased = Erased.of(known.erased)
        """Whose earlier actions are not to be learned."""

    def orders(self) -> Orders:
        """For the version that is cut now."""
        wipe, self._wipe = self._wipe, False
        return Orders(self._obeyed.generation, self.erased, wipe)

    def obey(self, teacher: Teacher, publisher: Publisher) -> bool:
        """Do what was decided since the last time; whether a version has to tell of it.

        Raises VersionExists if training goes on from an earlier version than this trainer's.
        """
        before = self._known
        try:
            self._known = self._directory.decisions()
        except (OSError, VersionError) as error:
            _log.error("decisions cannot be read, and are read again: %s", error)
        for generation, version in self._known.branches:
            if generation > before.generation:
                raise VersionExists(
                    f"decision {generation} lets training go on from version {version}: start the "
                    "trainer again, and it begins there"
                )
        done, self._obeyed = self._obeyed, self._known
        if self._known.generation <= done.generation:
            return False
        publisher.wait()  # what is being judged is judged by what was known
        if self._known.released - done.released:
            publisher.gate.release()
        if self._known.erase_generation > done.erase_generation:
            self._wipe = True
            self._erase(teacher, publisher.gate, Erased.of(done.erased))
        return True

    def _erase(self, teacher: Teacher, gate: Gate, before: Erased) -> None:
        self.erased = Erased.of(self._known.erased)
        new = self.erased.since(before)
        erase(teacher.state, teacher.segments, teacher.inspection, new)
        gate.erase(set(new.user_M.tolist()))
