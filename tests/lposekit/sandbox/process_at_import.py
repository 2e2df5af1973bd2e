"""A target whose module starts a program while it is imported, before the child is confined."""

from __future__ import annotations

import subprocess
import time
from typing import Any

_CHILD = subprocess.Popen(["sleep", "1000"])


def pids_then_hang(payload: Any) -> list[int]:
    if payload["hang"]:
        time.sleep(1000)
    return [_CHILD.pid]
