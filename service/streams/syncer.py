"""The thread that brings appended records to disk, many appends with one fsync."""

import threading
import time
from collections.abc import Callable

from service.errors import StreamError


class Syncer:
    """Calls `sync` at most `window_seconds` after the first `notice` that it has not covered.

    The window runs while an earlier sync is still under way, so a record is on disk after the
    window plus one fsync, or after two fsyncs if one takes longer than the window.
    """

    def __init__(self, sync: Callable[[], None], window_seconds: float) -> None:
        self._sync = sync
        self._window_seconds = window_seconds
        self._due = 0.0
        self._noticed, self._closing = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stream-sync", daemon=True)
        self._thread.start()

    def notice(self) -> None:
        """Something was appended."""
        if not self._noticed.is_set():
            self._due = time.monotonic() + self._window_seconds
            self._noticed.set()

    def flush(self) -> None:
        """Sync now, in the calling thread. Raises StreamError as `check` does."""
        self.check()
        self._attempt()
        self.check()

    def check(self) -> None:
        """Raise StreamError if a sync failed: what was noticed before it may not be on disk."""
        if self._failure is not None:
            raise StreamError(
                f"a sync failed ({self._failure}), so records may be lost with the power; mend the "
                "disk and restart"
            )

    def close(self) -> None:
        """Stop the thread; a sync under way is finished."""
        self._closing.set()
        self._noticed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._noticed.wait()
            self._closing.wait(self._due - time.monotonic())
            self._noticed.clear()  # what is appended from here on sets its own due time
            if self._closing.is_set():  # asked after the clear, or a close could be slept through
                return
            self._attempt()

    def _attempt(self) -> None:
        """Sync unless it failed before: the kernel reports a lost write once, then forgets it."""
        if self._failure is not None:
            return
        try:
            self._sync()
        except (OSError, StreamError) as error:
            self._failure = error
