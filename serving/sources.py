"""Where the histories that rankings see come from."""

import threading
from typing import Protocol


class HistorySource(Protocol):
    """Two exist: `fresh.HistoryFollower`, which keeps all histories in the engine's tables, and
    `remote.RemoteHistories`, which asks Redis for those of the requests at hand."""

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
