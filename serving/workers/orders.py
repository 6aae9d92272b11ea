"""What a worker is told at its start: JSON on its standard input."""

from typing import Any

import msgspec


class Told(msgspec.Struct, frozen=True):
    """What `python -m serving` was told; a worker that starts later knows nothing else."""

    data: str
    settings: dict[str, Any]
    host: str
    port: int
    log_level: str
    log_format: str | None


class Orders(msgspec.Struct, frozen=True):
    """That, and the descriptors that the worker inherits."""

    told: Told
    link: int
    """The worker's end of the socket to the engine."""
    listener: int
    """The socket on which all workers accept connections."""
    spent: int
    """Memory in which all workers count rates."""
