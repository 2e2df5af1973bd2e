"""img2dataset's own `Downloader` as the engine that fetches the rows of one shard.

Nothing of it is changed or subclassed; three of its plug-in points carry everything
(docs/decisions/2026-11-20-download-engine.md):

- urllib's installed opener: the Downloader is given addresses like `lposekit-row:3:17` (call 3, row 17), and
  `_RowOpener` passes them to the call's source. So rows without a URL, malformed ones and repeated ones need no care,
  what else in the process uses urllib is not touched, and calls with different settings can run side by side.
- resizer: passes the bytes on, since the Downloader resizes in one thread only.
- sample writer: hands each row on instead of writing it.

Retries, opt-out headers, time limits and hashes are the opener's, so the Downloader's own are off. It leaves a
statistics file, which lands in a folder of its own within `work_dir` and is removed with it.
"""

from __future__ import annotations

import atexit
import io
import itertools
import multiprocessing.util  # noqa: F401  (its exit handler must be registered before ours)
import shutil
import tempfile
import threading
import urllib.request
import urllib.response
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from lposekit.kept_out import stood_in_for
from pipelines.fetch.opener import Fetched

_SCHEME = "lposekit-row"
_RUNNING: dict[threading.Thread, RowSource] = {}


class RowSource(Protocol):
    """Who wants rows fetched. Only `fetch` is called from several threads."""

    def fetch(self, index: int) -> Fetched:
        """Fetch one row, whichever the source likes: `index` is its name from now on. What it raises reaches
        `deliver` as text."""
        ...

    def deliver(self, index: int, body: bytes | None, message: str | None) -> None:
        """Take a row's body, or the reason why there is none. May block: then the engine pauses."""
        ...

    def end(self) -> None:
        """Called once, after the last row, whatever happened."""
        ...

    def stop(self) -> None:
        """Let every `fetch` that has not begun fail, and every `deliver` return, at once."""
        ...


def start(source: RowSource, num_rows: int, threads: int, work_dir: Path) -> threading.Thread:
    """Begin to fetch rows 0 to num_rows - 1 of `source`, in a thread of its own with `threads` downloads at a time.

    Returns the thread. It goes on until the last download under way has ended, also after `stop` (see
    `_wait_at_exit`), and uses `work_dir` until then.
    """
    downloader_class = _downloader_class()
    folder = Path(tempfile.mkdtemp(prefix="img2dataset-", dir=work_dir))
    call = _ROW_OPENER.enter(source)
    rows_file = _write_rows(folder, call, num_rows)
    downloader = _make_downloader(downloader_class, source, num_rows, threads, folder)

    def run() -> None:
        try:
            downloader((0, str(rows_file)))  # never raises: prints what went wrong
        finally:
            _ROW_OPENER.leave(call)
            shutil.rmtree(folder, ignore_errors=True)
            source.end()
            _RUNNING.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, name="img2dataset", daemon=True)
    _RUNNING[thread] = source
    thread.start()
    return thread


def load() -> None:
    """Import img2dataset now, rather than within the first shard."""
    _downloader_class()


@cache
def _downloader_class() -> Callable[..., Any]:
    # Its own resizer and its reports to a service, which are not used, are two thirds of what it takes to import it.
    with stood_in_for("albumentations", "wandb"):
        from img2dataset.downloader import Downloader  # only where something is downloaded

    atexit.register(_wait_at_exit)  # after multiprocessing's own handler was registered, so that ours runs first
    return Downloader


def _wait_at_exit() -> None:
    """Let abandoned downloads end, each within its total time, before the process ends.

    Otherwise multiprocessing's exit handler terminates the Downloader's thread pool in the middle, and waits for ever
    for the pool's feeding thread, which waits for the Downloader, which waits for the pool.
    """
    for thread, source in list(_RUNNING.items()):
        source.stop()
        thread.join()


def _write_rows(folder: Path, call: int, num_rows: int) -> Path:
    table = pa.table({"url": [f"{_SCHEME}:{call}:{index}" for index in range(num_rows)]})
    path = folder / "rows.feather"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def _make_downloader(
    downloader_class: Callable[..., Any], source: RowSource, num_rows: int, threads: int, folder: Path
) -> Callable[[tuple[int, str]], object]:
    return downloader_class(
        sample_writer_class=lambda *_: _RowWriter(source),
        resizer=_pass_on,
        thread_count=min(threads, num_rows),
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["url"],
        timeout=None,
        number_sample_per_shard=max(num_rows, 10),
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )


class _RowOpener(urllib.request.OpenerDirector):
    """Urllib's opener for row addresses; whatever else is asked goes to the opener that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, RowSource] = {}
        self._calls = itertools.count()
        self._before: urllib.request.OpenerDirector | None = None

    def enter(self, source: RowSource) -> int:
        """Answer for `source` from now on; returns the number that its addresses carry."""
        installed = getattr(urllib.request, "_opener", None)
        if installed is not self:
            self._before = installed
            urllib.request.install_opener(self)
        call = next(self._calls)
        self._sources[call] = source
        return call

    def leave(self, call: int) -> None:
        del self._sources[call]

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> Any:
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        if not url.startswith(f"{_SCHEME}:"):
            self._before = self._before or urllib.request.build_opener()
            return self._before.open(fullurl, data, timeout)
        _, call, index = url.split(":")
        fetched = self._sources[int(call)].fetch(int(index))
        return urllib.response.addinfourl(io.BytesIO(fetched.body), fetched.headers, url, fetched.http_status)


_ROW_OPENER = _RowOpener()


def _pass_on(stream: io.BytesIO, _bboxes: object) -> tuple[bytes, None, None, None, None, None]:
    """Resizer: the bytes as they came; width, height, original width and height, error."""
    return stream.getvalue(), None, None, None, None, None


@dataclass(frozen=True, slots=True)
class _RowWriter:
    """Sample writer: hands each row on instead of writing it."""

    source: RowSource

    def write(self, img_str: bytes | None, key: str, _caption: object, meta: dict[str, Any]) -> None:
        self.source.deliver(int(key), img_str, meta["error_message"])

    def close(self) -> None:
        pass
