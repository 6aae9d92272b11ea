"""What the trainer hands over for a version: the state's changes as of one block boundary."""

from dataclasses import dataclass, replace
from typing import Any

from service.blocks import Block, Offsets
from service.histories.erased import Erased
from service.histories.segments import Segment, concatenated
from trainer.gathering import Trials
from trainer.state import StateDelta


@dataclass(frozen=True)
class Position:
    """Where in the streams a block boundary lies."""

    offsets: Offsets
    topic_ids: dict[str, str]
    largest_ms: dict[str, int]
    watermark_ms: int
    first_append_ms: int = 0
    """When the oldest record learned since the last cut was appended; 0: nothing was learned."""
    last_append_ms: int = 0
    """When the newest one was."""

    def behind(self, block: Block, largest_ms: dict[str, int]) -> "Position":
        """The boundary behind the next block."""
        return Position(
            block.offsets, self.topic_ids, largest_ms, block.watermark_ms,
            self.first_append_ms or block.first_append_ms,
            max(self.last_append_ms, block.last_append_ms),
        )  # fmt: skip

    @property
    def newest_ms(self) -> int:
        """The latest event time of all: goes on while any partition speaks."""
        return max(self.largest_ms.values(), default=0)


@dataclass(frozen=True)
class Orders:
    """What has been decided, as far as the trainer had obeyed when it cut a version."""

    generation: int
    erased: Erased
    """All erased users; what they did up to then is in no file of the version."""
    wipe: bool
    """Whether older files may hold it: then all are made anew, and older versions go."""

    def after(self, earlier: "Orders") -> "Orders":
        """These orders, if no version was written by earlier ones."""
        return Orders(self.generation, self.erased, self.wipe or earlier.wipe)


@dataclass(frozen=True)
class Cut:
    """Everything a version holds."""

    delta: StateDelta
    whole: bool
    """Whether the delta is against nothing."""
    segment: Segment
    trials: Trials
    model: dict[str, Any]
    position: Position
    block: int
    blocks: list[int]
    counters: dict[str, int | float]
    metrics: dict[str, float]
    history_cursor: int
    orders: Orders
    join_from: Offsets
    """The first records that joining may still need."""

    def with_earlier(self, failed: "Cut") -> "Cut":
        """This cut after one whose version was never written, its delta having been put back."""
        first_ms = failed.position.first_append_ms or self.position.first_append_ms
        return replace(
            self,
            position=replace(self.position, first_append_ms=first_ms),
            segment=concatenated([failed.segment, self.segment]),
            blocks=failed.blocks + self.blocks,
            orders=self.orders.after(failed.orders),
        )
