"""Ties a program to the life of the process that starts it.

    python child_limits.py PARENT_PID MAX_FILE_BYTES PROGRAM ARGUMENT...

becomes PROGRAM, which the kernel kills as soon as its parent is dead (a killed worker cannot clear up after itself),
and which can write no file larger than MAX_FILE_BYTES.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends: the thread of it, to be exact, that started us."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)


def limit_file_size(num_bytes: int) -> None:
    """No file that this process writes may become larger; the hard limit stays in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    limit_file_size(int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
