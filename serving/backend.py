"""What stands behind the routes: the one thing of a server that may be in another process."""

import asyncio
from typing import Any, Protocol

from serving.questions import Question, Ranking


class Backend(Protocol):
    """Tables, versions and what follows the log. Two exist: `core.Core`, in this process, and
    `workers.remote.RemoteCore`, which asks the engine's process. All methods but `appended` are
    for the event loop's thread."""

    async def start(self) -> None:
        """Begin to answer."""
        ...

    def ask(self, question: Question) -> "asyncio.Future[Ranking]":
        """A ranking; cancelled in time it is not computed. Raises Problem 429 or 503, as awaiting
        does, which raises too what the engine raised."""
        ...

    def appended(self, topic: str) -> None:
        """Something was appended to this topic: read it now. From any thread."""
        ...

    async def require_ready(self) -> None:
        """Raise Problem 503 unless balancers should send requests here."""
        ...

    async def versions(self) -> dict[str, Any]:
        """What the server serves, could serve and refused to serve."""
        ...

    async def activate(self, number: int) -> dict[str, int | None]:
        """Write the pin that every server obeys: this one at once, others at their next look.
        Raises Problem 404, 409 or 503."""
        ...

    async def unpin(self) -> dict[str, int | None]:
        """Write that every server follows the newest version again. Raises Problem 503."""
        ...

    async def exposition(self) -> bytes:
        """The metrics of the whole server as text."""
        ...

    def drain(self) -> None:
        """This process is about to stop: say "not ready"."""
        ...

    def close(self) -> None:
        """Stop."""
        ...
