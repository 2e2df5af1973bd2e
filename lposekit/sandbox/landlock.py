"""Landlock: which files a process may open by path, for decoders. Nothing else may be opened from then on, for ever.

What Landlock does not look at: whether a name exists, and its size (`stat`), and descriptors that were open before.

Sources: the kernel's `linux/landlock.h` and Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of x86_64 and aarch64
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_FILE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_FILES_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _TCP_SINCE = 0b11, 4  # bind, connect
_SCOPES, _SCOPES_SINCE = 0b11, 6  # sockets without a file, signals: of processes outside
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE


def version() -> int:
    """Landlock's version in this kernel; 0: it has none, or it is switched off."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return 0
    return max(_call(_CREATE_RULESET, None, 0, _VERSION_FLAG), 0)


def restrict(reads: Iterable[str], writes: Iterable[str]) -> bool:
    """Let this thread, and those that it starts, open files below these places only; False where the kernel cannot.

    Below `writes` files may also be made, changed and removed. Places that do not exist are left out. The process must
    have given up new privileges before (PR_SET_NO_NEW_PRIVS).
    """
    found = version()
    if not found:
        return False
    handled = _FILES_OF_VERSION[min(found, max(_FILES_OF_VERSION))]
    attributes = struct.pack(
        "<QQQ", handled, _TCP if found >= _TCP_SINCE else 0, _SCOPES if found >= _SCOPES_SINCE else 0
    )
    size = 24 if found >= _SCOPES_SINCE else 16 if found >= _TCP_SINCE else 8
    rules = _call(_CREATE_RULESET, attributes, size, 0)
    if rules < 0:
        return False
    try:
        for access, paths in ((_READ, reads), (_WRITE, writes)):
            for path in paths:
                _allow(rules, path, access & handled)
        return _call(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _OF_A_FILE
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("<Qi", access, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call(ctypes.c_long(number), *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
