"""Becomes `python -m MODULE ...` after asking the kernel to end it when its parent ends.

Run as a script by `service.commands.processes`: a step between fork and exec would be unsafe in a
parent that has threads, and a step inside the trainer or the server would tie them to this command.
Linux only; elsewhere a parent killed by SIGKILL leaves its children to be stopped by hand.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arguments: the parent's process id, the module, its arguments."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])


if __name__ == "__main__":
    main()
