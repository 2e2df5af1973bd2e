"""A Python 3.12 for stock img2dataset: named, or made beside our own at the versions of lposekit/pins.txt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.fixtures import REPOSITORY


def python312(given: Path | None) -> tuple[str | None, str]:
    """A Python 3.12 that runs stock img2dataset, or none and the reason."""
    if sys.version_info[:2] == (3, 12):
        return None, "this Python is 3.12 already"
    python = str(given) if given else None
    if python is None:
        base = _find_python312()
        if base is None:
            return None, "there is no python3.12 on PATH or among pyenv's versions; --python312 names one"
        python = _make_environment(base)
        if python is None:
            return None, "its environment could not be made: the reason is on standard error"
    code = "import img2dataset.downloader, img2dataset.resizer, psutil, sys; sys.exit(sys.version_info[:2] != (3, 12))"
    if not _succeeds([python, "-c", code]):
        return None, "the interpreter is no Python 3.12, or cannot import img2dataset and psutil"
    return python, ""


def _find_python312() -> str | None:
    versions_of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.12*/bin/python3.12"))
    for found in (shutil.which("python3.12"), *map(str, reversed(versions_of_pyenv))):
        # one on PATH may be a stub that only says where the real one is
        if found and _succeeds([found, "-c", "import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))"]):
            return found
    return None


def _make_environment(base: str) -> str | None:
    """Beside our own environment; installs nothing if it already holds what is pinned today."""
    folder = Path(sys.prefix) / "bench-python312"
    python, holds = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(peer_pins()) + "\n"
    if holds.exists() and holds.read_text() == wanted:
        return str(python)
    if not _succeeds([base, "-m", "venv", "--clear", str(folder)]):
        return None
    (folder / "wanted.txt").write_text(wanted)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]
    if not _succeeds([str(python), *install, "-r", str(folder / "wanted.txt")]):
        return None
    (folder / "wanted.txt").rename(holds)
    return str(python)


def peer_pins() -> list[str]:
    """The lines of pins.txt that img2dataset needs, by its requirements and theirs, and psutil."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (REPOSITORY / "lposekit" / "pins.txt").read_text().splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line and line[0] != "#"}
    target = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
    needed, to_do = set(), ["img2dataset", "psutil"]
    while to_do:
        name = canonicalize_name(to_do.pop())
        if name in needed or name not in pins:  # what is not pinned, lposekit runs img2dataset without
            continue
        needed.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate(target):
                to_do.append(requirement.name)
    return sorted(pins[name] for name in needed)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, env=peer_environment(), stdout=subprocess.DEVNULL, check=False)
    except OSError:  # there is no such program
        return False
    return done.returncode == 0


def peer_environment() -> dict[str, str]:
    return os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # it asks PyPI for news while it is imported
