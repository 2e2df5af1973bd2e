"""A call into the sandbox ends: with the target's answer, its `Rejected`, or a named failure; the parent is unharmed.

An alarm ends every test that hangs. Beside the guards stand the mutations that were tried and turned them red.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.arena import Arena
from lposekit.sandbox.child import beat
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed, SandboxError, SandboxMemory, SandboxTimeout

TARGETS = "tests.lposekit.sandbox.sandbox_targets"
MEMORY = 256 * 2**20


@pytest.fixture(autouse=True)
def _hard_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("the test hung")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def bad() -> Iterator[Sandbox]:
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY) as sandbox:
        yield sandbox


def call(sandbox: Sandbox, how: str, *, timeout_s: float | None = 30.0, **payload: Any) -> Any:
    heartbeat_timeout_s = payload.pop("heartbeat_timeout_s", None)
    return sandbox.call({"how": how, **payload}, timeout_s=timeout_s, heartbeat_timeout_s=heartbeat_timeout_s)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


# ---- what travels ----


def test_payload_and_init_args_arrive_and_come_back() -> None:
    payload = {"data": b"\x00\xff", "none": None, "nested": [1, 2.5, "text \u00e9", {"deep": [True]}], "empty": b""}
    with Sandbox(f"{TARGETS}:echo", memory_limit_bytes=MEMORY, init_args={"size": 512}) as sandbox:
        answer = sandbox.call(payload, timeout_s=30)
        again = sandbox.call(None, timeout_s=30)
    assert answer["payload"] == payload
    assert answer["size"] == 512
    assert again == {"payload": None, "pid": answer["pid"], "size": 512}
    assert answer["pid"] != os.getpid()


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">i4", "<f4", "<f8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (5, 4, 3)])
def test_arrays_keep_dtype_shape_and_values(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).random(shape) * 200).astype(dtype)
    arena = Arena(os.memfd_create("test"))
    back = arena.read(*arena.write({"array": array, "view": array.T}))
    assert back["array"].dtype == array.dtype
    assert np.array_equal(back["array"], array)
    assert np.array_equal(back["view"], array.T)
    os.close(arena.fd)


def test_objects_are_refused_before_anything_is_sent() -> None:
    arena = Arena(os.memfd_create("test"))
    for value in (object(), {1, 2}, np.array([object()]), np.array(["text"])):
        with pytest.raises(TypeError, match="cannot travel"):
            arena.write({"value": value})
    os.close(arena.fd)


def test_a_tree_larger_than_the_limit_is_not_read() -> None:
    # mutation: the limit in _Buffers.take dropped
    arena = Arena(os.memfd_create("test"), limit_bytes=1000)
    for payload in ({"data": bytes(1001)}, [bytes(600), bytes(600)], np.zeros(2000, np.uint8)):
        with pytest.raises(ValueError, match="bytes where"):
            arena.read(*arena.write(payload))
    assert arena.read(*arena.write(bytes(1000))) == bytes(1000)
    os.close(arena.fd)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(payload=JSON)
def test_any_payload_survives(payload: Any) -> None:
    arena = Arena(os.memfd_create("test"))
    try:
        assert arena.read(*arena.write(payload)) == payload
    finally:
        os.close(arena.fd)


@settings(max_examples=200, deadline=None)
@given(text=st.binary(max_size=60) | JSON.map(lambda value: repr(value).encode()))
def test_any_forged_bytes_are_a_value_or_a_value_error(text: bytes) -> None:
    arena = Arena(os.memfd_create("test"), limit_bytes=1000)
    try:
        os.pwrite(arena.fd, text, 0)
        arena.read(0, len(text))
    except ValueError:
        pass
    finally:
        os.close(arena.fd)


def test_an_image_travels() -> None:
    with Sandbox(f"{TARGETS}:image", memory_limit_bytes=MEMORY) as sandbox:
        answer = sandbox.call({"data": os.urandom(100_000)}, timeout_s=30)
    assert answer["num_bytes"] == 100_000
    assert answer["rgb"].shape == (512, 683, 3)
    assert answer["rgb"][3, 5, 1] == (3 * 683 * 3 + 5 * 3 + 1) % 256


# ---- what goes wrong in the child ----


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("exit", "exit code 3"),
        ("raise", "exit code 1.*no such codec"),
    ],
)
@pytest.mark.case(17)
def test_a_crash_is_named_and_the_next_call_works(bad: Sandbox, how: str, words: str) -> None:
    with pytest.raises(SandboxCrashed, match=words):
        call(bad, how)
    assert bad.pid is None
    assert call(bad, "beat_then_answer", beats=0) == "done"


def test_the_targets_own_verdict_passes_and_the_child_stays(bad: Sandbox) -> None:
    call(bad, "beat_then_answer", beats=0)
    pid = bad.pid
    with pytest.raises(Rejected, match="broken: half of it") as caught:
        call(bad, "reject")
    assert caught.value.outcome is Outcome.CORRUPT
    assert bad.pid == pid


@pytest.mark.parametrize("how", ["loop", "hold_the_gil"])
@pytest.mark.case(17)
def test_a_call_that_does_not_come_back_is_killed_in_time(bad: Sandbox, how: str) -> None:
    call(bad, "beat_then_answer", beats=0)
    pid, began_s = bad.pid, time.monotonic()
    with pytest.raises(SandboxTimeout, match=r"no answer within 0\.5 s"):
        call(bad, how, timeout_s=0.5)
    assert time.monotonic() - began_s < 3
    assert pid is not None
    assert not is_running(pid)


def test_signs_of_life_keep_a_slow_call_alive(bad: Sandbox) -> None:
    # mutation: beat() sends nothing -> no sign of life
    assert call(bad, "beat_then_answer", beats=12, heartbeat_timeout_s=0.8) == "done"


def test_a_call_without_signs_of_life_is_killed_before_its_time(bad: Sandbox) -> None:
    # mutation: heartbeat_s ignored in _receive -> the call lasts 30 s
    began_s = time.monotonic()
    with pytest.raises(SandboxTimeout, match=r"no sign of life for 0\.6 s"):
        call(bad, "beat_then_hold_the_gil", beats=3, heartbeat_timeout_s=0.6)
    assert time.monotonic() - began_s < 5


# mutation tried: None taken as no time at all -> the first call is killed
def test_a_call_without_a_deadline_lasts_as_long_as_it_shows_life(bad: Sandbox) -> None:
    assert call(bad, "beat_then_answer", beats=12, timeout_s=None, heartbeat_timeout_s=0.8) == "done"
    with pytest.raises(SandboxTimeout, match=r"no sign of life for 0\.6 s"):
        call(bad, "beat_then_hold_the_gil", beats=3, timeout_s=None, heartbeat_timeout_s=0.6)


def test_signs_of_life_do_not_lengthen_the_deadline(bad: Sandbox) -> None:
    with pytest.raises(SandboxTimeout, match=r"no answer within 1\.0 s"):
        call(bad, "beat_then_answer", beats=50, timeout_s=1.0, heartbeat_timeout_s=0.7)


def test_beat_outside_a_sandbox_does_nothing() -> None:
    beat()


@pytest.mark.parametrize("how", ["allocate", "allocate_bit_by_bit"])
@pytest.mark.case(17)
def test_memory_beyond_the_limit_is_refused_and_the_next_call_works(bad: Sandbox, how: str) -> None:
    # mutation: _limit_memory does nothing -> 8 GB are allocated, or the machine's own limit ends the test
    with pytest.raises(SandboxMemory):
        call(bad, how, num_bytes=8 * 2**30)
    assert call(bad, "allocate", num_bytes=MEMORY // 2) == MEMORY // 2


def test_what_the_decoder_started_dies_with_it() -> None:
    # mutation: process.kill() instead of killpg in _end -> the grandchild lives on
    with Sandbox("tests.lposekit.sandbox.process_at_import:pids_then_hang", memory_limit_bytes=MEMORY) as sandbox:
        pids = [*sandbox.call({"hang": False}, timeout_s=30), sandbox.pid]
        with pytest.raises(SandboxTimeout):
            sandbox.call({"hang": True}, timeout_s=0.5)
    assert all(ends(pid) for pid in pids)


def test_noise_on_standard_output_is_no_answer(bad: Sandbox) -> None:
    assert call(bad, "print_much") == "done"
    assert call(bad, "beat_then_answer", beats=0) == "done"


FORGED = {
    "no json": {"text": b"}{", "kind": b"A"},
    "longer than the file": {"text": b"null", "kind": b"A", "length": 10**6},
    "huge": {"text": b"null", "kind": b"A", "length": 2**63},
    "array of objects": {"text": json.dumps({"array": ["|O", [1]]}).encode(), "kind": b"A"},
    "array past the end": {"text": json.dumps({"array": ["|u1", [10**9]]}).encode(), "kind": b"A"},
    "negative bytes": {"text": json.dumps({"bytes": -1}).encode(), "kind": b"A"},
    "outcome that does not exist": {
        "text": json.dumps({"dict": {"outcome": "rm -rf", "detail": ""}}).encode(),
        "kind": b"J",
    },
    "unknown kind of message": {"text": b"null", "kind": b"\x00"},
    "deep": {"text": b'{"list":[' * 5000 + b"]}" * 5000, "kind": b"A"},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_answer_is_a_crash_and_nothing_worse(bad: Sandbox, forged: dict[str, Any]) -> None:
    with pytest.raises(SandboxCrashed):
        call(bad, "forge", **forged)


def test_a_child_that_died_between_two_calls_is_replaced(bad: Sandbox) -> None:
    call(bad, "beat_then_answer", beats=0)
    assert bad.pid is not None
    os.kill(bad.pid, signal.SIGKILL)
    assert ends(bad.pid)
    assert call(bad, "beat_then_answer", beats=0) == "done"


def test_a_target_that_cannot_be_imported_is_named() -> None:
    sandbox = Sandbox("tests.no_such_module:function", memory_limit_bytes=MEMORY)
    with pytest.raises(SandboxCrashed, match="No module named"):
        sandbox.call({}, timeout_s=30)


# ---- parent and child ----


def test_the_child_outlives_the_thread_that_started_it(bad: Sandbox) -> None:
    # mutation: _spawn called directly -> PR_SET_PDEATHSIG kills the child with the thread
    bad.close()
    thread = threading.Thread(target=call, args=(bad, "beat_then_answer"), kwargs={"beats": 0})
    thread.start()
    thread.join()
    pid = bad.pid
    assert pid is not None
    time.sleep(0.3)
    assert is_running(pid)
    call(bad, "beat_then_answer", beats=0)
    assert bad.pid == pid


PARENT_SCRIPT = f"""
import sys, threading
from lposekit.sandbox.sandbox import Sandbox
sandbox = Sandbox("{TARGETS}:misbehave", memory_limit_bytes=2**28)
sandbox.start()
print(sandbox.pid, flush=True)
sandbox.call({{"how": "hold_the_gil"}}, timeout_s=1000)
"""


def test_the_child_dies_with_its_parent_even_while_it_hangs() -> None:
    # mutation: no PR_SET_PDEATHSIG -> the child sleeps on
    parent = subprocess.Popen([sys.executable, "-c", PARENT_SCRIPT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    assert ends(pid)


def test_a_forgotten_sandbox_leaves_no_process() -> None:
    sandbox = Sandbox(f"{TARGETS}:echo", memory_limit_bytes=MEMORY)
    sandbox.start()
    pid = sandbox.pid
    assert pid is not None
    del sandbox
    assert ends(pid)


@pytest.mark.parametrize("where", ["subprocess.Popen", "lposekit.sandbox.sandbox.Slots"])
def test_a_child_that_cannot_be_started_leaves_no_open_files(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: the callbacks that close left out.
    def fail(*_: object, **__: object) -> None:
        raise OSError("too many open files")

    with Sandbox(f"{TARGETS}:echo", memory_limit_bytes=MEMORY, slots=1, slot_bytes=2**20) as sandbox:
        before = set(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(where, fail)
        for _ in range(3):
            with pytest.raises(OSError, match="too many open files"):
                sandbox.start()
        assert set(os.listdir("/proc/self/fd")) <= before
        monkeypatch.undo()
        sandbox.start()


def test_a_closed_sandbox_leaves_no_open_files() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Sandbox(f"{TARGETS}:echo", memory_limit_bytes=MEMORY) as sandbox:
            sandbox.call(None, timeout_s=30)
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_wait_for_each_other_and_get_their_own_answers() -> None:
    with Sandbox(f"{TARGETS}:echo", memory_limit_bytes=MEMORY) as sandbox:
        wrong: list[Any] = []

        def ask(name: int) -> None:
            wrong.extend(
                number
                for number in range(50)
                if sandbox.call([name, number], timeout_s=30)["payload"] != [name, number]
            )

        threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_child_sees_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY) as sandbox:
        environment = call(sandbox, "environment")
    assert "HF_TOKEN" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_image_child_loads_nothing_that_it_does_not_need(bad: Sandbox) -> None:
    modules = call(bad, "modules")
    heavy = {"torch", "ray", "pandas", "pyarrow", "mmpose", "img2dataset", "PIL", "cv2"}
    assert not heavy & set(modules)


def test_after_ctrl_c_in_a_call_the_next_answer_is_not_the_old_one() -> None:
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY) as sandbox:
        sandbox.start()
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            call(sandbox, "beat_then_answer", beats=10)
        with pytest.raises(SandboxError, match="no such codec"):
            call(sandbox, "raise")
