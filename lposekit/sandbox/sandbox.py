"""Runs native decoders in a child process that may crash, hang or eat memory without harm to its parent.

    sandbox = Sandbox("pipelines.image.decode:decode_payload", memory_limit_bytes=2**30, init_args={...})
    answer = sandbox.call({"data": body}, timeout_s=10)

The child is a fresh interpreter (`python -m lposekit.sandbox.child`), never a fork of a process with threads, so it
works inside Ray actors too. It serves many calls; the first call after its death starts the next one. What it answers
is parsed, never unpickled (see `arena`), so a decoder that its input has taken over gains nothing here. Control
messages are 21 bytes through a socket that keeps message borders: none can be half sent, so no read can outlast its
deadline. Once its imports are done it is confined to decoding (see `confinement`).

Linux only (PR_SET_PDEATHSIG, memfd_create, RLIMIT_DATA on anonymous memory).
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache
from typing import Any, NoReturn

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.arena import Arena
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.messages import ANSWER, BEAT, CALL, MESSAGE, OUT_OF_MEMORY, REJECTED
from lposekit.sandbox.slots import Slot, Slots

CHILD = "lposekit.sandbox.child"
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME")
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class SandboxError(Exception):
    """The child did not answer. It is dead by now; the next call starts another one."""


class SandboxCrashed(SandboxError):
    """The child died: by a signal, by an exception other than `Rejected`, or after an answer that cannot be read."""


class SandboxKilled(SandboxCrashed):
    """The child died by a signal that others send: the kernel that needs memory, a scheduler, whoever clears up after a
    driver that died. It says nothing about the payload; see `lposekit.sandbox.killed`."""


class SandboxTimeout(SandboxError):
    """The call outlasted `timeout_s`, or gave no sign of life for `heartbeat_timeout_s`."""


class SandboxMemory(SandboxError):
    """The call asked for more memory than its limit."""


class Sandbox:
    """One function in one killable child process. Calls from several threads wait for each other.

    target: "package.module:function", called in the child as `function(payload, **init_args)`. It may call `beat()`,
        and raise `Rejected`, which is raised again here. The child imports this module and nothing else.
    memory_limit_bytes: what a call may allocate on top of the target's imports, so that it means the same everywhere.
    init_args: further keyword arguments; they and the payload are trees as in `arena`.
    places: the files and folders that it may open by path, beside its program; default: none.
    slots, slot_bytes: so many answers at a time have their large array in shared memory, read-only and without a copy,
        as long as somebody holds it; further and larger arrays are copied. `slot_bytes` is a multiple of a page.
    start_timeout_s: longest time for the start of the child, its imports included.
    """

    def __init__(
        self,
        target: str,
        *,
        memory_limit_bytes: int,
        init_args: Mapping[str, object] | None = None,
        places: Places | None = None,
        slots: int = 0,
        slot_bytes: int = 2 * 2**20,
        start_timeout_s: float = 120.0,
    ) -> None:
        self._introduction = {
            "target": target,
            "memory_limit_bytes": memory_limit_bytes,
            "init_args": dict(init_args or {}),
            "places": asdict(places or Places()),
        }
        self._slots = slots, slot_bytes
        self._start_timeout_s = start_timeout_s
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def call(
        self,
        payload: object,
        *,
        timeout_s: float | None,
        heartbeat_timeout_s: float | None = None,
        on_beat: Callable[[], None] | None = None,
    ) -> Any:
        """The target's answer to `payload`. Without `timeout_s` it may take as long as it gives signs of life, each of
        which calls `on_beat`.

        Raises `SandboxTimeout`, `SandboxMemory`, `SandboxKilled` or `SandboxCrashed`, or the target's own `Rejected`.
        """
        assert timeout_s is not None or heartbeat_timeout_s is not None, "a call that hangs would never end"
        with self._lock:
            if self._child is None or self._child.has_died():
                self._start()
            return self._exchange(payload, timeout_s, heartbeat_timeout_s, on_beat)

    def start(self) -> None:
        """Start the child ahead of the first call."""
        with self._lock:
            if self._child is None:
                self._start()

    def open_to(self, places: Places) -> None:
        """Let later calls open these files and folders, and no others; a child that had other ones is replaced."""
        with self._lock:
            if self._introduction["places"] != asdict(places):
                self._introduction["places"] = asdict(places)
                self._kill()

    def close(self) -> None:
        """Kill the child and what it started. A later call starts another one."""
        with self._lock:
            self._kill()

    @property
    def pid(self) -> int | None:
        """Process id of the child; none before the first call and after a kill."""
        return self._child.process.pid if self._child is not None else None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._kill()
        # PR_SET_PDEATHSIG follows the *thread* that started the child, and a download's threads end with their shard
        self._child = _spawner(os.getpid()).submit(_spawn, self._introduction["target"], *self._slots).result()
        self._exchange(self._introduction, self._start_timeout_s, None)
        self._child.arena = replace(self._child.arena, limit_bytes=self._introduction["memory_limit_bytes"])

    def _exchange(
        self,
        payload: object,
        timeout_s: float | None,
        heartbeat_timeout_s: float | None,
        on_beat: Callable[[], None] | None = None,
    ) -> Any:
        assert self._child is not None
        healthy = False
        try:
            answer = self._child.exchange(payload, timeout_s, heartbeat_timeout_s, on_beat)
            healthy = True
            return answer
        except Rejected:
            healthy = True
            raise
        finally:
            if not healthy:  # whatever happened, Ctrl-C too: nobody knows what the child will send next
                self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


@cache
def _spawner(pid: int) -> ThreadPoolExecutor:
    """The one long-lived thread that starts children; one for each process, since no thread survives a fork."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"sandbox-spawner-{pid}")


def _spawn(name: str, num_slots: int, slot_bytes: int) -> _Child:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ExitStack() as if_none_starts:
        if_none_starts.enter_context(ours)
        arena_fd = os.memfd_create("sandbox-arena")
        if_none_starts.callback(os.close, arena_fd)
        output_fd = os.memfd_create("sandbox-output")
        if_none_starts.callback(os.close, output_fd)
        slots = Slots(num_slots, slot_bytes) if num_slots else None
        if slots is not None:
            if_none_starts.callback(os.close, slots.fd)
        fds = (theirs.fileno(), arena_fd, *([slots.fd] if slots else []))
        numbers = (os.getpid(), slot_bytes if slots else 0, *fds)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", CHILD, *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            pass_fds=fds,
            env=child_environment(),
            process_group=0,  # a kill takes what the decoder started along
        )
        if_none_starts.pop_all()
    return _Child(name, process, ours, Arena(arena_fd), output_fd, slots)


def child_environment() -> dict[str, str]:
    """No credentials, our own import path, one thread to each native library unless the target says otherwise."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class _Child:
    """The parent's side of one child process."""

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        arena: Arena,
        output_fd: int,
        slots: Slots | None,
    ) -> None:
        self.process = process
        self.arena = arena
        self._slots = slots
        self._name = name
        self._control = control
        self._output_fd = output_fd
        fds = (arena.fd, output_fd, *([slots.fd] if slots else []))
        self.kill = weakref.finalize(self, _end, process, control, fds)

    def exchange(
        self,
        payload: object,
        timeout_s: float | None,
        heartbeat_timeout_s: float | None,
        on_beat: Callable[[], None] | None,
    ) -> Any:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        os.ftruncate(self._output_fd, 0)
        slot = self._slots.take() if self._slots else None
        try:
            self._send(payload, slot)
            kind, place, length = self._receive(deadline, timeout_s, heartbeat_timeout_s, on_beat)
            return self._answer(kind, place, length, slot)
        finally:
            if slot is not None:
                slot.unless_used()

    def _send(self, payload: object, slot: Slot | None) -> None:
        try:
            self._control.send(MESSAGE.pack(CALL, *self.arena.write(payload), -1 if slot is None else slot.number))
        except ConnectionError:
            self._raise_crashed()

    def _answer(self, kind: bytes, place: int, length: int, slot: Slot | None) -> Any:
        if kind == OUT_OF_MEMORY:
            raise SandboxMemory(f"{self._name}: asked for more than {self.arena.limit_bytes} bytes of memory")
        try:
            if kind not in (ANSWER, REJECTED):
                raise ValueError(f"a message of the unknown kind {kind!r}")
            answer = self.arena.read(place, length, slot)
            self.arena.empty_if_large()
            rejected = Rejected(Outcome(answer["outcome"]), str(answer["detail"])) if kind == REJECTED else None
        except (ValueError, TypeError, KeyError) as err:
            raise SandboxCrashed(f"{self._name}: the child's answer cannot be read: {err}") from err
        if rejected is not None:
            raise rejected
        return answer

    def _receive(
        self,
        deadline: float,
        timeout_s: float | None,
        heartbeat_s: float | None,
        on_beat: Callable[[], None] | None,
    ) -> tuple[bytes, int, int]:
        while True:
            left_s = deadline - time.monotonic()
            beat_due_first = heartbeat_s is not None and heartbeat_s < left_s
            try:
                self._control.settimeout(max(heartbeat_s if beat_due_first and heartbeat_s else left_s, 1e-6))
                message = self._control.recv(MESSAGE.size)
            except TimeoutError:
                what = f"no sign of life for {heartbeat_s} s" if beat_due_first else f"no answer within {timeout_s} s"
                raise SandboxTimeout(f"{self._name}: {what}") from None
            except ConnectionError:
                message = b""
            if len(message) < MESSAGE.size:
                self._raise_crashed()
            kind, place, length, _ = MESSAGE.unpack(message)
            if kind != BEAT:
                return kind, place, length
            if on_beat is not None:
                on_beat()

    def has_died(self) -> bool:
        """Whether the child ended while nothing was asked of it."""
        self._control.settimeout(0)
        try:
            return not self._control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    def _raise_crashed(self) -> NoReturn:
        # look without reaping: the number must stay ours until the group is killed
        ended = _wait_unreaped(self.process.pid, 3.0)
        if ended is None:
            raise SandboxCrashed(f"{self._name}: the child closed its side and lives on")
        by_signal = ended.si_code != os.CLD_EXITED
        how = f"killed by {signal.Signals(ended.si_status).name}" if by_signal else f"exit code {ended.si_status}"
        by_others = by_signal and ended.si_status in _SENT_BY_OTHERS
        raise (SandboxKilled if by_others else SandboxCrashed)(f"{self._name}: {how}{self._last_words()}")

    def _last_words(self) -> str:
        start = max(os.fstat(self._output_fd).st_size - 2000, 0)
        lines = os.pread(self._output_fd, 2000, start).decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f": {words[-1][:300]}" if words else ""


def _wait_unreaped(pid: int, timeout_s: float) -> os.waitid_result | None:
    deadline = time.monotonic() + timeout_s
    while (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)
    return ended


def _end(process: subprocess.Popen[bytes], control: socket.socket, fds: tuple[int, ...]) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # before the reaping: until then nobody else can get the number
    process.wait()
    control.close()
    for fd in fds:
        os.close(fd)
