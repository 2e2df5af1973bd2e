"""Download a model's weights from their publisher, going on where an earlier try ended, and check them before use."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lposekit.pose.weights import WeightsError, cache_folder, expected, how_checked, ways_on
from lposekit.pose.zoo import WeightsFile
from lposekit.shards.files import open_own, sync_folder

_LOG = logging.getLogger(__name__)
TIMEOUT_S = 60.0
"""Without a byte."""
PROBE_S = 7.0
"""What a publisher has to begin to answer in, before anybody waits for a download. A machine without a network is told
of it at once, by an error; this is for the slow ones, and for networks that swallow what they do not let through."""
_MAX_BYTES = 2**31
_CHUNK_BYTES = 2**20
_FAILURES = (OSError, http.client.HTTPException)  # URLError and time-outs are OSErrors
Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those that there will be, if that is known."""


def unreachable(url: str) -> str | None:
    """Why a publisher cannot be reached, found out in seconds; None if it answers, whatever it says."""
    answer: list[str | None] = [f"no answer within {PROBE_S:g} s"]

    def ask() -> None:
        try:
            with _open(url, 0, PROBE_S):
                answer[0] = None
        except (urllib.error.HTTPError, ConnectionResetError):  # who hangs up lives, and may be better disposed later
            answer[0] = None
        except _FAILURES as error:
            answer[0] = str(error)

    # a resolver without a network may take half a minute, and cannot be interrupted
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return answer[0]


def download(weights: WeightsFile, weights_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Download a file of weights into the cache, and check it before it gets its name. What came before the connection
    broke is kept, and the next try goes on from there.

    Raises:
        WeightsError: no publisher serves it, the download failed, or the file is not the right one.
    """
    from filelock import FileLock  # of the extra `build`; whoever only looks for weights does not need it

    target = cache_folder() / weights.file
    if weights.url is None:
        raise WeightsError(f"the weights {weights.file} are missing. {ways_on(weights, weights_dir)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not target.is_file():  # another process may have been first
                _LOG.info("downloading %s", weights.url)
                _download(weights, weights.url, target, progress or (lambda done, whole: None))
    except _FAILURES as error:
        raise WeightsError(f"cannot download {weights.url}: {error}. {ways_on(weights, weights_dir)}") from error
    return target


def _download(weights: WeightsFile, url: str, target: Path, progress: Progress) -> None:
    part = target.with_name(f"{target.name}.part")
    resumed = _fetch(url, part, progress)
    if resumed and not _is_right(part, weights):  # of two different files
        part.unlink()
        _fetch(url, part, progress)
    if not _is_right(part, weights):
        digest = _sha256(part)
        part.unlink()
        raise WeightsError(
            f"{url} served a file with the sha256 {digest}, but {expected(weights)} is expected: not kept. Try again; "
            f"if the publisher really replaced the file and you trust it, put it into {cache_folder()} together with "
            f"{weights.file}.sha256 that holds this sha256."
        )
    part.replace(target)
    sync_folder(target.parent)


def _fetch(url: str, part: Path, progress: Progress) -> bool:
    """Bring `part` to its full length; returns whether it was begun by an earlier try."""
    descriptor = open_own(part, os.O_WRONLY | os.O_APPEND)
    with open(descriptor, "ab") as file:
        begun = os.fstat(file.fileno()).st_size
        with _reply(url, begun) as (reply, starts_at):
            if starts_at != begun:
                file.truncate(starts_at)
            length = reply.headers.get("Content-Length")
            whole = None if length is None else starts_at + int(length)
            done = starts_at
            while chunk := reply.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, whole)
                if done > _MAX_BYTES:
                    raise OSError(f"more than {_MAX_BYTES} bytes")
        file.flush()
        os.fsync(file.fileno())
    if whole not in (None, done):
        raise OSError(f"the connection ended after {done} of {whole} bytes")
    return starts_at > 0


@contextlib.contextmanager
def _reply(url: str, begun: int) -> Iterator[tuple[Any, int]]:
    """The answer, and where in the file it begins: at `begun` if the server can do that, else at its start."""
    try:
        with _open(url, begun, TIMEOUT_S) as reply:
            yield reply, begun if begun and _goes_on(reply, begun) else 0
    except urllib.error.HTTPError as error:
        if not begun or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        with _open(url, 0, TIMEOUT_S) as reply:
            yield reply, 0


def _goes_on(reply: Any, begun: int) -> bool:
    at = re.match(rf"bytes {begun}-", reply.headers.get("Content-Range") or "")
    return reply.status == http.HTTPStatus.PARTIAL_CONTENT and at is not None


def _open(url: str, begun: int, timeout_s: float) -> Any:
    # An opener of our own: the one that the fetch stage installs in its workers is made for images.
    headers = {"User-Agent": "lposekit", **({"Range": f"bytes={begun}-"} if begun else {})}
    return urllib.request.build_opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s)


def _is_right(part: Path, weights: WeightsFile) -> bool:
    return how_checked(weights, _sha256(part)) != "note"


def _sha256(part: Path) -> str:
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
