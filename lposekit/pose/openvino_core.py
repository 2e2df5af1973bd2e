"""OpenVINO's entry, one for all networks of a process."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def core() -> Any:
    """The one `openvino.Core` of this process, which is never let go.

    Its CPU plugin gives the main thread a stack for signal handlers, and takes it back when it is destroyed. Of several
    that are destroyed in another order than the reverse, one leaves a stack that is gone: the next signal, such as the
    end of a child, then kills the process.
    """
    import openvino

    return openvino.Core()
