"""What to do about an error of the disk, for messages that name it."""

import errno
import os

_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "let the user of this process read and write there",
    errno.EPERM: "let the user of this process write there, and use a filesystem with hard links",
    errno.EIO: "look at the system's log: the disk may be failing",
}


def remedied(error: OSError) -> str | None:
    """What the system says and what to do; None for an error that has no remedy of its own."""
    if error.errno not in _REMEDIES:
        return None
    return f"{os.strerror(error.errno)}; {_REMEDIES[error.errno]}"
