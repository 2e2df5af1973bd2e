"""Named points at which a test kills the process for real. Without the environment variable they do nothing.

`LPOSEKIT_FAULT="NAME@MARKER"`: the first process that reaches the point NAME creates the file MARKER and is killed
by SIGKILL; later ones, the retry among them, pass.
"""

from __future__ import annotations

import os
import signal


def fault_point(name: str) -> None:
    """Die here, once, if a test asked for it."""
    spec = os.environ.get("LPOSEKIT_FAULT")
    if not spec:
        return
    wanted, _, marker = spec.partition("@")
    if wanted != name:
        return
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
