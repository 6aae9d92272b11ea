"""What the standard library leaves out about files."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Return when the contents of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
