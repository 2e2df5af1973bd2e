"""What a child may still do once its imports are done: decode. No network, no programs, no files but the ones named.

Where the kernel (or the container) lacks a part, the child works without it, and says so: `lposekit doctor` shows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from lposekit.sandbox import landlock, seccomp

_PR_SET_NO_NEW_PRIVS = 38
_FACTS_OF_THE_MACHINE = ("/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo", "/dev/null", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
OWN_PACKAGES = ("lposekit", "pipelines", "trainer")


@dataclass(frozen=True, slots=True)
class Places:
    """Files or folders, absolute, that a child may open by path, beside its own program. `writes`: also change."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Protections:
    """What is in force. `calls`: no network, no programs, no other process touched; `files`: only the ones named."""

    calls: bool = False
    files: bool = False


def give_up_privileges() -> None:
    """Nothing that this process starts gains rights by a file's setuid bit; both filters ask for it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine(places: Places) -> Protections:
    """Give up, for ever, what decoding does not need; what this process has open stays open."""
    give_up_privileges()
    alone = len(os.listdir("/proc/self/task")) == 1  # Landlock binds one thread, the filter all of them
    files = landlock.restrict((*places.reads, *program_places()), places.writes)
    return Protections(calls=seccomp.install(), files=files and alone)


def program_places() -> tuple[str, ...]:
    """Where the interpreter, its libraries and our own packages lie, for what is imported at the last moment."""
    code = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    packages = (getattr(sys.modules.get(name), "__path__", ()) for name in OWN_PACKAGES)
    ours = {os.path.abspath(place) for places in packages for place in places}
    return tuple(sorted(code | ours | _places_of_packages())) + _LIBRARIES + _FACTS_OF_THE_MACHINE


def _places_of_packages() -> set[str]:
    """Where else packages and libraries may lie: conda's folder, another `--target`, a module of a cluster.

    Not the working folder, the home folder, and what is above them: they hold what is nobody's business.
    """
    libraries = os.environ.get("LD_LIBRARY_PATH", "").replace(";", os.pathsep).split(os.pathsep)
    named = {os.path.realpath(entry) for entry in (*sys.path, *libraries) if entry}
    private = {Path(os.path.realpath(os.path.expanduser("~")))}
    with contextlib.suppress(FileNotFoundError):  # it may be gone
        private.add(Path(os.getcwd()))
    found = {place for place in named if not any(folder.is_relative_to(place) for folder in private)}
    return found | {os.path.join(sys.base_prefix, "lib")}


def folder_of(path: str | Path, root: str | Path | None) -> str:
    """The folder to open for a child that reads `path`: `root` if the file, links followed, lies below it.

    A child is confined once, and serves many files of the same root.
    """
    real = os.path.realpath(path)
    if root is not None and Path(real).is_relative_to(folder := os.path.realpath(root)):
        return folder
    return os.path.dirname(real)
