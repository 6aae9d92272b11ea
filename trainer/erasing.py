"""Erasure in the trainer: everything that is kept by user, between two blocks."""

from service.histories.erased import Erased, erase_from
from service.histories.segments import SegmentLog
from trainer.inspection import Inspection
from trainer.state import State


def erase(state: State, segments: SegmentLog, inspection: Inspection, erased: Erased) -> None:
    """Drop what histories, open impressions and kept batches hold of erased users.

    The log is told, so that whoever restores the segments has the same histories. Kept batches do
    not say whose they are: all of them go. Dense weights and item rows are not unlearned; what is
    read later goes through `Block.without`.
    """
    done = erase_from(state.histories, erased)
    segments.append(done.events, done.ordinal_T, done.forgotten)
    state.joiner.erase(erased)
    for file in inspection.folder.glob("*.safetensors"):
        file.unlink()
