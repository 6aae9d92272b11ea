"""Precisions of what is published, the coarsest first."""

PRECISIONS = ("int4", "int8", "fp16", "fp32")


def check_precision(what: str, precision: str) -> None:
    """Raise ValueError for a precision that does not exist."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"{what} cannot be in precision {precision!r}; known are {', '.join(PRECISIONS)}"
        )
