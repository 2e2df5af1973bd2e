"""Functions that misbehave inside a sandbox; they stand for native decoders."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox import child, messages

IMAGE_HWC = np.arange(512 * 683 * 3, dtype=np.uint32).astype(np.uint8).reshape(512, 683, 3)


def echo(payload: Any, **init_args: Any) -> Any:
    return {"payload": payload, "pid": os.getpid(), **init_args}


def image(payload: Any) -> Any:
    return {"rgb": IMAGE_HWC, "num_bytes": len(payload["data"])}


def filled_in_place(payload: dict[str, int]) -> dict[str, object]:
    """As `filled`, in the shared memory of the answer where there is some; a second array beside it."""
    buffer = child.answer_buffer(payload["num_bytes"])
    array = np.empty(payload["num_bytes"], np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
    array[:] = payload["value"]
    return {
        "array": array,
        "in_place": buffer is not None,
        "other": np.full(len(array), payload["value"] + 1, np.uint8),
    }


def filled(payload: Any) -> Any:
    return np.full(payload["num_bytes"], payload["value"], np.uint8)


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
        child.beat()
    return "done"


def _beat_then_hold_the_gil(payload: Any) -> None:
    _beat_then_answer(payload)
    _hold_the_gil(payload)


def _connect(payload: Any) -> None:
    socket.create_connection(("127.0.0.1", payload["port"]), timeout=5)


def _open(payload: Any) -> str:
    with open(payload["path"], encoding="utf-8") as file:
        return file.read()


def _write(payload: Any) -> None:
    with open(payload["path"], "w", encoding="utf-8") as file:
        file.write("decoded")


def _run(payload: Any) -> None:
    subprocess.run([payload["program"]], check=True)


def _fork(payload: Any) -> None:
    if os.fork() == 0:
        os._exit(0)


def _start_a_thread(payload: Any) -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_started).result()


def _started() -> str:
    return "done"


def _kill_the_parent(payload: Any) -> None:
    os.kill(os.getppid(), signal.SIGTERM)


def _leave_the_group(payload: Any) -> None:
    os.setsid()


def _outlive_the_parent(payload: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(1, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _ring(payload: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).syscall(425, 4, ctypes.create_string_buffer(512)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")


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
    assert child._control is not None
    fd = next(fd for fd in range(4096) if _is_arena(fd))
    os.pwrite(fd, payload["text"], 0)
    child._control.send(messages.MESSAGE.pack(payload["kind"], 0, payload.get("length", len(payload["text"])), -1))
    time.sleep(1000)


def _is_arena(fd: int) -> bool:
    try:
        return "sandbox-arena" in os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return False
