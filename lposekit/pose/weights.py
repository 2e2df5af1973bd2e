"""Find a model's weights, or download them from their publisher, and check that they are the right ones.

Looked for in: the folder given (`--weights-dir`), the folder in `LPOSEKIT_WEIGHTS`, the user's cache; in each of
them also in `pth/` below it. Then they are downloaded into the cache. The sha256 is checked first, whatever the place
it came from; then `lposekit.pose.checkpoint` reads the file and keeps it as safetensors in the cache. Free of torch.

A file with another hash is refused. To use it nevertheless, write its sha256 into `FILE.sha256` in the user's cache: a
note beside the file may have come with it. In a folder of weights only regular files are read, and no links followed.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock

from lposekit.errors import LposekitError, UsageError
from lposekit.pose.zoo import WeightsFile
from lposekit.shards.files import replacing
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of, read_whole, sha256_of

_LOG = logging.getLogger(__name__)
_DOWNLOAD_TIMEOUT_S = 60.0  # without a byte
_MAX_BYTES = 2**31
_CHUNK_BYTES = 2**20
DIGEST_DIGITS = 64
MAX_NOTE_BYTES = 4096


class WeightsError(LposekitError):
    """A file of weights cannot be had, is not the one it should be, or does not hold what it should."""


def cache_folder() -> Path:
    """Where downloads and converted weights are kept (platformdirs; `XDG_CACHE_HOME` moves it on Linux)."""
    return platformdirs.user_cache_path("lposekit") / "weights"


def require_weights(
    wanted: Iterable[WeightsFile], weights_dir: Path | None = None, *, may_download: bool = True
) -> None:
    """Make sure that all these weights are at hand and the right ones; what a publisher serves is downloaded, or, where
    `may_download` is false, taken for had.

    Raises:
        UsageError: some are not; names all of them, and the ways on.
    """
    problems = []
    for weights in wanted:
        try:
            path = find_weights(weights, weights_dir)
            if path is not None:
                checked_sha256(path, weights)
            elif may_download or weights.url is None:
                download(weights, weights_dir)
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def search_folders(weights_dir: Path | None) -> Iterator[Path]:
    """The folders that are looked into, in order; in each of them `pth/` as well."""
    named = os.environ.get("LPOSEKIT_WEIGHTS")
    for folder in (weights_dir, Path(named) if named else None, cache_folder()):
        if folder is not None:
            yield folder


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
        f"{path} has the sha256 {digest}, but {_expected(weights)} is expected: it is damaged, or not the file it "
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


def download(weights: WeightsFile, weights_dir: Path | None = None) -> Path:
    """Download a file of weights from its publisher into the cache, and check it before it gets its name.

    Raises:
        WeightsError: no publisher serves it, the download failed, or the file is not the right one.
    """
    target = cache_folder() / weights.file
    if weights.url is None:
        raise WeightsError(f"the weights {weights.file} are missing. {_ways_on(weights, weights_dir)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.is_file():  # another process may have been first
                _LOG.info("downloading %s", weights.url)
                with replacing(target, partial_name(target)) as partial:
                    _fetch(weights.url, partial)
                    _check_download(partial, weights)
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise WeightsError(f"cannot download {weights.url}: {error}. {_ways_on(weights, weights_dir)}") from error
    return target


def _fetch(url: str, target: Path) -> None:
    # An opener of our own: the one that the fetch stage installs in its workers is made for images.
    request = urllib.request.Request(url, headers={"User-Agent": "lposekit"})
    with urllib.request.build_opener().open(request, timeout=_DOWNLOAD_TIMEOUT_S) as reply, target.open("wb") as file:
        declared = int(reply.headers.get("Content-Length") or -1)
        while chunk := reply.read(_CHUNK_BYTES):
            file.write(chunk)
            if file.tell() > _MAX_BYTES:
                raise OSError(f"more than {_MAX_BYTES} bytes")
        if declared not in (-1, file.tell()):
            raise OSError(f"the connection ended after {file.tell()} of {declared} bytes")


def _check_download(partial: Path, weights: WeightsFile) -> None:
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if how_checked(weights, digest) == "note":
        raise WeightsError(
            f"{weights.url} served a file with the sha256 {digest}, but {_expected(weights)} is expected: not kept. "
            f"Try again; if the publisher really replaced the file and you trust it, put it into {cache_folder()} "
            f"together with {weights.file}.sha256 that holds this sha256."
        )


def partial_name(target: Path) -> str:
    """A name for this process alone: several may fetch or convert the same weights."""
    return f"{target.name}.{os.getpid()}.partial"


def _expected(weights: WeightsFile) -> str:
    return " or ".join(digest if len(digest) == DIGEST_DIGITS else f"{digest}..." for digest in weights.sha256)


def _ways_on(weights: WeightsFile, weights_dir: Path | None) -> str:
    folders = ", ".join(f"{folder}, {folder / 'pth'}" for folder in search_folders(weights_dir))
    command = f"\n  curl -L --create-dirs -o {cache_folder() / weights.file} {weights.url}" if weights.url else ""
    return (
        f"Put {weights.file} (sha256 {_expected(weights)}) into one of the folders that are searched: {folders}; or "
        f"name another with --weights-dir or LPOSEKIT_WEIGHTS.{command}"
    )
