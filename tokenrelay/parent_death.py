"""Ties a process to its parent: Linux kills it when its parent ends, however that ends."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here, because between fork and exec nothing can be loaded


def die_with(parent: int) -> None:
    """Has Linux kill this process when its parent ends, or kills it at once if it has ended already.

    Args:
        parent: the process id of the parent, asked for while it surely lived.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # the parent died before we asked
