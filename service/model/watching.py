"""Tells whoever asks what enters the layers' matrices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

Watch = Callable[[nn.Linear, Tensor], None]
"""Gets a matrix and its input, rows first, before any dropout."""

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Watch | None) -> Iterator[None]:
    """What this thread computes meanwhile is told to `watch`, and what other threads compute is
    not."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def tell(matrix: nn.Linear, x_RI: Tensor) -> None:
    """Called by the layers."""
    watch = _watch.get()
    if watch is not None:
        watch(matrix, x_RI)
