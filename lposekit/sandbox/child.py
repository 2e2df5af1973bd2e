"""The child's side of `sandbox`: a program that does calls until its parent hangs up."""

from __future__ import annotations

import importlib
import resource
import socket
import sys
import time
from collections.abc import Callable

from lposekit.errors import Rejected
from lposekit.sandbox.arena import Arena
from lposekit.sandbox.child_limits import die_with_parent
from lposekit.sandbox.confinement import Places, confine, give_up_privileges
from lposekit.sandbox.messages import ANSWER, BEAT, MESSAGE, OUT_OF_MEMORY, REJECTED
from lposekit.sandbox.slots import mapped_by_child

_BEAT_EVERY_S = 0.05
_RESERVED_BYTES = 512 * 2**20  # address space that thread stacks and malloc arenas reserve and do not use

_control: socket.socket | None = None
_last_beat_s = 0.0
_slot: memoryview | None = None


def beat() -> None:
    """Tell the parent that the target is alive. Does nothing outside a sandbox; cheap enough for every frame."""
    global _last_beat_s
    if _control is not None and time.monotonic() - _last_beat_s >= _BEAT_EVERY_S:
        _last_beat_s = time.monotonic()
        _control.send(MESSAGE.pack(BEAT, 0, 0, -1))


def answer_buffer(num_bytes: int) -> memoryview | None:
    """Shared memory for the large array of this call's answer: an array that lies there goes to the parent without a
    copy. None where there is none of the size, and outside a sandbox."""
    return _slot[:num_bytes] if _slot is not None and num_bytes <= len(_slot) else None


def serve(parent_pid: int, slot_bytes: int, control_fd: int, arena_fd: int, slots_fd: int = -1) -> None:
    """Main loop of the child: one introduction, then calls, until the parent hangs up."""
    global _control
    die_with_parent(parent_pid)
    give_up_privileges()
    _control = socket.socket(fileno=control_fd)
    arena, slots = Arena(arena_fd), mapped_by_child(slots_fd, slot_bytes)
    _, place, length, _ = MESSAGE.unpack(_control.recv(MESSAGE.size))
    introduction = arena.read(place, length)
    target = _imported(introduction["target"])
    _limit_memory(introduction["memory_limit_bytes"])
    confine(Places(**introduction["places"]))
    _control.send(MESSAGE.pack(ANSWER, *arena.write(None), -1))
    while message := _control.recv(MESSAGE.size):  # empty: the parent hung up
        _control.send(_served(arena, slots, message, target, introduction["init_args"]))


def _served(
    arena: Arena,
    slots: list[memoryview],
    message: bytes,
    target: Callable[..., object],
    init_args: dict[str, object],
) -> bytes:
    """Do one call; returns the message that answers it."""
    global _slot
    _, place, length, slot = MESSAGE.unpack(message)
    _slot = slots[slot] if slot >= 0 else None
    try:
        answer = target(arena.read(place, length), **init_args)
        return MESSAGE.pack(ANSWER, *arena.write(answer, _slot), -1)
    except Rejected as rejected:
        answer = {"outcome": rejected.outcome.value, "detail": rejected.detail}
        return MESSAGE.pack(REJECTED, *arena.write(answer), -1)
    except MemoryError:
        return MESSAGE.pack(OUT_OF_MEMORY, 0, 0, -1)


def _imported(target: str) -> Callable[..., object]:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


def _limit_memory(limit_bytes: int) -> None:
    """Bound what is allocated from now on: private memory strictly, address space with room for reservations."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = [int(field) for field in file.read().split()]
    total, data = pages[0] * resource.getpagesize(), pages[5] * resource.getpagesize()
    _set_limit(resource.RLIMIT_DATA, data + limit_bytes)
    _set_limit(resource.RLIMIT_AS, total + limit_bytes + _RESERVED_BYTES)
    _set_limit(resource.RLIMIT_FSIZE, limit_bytes)
    _set_limit(resource.RLIMIT_CORE, 0)


def _set_limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    # under its own name: targets that import `beat` must find the module that serves, not a second copy of it
    importlib.import_module("lposekit.sandbox.child").serve(*(int(argument) for argument in sys.argv[1:]))
