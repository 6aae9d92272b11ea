"""What a request draws of what scores might be (`service.model.posterior`)."""

from typing import NamedTuple


class Draw(NamedTuple):
    """What one request asks of the posterior."""

    scale: float
    """Of its standard deviation."""
    seed: int
    """From 0 on. The same one gives the same draws."""
