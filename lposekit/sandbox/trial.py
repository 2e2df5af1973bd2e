"""What a real child is refused, found out by trying: for `lposekit doctor`."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Callable

from lposekit.sandbox.sandbox import Sandbox, SandboxError

_MEMORY_BYTES = 2**28
_TIMEOUT_S = 60.0
_REFUSED = frozenset({errno.EPERM, errno.EACCES})


def refused_to_a_child() -> dict[str, bool]:
    """Whether a decoder's child is refused {"network", "programs", "files"}; empty where no child can be started."""
    try:
        with Sandbox(f"{__name__}:attempted", memory_limit_bytes=_MEMORY_BYTES) as sandbox:
            return sandbox.call(None, timeout_s=_TIMEOUT_S)
    except (SandboxError, OSError):
        return {}


def attempted(payload: object) -> dict[str, bool]:
    """The sandbox's target: tries what no decoder needs."""
    return {
        "network": _is_refused(lambda: socket.socket().close()),
        "programs": _is_refused(lambda: subprocess.run([sys.executable, "-c", ""], check=False)),
        "files": _is_refused(lambda: open("/etc/passwd", "rb").close()),
    }


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError as error:
        return error.errno in _REFUSED
    return False
