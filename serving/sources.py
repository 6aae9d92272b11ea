"""Where the histories that rankings see come from."""

import threading
from collections.abc import Callable
from typing import Protocol

from service.histories.local import Histories
from serving.engine import Tables

History = Callable[[Tables], Histories]
"""One user's history, for the engine's thread to take when the ranking's turn has come."""


class HistorySource(Protocol):
    """Two exist: `fresh.HistoryFollower`, which keeps all histories in this process, and
    `remote.RemoteHistories`, which asks Redis for one at a time."""

    caught_up: threading.Event
    """Set once rankings may be asked for."""
    obeyed: int
    """Number of the last operator's decision that these histories know of."""

    def start(self) -> None:
        """Begin to follow whatever has to be followed."""
        ...

    def wake(self) -> None:
        """Something was appended to the log by this process."""
        ...

    def close(self) -> None:
        """Stop."""
        ...

    def of(self, user_key: int) -> History:
        """A user's history, all that is kept; it never fails, and is never waited for long."""
        ...
