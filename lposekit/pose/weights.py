"""Find a model's weights on this machine, and check that they are the right ones.

Looked for in: the folder given (`--weights-dir`), the folder in `LPOSEKIT_WEIGHTS` (without it, `weights` or
`../shared/weights`), the user's cache; in each of them also in `pth/` below it. What is not there is downloaded into
the cache (`lposekit.pose.download`). The sha256 is checked first, whatever the place it came from; then
`lposekit.pose.checkpoint` reads the file and keeps it as safetensors in the cache. Free of torch.

A file with another hash is refused. To use it nevertheless, write its sha256 into `FILE.sha256` in the user's cache: a
note beside the file may have come with it. In a folder of weights only regular files are read, and no links followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import platformdirs

from lposekit.errors import LposekitError
from lposekit.pose.zoo import WeightsFile
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of, read_whole, sha256_of

DIGEST_DIGITS = 64
BESIDE = ("weights", "../shared/weights")
"""Where weights lie beside a checkout; the Makefile names the same."""
MAX_NOTE_BYTES = 4096


class WeightsError(LposekitError):
    """A file of weights cannot be had, is not the one it should be, or does not hold what it should."""


def cache_folder() -> Path:
    """Where downloads and converted weights are kept (platformdirs; `XDG_CACHE_HOME` moves it on Linux)."""
    return platformdirs.user_cache_path("lposekit") / "weights"


def search_folders(weights_dir: Path | None) -> Iterator[Path]:
    """The folders that are looked into, in order; in each of them `pth/` as well."""
    for folder in (weights_dir, named_folder(), cache_folder()):
        if folder is not None:
            yield folder


def named_folder() -> Path | None:
    """The folder in `LPOSEKIT_WEIGHTS`; without that variable, `weights` or `../shared/weights` in the working folder,
    as `make` has it, so that a command finds the same weights whoever calls it."""
    named = os.environ.get("LPOSEKIT_WEIGHTS")
    if named is not None:
        return Path(named) if named else None
    return next((folder for folder in map(Path, BESIDE) if folder.is_dir()), None)


def find_weights(weights: WeightsFile, weights_dir: Path | None = None) -> Path | None:
    """The first of that name in the search folders, be it a file or not, which its reader says; None if there is none.

    Raises:
        WeightsError: a folder cannot be searched.
    """
    for folder in search_folders(weights_dir):
        for name in (weights.file, f"pth/{weights.file}"):
            try:
                kind = kind_of(LocalStore(folder), name)
            except NotADirectoryError:
                kind = None
            except OSError as error:
                raise WeightsError(f"{folder / name}: cannot be read ({error})") from error
            if kind is not None:
                return folder / name
    return None


def checked_sha256(path: Path, weights: WeightsFile) -> str:
    """The sha256 of a file of weights.

    Raises:
        WeightsError: it is none of the accepted ones, and no `FILE.sha256` in the user's cache vouches for it.
    """
    try:
        digest = sha256_of(LocalStore(path.parent), path.name)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if how_checked(weights, digest) != "note" or digest in _vouched(weights):
        return digest
    note = _note(weights)
    raise WeightsError(
        f"{path} has the sha256 {digest}, but {expected(weights)} is expected: it is damaged, or not the file it "
        f"claims to be. Delete it and fetch it again{f' from {weights.url}' if weights.url else ''}; if you trust this "
        f"very file, write its sha256 into {note}."
    )


def how_checked(weights: WeightsFile, digest: str) -> Literal["sha256", "sha256 prefix", "note"]:
    """What tells that a file of this sha256 is the right one: a whole hash, the digits that its publisher states, or
    nothing but the user's note."""
    if digest in weights.sha256:
        return "sha256"
    prefixes = tuple(each for each in weights.sha256 if len(each) < DIGEST_DIGITS)
    return "sha256 prefix" if digest.startswith(prefixes) else "note"


def _note(weights: WeightsFile) -> Path:
    return cache_folder() / f"{weights.file}.sha256"


def _vouched(weights: WeightsFile) -> list[str]:
    note = _note(weights)
    try:
        return read_whole(LocalStore(note.parent), note.name, MAX_NOTE_BYTES).decode("utf-8").split()[:1]
    except (OSError, ValueError):
        return []


def partial_name(target: Path) -> str:
    """A name for this process alone: several may fetch or convert the same weights."""
    return f"{target.name}.{os.getpid()}.partial"


def expected(weights: WeightsFile) -> str:
    """The accepted hashes, as text."""
    return " or ".join(digest if len(digest) == DIGEST_DIGITS else f"{digest}..." for digest in weights.sha256)


def curl_line(weights: WeightsFile) -> str:
    """The command that puts a file where it is found."""
    return f"curl -L --create-dirs -o {cache_folder() / weights.file} {weights.url}"


def searched(weights_dir: Path | None) -> str:
    """The folders that are searched, as text."""
    return ", ".join(f"{folder}, {folder / 'pth'}" for folder in search_folders(weights_dir))


def ways_on(weights: WeightsFile, weights_dir: Path | None) -> str:
    """What to do where a file is missing."""
    command = f"\n  {curl_line(weights)}" if weights.url else ""
    return (
        f"Put {weights.file} (sha256 {expected(weights)}) into one of the folders that are searched: "
        f"{searched(weights_dir)}; or name another with --weights-dir or LPOSEKIT_WEIGHTS.{command}"
    )
