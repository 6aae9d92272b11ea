"""Blocks read and decoded in a thread of their own, ahead of the one that is learned."""

import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from service.blocks import Block
from service.intake import Intake

AHEAD = 2
"""Blocks that wait to be learned."""
_LOOK_SECONDS = 0.05
"""How soon a reader that waits for room notices that nobody will learn its block."""


class Read(NamedTuple):
    """A block, and the merge's state behind it: the largest event time of each partition."""

    block: Block
    largest_ms: dict[str, int]


class ReadAhead:
    """Iterates over an intake's blocks, None where live nothing came for `wait_seconds`.

    With `ended`, blocks are full however long that takes, and the last one is followed by the end;
    `stopped` ends that waiting.
    What the reading raised is raised here, behind the blocks before it. What was read is not yet
    learned: the place of the intake says nothing of the state.
    """

    def __init__(
        self,
        intake: Intake,
        records: int,
        wait_seconds: float,
        ended: Callable[[], bool] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._intake, self._records, self._wait_seconds = intake, records, wait_seconds
        self._ended, self._stop = ended, stopped
        self._ready: queue.Queue[Read | BaseException | _End | None] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Read | None]:
        while not isinstance(read := self._ready.get(), _End):
            if isinstance(read, BaseException):
                raise read
            yield read

    def close(self) -> None:
        """Stop reading; what was read and not asked for is dropped."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                read = self._next()
                if read is None and self._ended is not None:
                    break
                self._hand_over(read)
            self._hand_over(_End())
        except BaseException as error:  # else nobody would hear of it, and wait for ever
            self._hand_over(error)

    def _next(self) -> Read | None:
        if self._ended is None:
            block = self._intake.block(self._records, self._wait_seconds)
        else:
            block = self._intake.block(self._records, math.inf, self._ended, self._stopped)
        return Read(block, self._intake.largest_ms) if block is not None else None

    def _stopped(self) -> bool:
        return self._closed.is_set() or self._stop()

    def _hand_over(self, read: "Read | BaseException | _End | None") -> None:
        if read is None and not self._ready.empty():
            return  # silence is news only to one who waits
        while not self._closed.is_set():
            try:
                self._ready.put(read, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                pass


class _End:
    """Nothing follows."""
