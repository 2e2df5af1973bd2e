"""Contract: a decoder that its input has taken over can decode, and little else: no network, no programs, no file but
the ones named, no signal to anybody else. Real children; without the kernel's part a child works unprotected.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lposekit.doctor import check_sandbox
from lposekit.sandbox import confinement, landlock, seccomp
from lposekit.sandbox.confinement import Places, Protections, confine, folder_of
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed
from lposekit.sandbox.trial import refused_to_a_child

TARGET = "tests.lposekit.sandbox.sandbox_targets:misbehave"
MEMORY = 256 * 2**20
needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock, or it is off")


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    with Sandbox(TARGET, memory_limit_bytes=MEMORY) as sandbox:
        yield sandbox


def call(sandbox: Sandbox, how: str, **payload: Any) -> Any:
    return sandbox.call({"how": how, **payload}, timeout_s=30)


# Mutation tried: `confine` left out of `serve` -> red, each of them.
# Mutation tried: `seccomp.install` that installs nothing -> red, all but the file.
@pytest.mark.parametrize("attack", ["run", "fork", "kill_the_parent", "leave_the_group", "outlive_the_parent", "ring"])
def test_a_decoder_starts_nothing_and_reaches_no_other_process(child: Sandbox, attack: str) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the child's signal arrived"))
    try:
        with pytest.raises(SandboxCrashed, match="PermissionError"):
            call(child, attack, program="true")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_decoder_has_no_network(child: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        with pytest.raises(SandboxCrashed, match="PermissionError"):
            call(child, "connect", port=server.getsockname()[1])
        with pytest.raises(TimeoutError):
            server.accept()


@needs_landlock
def test_a_decoder_opens_no_file_that_was_not_named(child: Sandbox, tmp_path: Path) -> None:
    # Mutation tried: `landlock.restrict` without its last call -> red.
    with pytest.raises(SandboxCrashed, match="PermissionError"):
        call(child, "open", path="/etc/passwd")
    with pytest.raises(SandboxCrashed, match="PermissionError"):
        call(child, "open", path=f"/proc/{os.getpid()}/environ")  # tokens of the worker
    with pytest.raises(SandboxCrashed, match="PermissionError"):
        call(child, "write", path=str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


@needs_landlock
def test_named_places_are_readable_and_only_the_work_folder_is_writable(tmp_path: Path) -> None:
    # Mutation tried: the writes of `Places` given to the reads -> red at the write.
    videos, work = tmp_path / "videos", tmp_path / "work"
    videos.mkdir()
    work.mkdir()
    (videos / "a.txt").write_text("a video")
    (tmp_path / "secret.txt").write_text("a secret")
    (videos / "link").symlink_to(tmp_path / "secret.txt")
    with Sandbox(TARGET, memory_limit_bytes=MEMORY, places=Places((str(videos),), (str(work),))) as sandbox:
        assert call(sandbox, "open", path=str(videos / "a.txt")) == "a video"
        call(sandbox, "write", path=str(work / "clip"))
        for how, path in (("open", videos / "link"), ("write", videos / "a.txt"), ("write", videos / "new")):
            with pytest.raises(SandboxCrashed, match="PermissionError"):
                call(sandbox, how, path=str(path))
    assert (work / "clip").read_text() == "decoded"
    assert (videos / "a.txt").read_text() == "a video"


@needs_landlock
def test_packages_and_libraries_that_lie_elsewhere_open_and_the_working_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations tried: no `_places_of_packages` -> red at the packages; its `private` empty -> red at the home folder.
    folders = {name: tmp_path / name for name in ("home", "packages", "libraries")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "a").write_text(name)
    monkeypatch.setenv("HOME", str(folders["home"]))
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{folders['libraries']}")
    monkeypatch.setattr("sys.path", [*sys.path, str(folders["packages"]), str(folders["home"])])
    with Sandbox(TARGET, memory_limit_bytes=MEMORY) as sandbox:
        for name in ("packages", "libraries"):
            assert call(sandbox, "open", path=str(folders[name] / "a")) == name
        with pytest.raises(SandboxCrashed, match="PermissionError"):
            call(sandbox, "open", path=str(folders["home"] / "a"))


@needs_landlock
def test_a_child_of_other_places_is_replaced_and_of_the_same_ones_kept(tmp_path: Path) -> None:
    # Mutation tried: `open_to` that keeps the child -> red: the second folder stays closed.
    first, second = Places((str(tmp_path / "1"),)), Places((str(tmp_path / "2"),))
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    with Sandbox(TARGET, memory_limit_bytes=MEMORY, places=first) as sandbox:
        assert call(sandbox, "open", path=str(tmp_path / "1" / "a")) == "1"
        pid = sandbox.pid
        sandbox.open_to(first)
        assert sandbox.pid == pid
        sandbox.open_to(second)
        assert call(sandbox, "open", path=str(tmp_path / "2" / "a")) == "2"
        with pytest.raises(SandboxCrashed, match="PermissionError"):
            call(sandbox, "open", path=str(tmp_path / "1" / "a"))


def test_threads_of_a_decoder_are_not_refused(child: Sandbox) -> None:
    # Mutation tried: `clone` refused whatever its flags -> red.
    assert call(child, "start_a_thread") == "done"


def test_a_kernel_without_filters_leaves_a_child_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, which would be confined for ever if the double failed."""
    monkeypatch.setattr(confinement, "give_up_privileges", lambda: None)
    monkeypatch.setattr(landlock, "_call", lambda *_: -1)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    found: list[Protections] = []
    thread = threading.Thread(target=lambda: found.append(confine(Places())))
    thread.start()
    thread.join()
    assert found == [Protections(calls=False, files=False)]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_lands_within_it(machine: str) -> None:
    program = seccomp.filter_program(machine, 4711)
    assert len(program) < 4096  # the kernel's limit
    for position, (code, when_true, when_false, _) in enumerate(program):
        if code & 0x07 == 0x05:
            assert position + 1 + max(when_true, when_false) < len(program)
    assert program[-1][0] == 0x06


def judged(machine: str, call: int, argument: int = 0, *, architecture: int | None = None) -> int:
    """What the filter returns for a call, run here as the kernel runs it."""
    own = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    data = {0: call, 4: own if architecture is None else architecture, 16: argument}
    program, position, value = seccomp.filter_program(machine, 4711), 0, 0
    while True:
        code, when_true, when_false, constant = program[position]
        position += 1
        if code == 0x20:
            value = data[constant]
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            position += when_true if holds else when_false


ALLOWED, REFUSED, UNKNOWN = 0x7FFF0000, 0x50001, 0x50000 + 38
THREAD = 0x10000


@pytest.mark.parametrize(
    ("machine", "call", "argument", "answer"),
    [
        ("x86_64", 0, 0, ALLOWED),  # read
        ("x86_64", 257, 0, ALLOWED),  # openat: Landlock's affair
        ("x86_64", 41, 0, REFUSED),  # socket
        ("x86_64", 59, 0, REFUSED),  # execve
        ("x86_64", 56, 0x11, REFUSED),  # clone of a process
        ("x86_64", 56, THREAD, ALLOWED),
        ("x86_64", 435, 0, UNKNOWN),  # clone3
        ("x86_64", 62, 4711, ALLOWED),  # kill itself
        ("x86_64", 62, 1, REFUSED),
        ("x86_64", 234, 4711, ALLOWED),  # tgkill, as abort does
        ("x86_64", 302, 0, ALLOWED),  # prlimit64 of itself
        ("x86_64", 302, 1, REFUSED),
        ("x86_64", 157, 1, REFUSED),  # prctl that unties it from its parent
        ("x86_64", 157, 15, ALLOWED),  # prctl that names a thread
        ("x86_64", 0x40000000 + 41, 0, REFUSED),  # x32
        ("x86_64", 463, 0, UNKNOWN),
        ("aarch64", 63, 0, ALLOWED),  # read
        ("aarch64", 198, 0, REFUSED),  # socket
        ("aarch64", 221, 0, REFUSED),  # execve
        ("aarch64", 220, 0x11, REFUSED),  # clone
        ("aarch64", 220, THREAD, ALLOWED),
        ("aarch64", 129, 1, REFUSED),  # kill
        ("aarch64", 41, 0, REFUSED),  # pivot_root; x86_64's socket
        ("aarch64", 59, 0, ALLOWED),  # pipe2; x86_64's execve
    ],
)
def test_the_filter_knows_the_calls_of_both_machines(machine: str, call: int, argument: int, answer: int) -> None:
    # Mutation tried: x86_64's numbers on aarch64 -> red.
    assert judged(machine, call, argument) == answer


def test_calls_of_another_architecture_are_refused() -> None:
    i386 = 0x40000003  # its socketcall is another machine's number for something harmless
    assert judged("x86_64", 102, architecture=i386) == REFUSED


def test_the_folder_of_a_file_is_its_root_unless_a_link_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    video, outside = root / "below" / "a.mp4", tmp_path / "b.mp4"
    video.touch()
    outside.touch()
    (root / "link.mp4").symlink_to(outside)
    assert folder_of(video, root) == str(root)
    assert folder_of(video, None) == str(root / "below")
    assert folder_of(root / "link.mp4", root) == str(tmp_path)


def test_doctor_tells_what_a_real_child_is_refused() -> None:
    # Mutation tried: `confine` left out of `serve` -> red: nothing is refused.
    refused = refused_to_a_child()
    assert refused == {"network": True, "programs": True, "files": bool(landlock.version())}
    assert check_sandbox(refused).state == ("ok" if all(refused.values()) else "note")


def test_doctor_names_what_is_not_in_force_and_what_to_do() -> None:
    check = check_sandbox({"network": True, "programs": True, "files": False})
    assert check.state == "note"
    assert "files" in check.found
    assert "Landlock" in check.fix
    assert check_sandbox({}).state == "bad"
