"""Functions that misbehave inside a sandbox; they stand for native decoders."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from lposekit.errors import Outcome, Rejected
from pipelines.sandbox import sandbox

IMAGE_HWC = np.arange(512 * 683 * 3, dtype=np.uint32).astype(np.uint8).reshape(512, 683, 3)


def echo(payload: Any, **init_args: Any) -> Any:
    return {"payload": payload, "pid": os.getpid(), **init_args}


def image(payload: Any) -> Any:
    return {"rgb": IMAGE_HWC, "num_bytes": len(payload["data"])}


def misbehave(payload: Any) -> Any:
    return globals()[f"_{payload['how']}"](payload)


def _segfault(payload: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _abort(payload: Any) -> None:
    os.abort()


def _killed(payload: Any) -> str:
    """Killed by SIGKILL, as by the kernel that needs memory, in the first ``times`` calls, which a file counts."""
    with open(payload["counter"], "a+", encoding="ascii") as file:
        file.seek(0)
        calls = len(file.read())
        file.write("x")
    if calls < payload["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def _exit(payload: Any) -> None:
    os._exit(3)


def _raise(payload: Any) -> None:
    raise KeyError("no such codec")


def _reject(payload: Any) -> None:
    raise Rejected(Outcome.CORRUPT, "broken: half of it")


def _loop(payload: Any) -> None:
    while True:
        pass


def _hold_the_gil(payload: Any) -> None:
    ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the lock, as decord does when it hangs


def _allocate(payload: Any) -> int:
    return int(np.ones(payload["num_bytes"], np.uint8).sum())


def _allocate_bit_by_bit(payload: Any) -> int:
    return len([bytearray(2**20) for _ in range(payload["num_bytes"] // 2**20)])


def _beat_then_answer(payload: Any) -> str:
    for _ in range(payload["beats"]):
        time.sleep(0.1)
        sandbox.beat()
    return "done"


def _beat_then_hold_the_gil(payload: Any) -> None:
    _beat_then_answer(payload)
    _hold_the_gil(payload)


def _start_a_process_and_hang(payload: Any) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    with open(payload["pid_file"], "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {child.pid} ")
    time.sleep(1000)


def _environment(payload: Any) -> dict[str, str]:
    return dict(os.environ)


def _modules(payload: Any) -> list[str]:
    return sorted(sys.modules)


def _print_much(payload: Any) -> str:
    for _ in range(200):
        os.write(1, b"noise\n" * 10000)
        os.write(2, b"warning\n" * 10000)
    return "done"


def _forge(payload: Any) -> None:
    """Answer past the library, as a decoder that its input has taken over could."""
    assert sandbox._control is not None
    fd = next(fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_arena(fd))
    os.pwrite(fd, payload["text"], 0)
    sandbox._control.send(sandbox._MESSAGE.pack(payload["kind"], 0, payload.get("length", len(payload["text"]))))
    time.sleep(1000)


def _is_arena(fd: int) -> bool:
    try:
        return "sandbox-arena" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False
