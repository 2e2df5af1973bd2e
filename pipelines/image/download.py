"""Drives img2dataset's `Downloader` for the rows of one shard.

    for row in download_rows(rows, opener=opener, decode=decoder.decode, settings=settings.fetch, work_dir=folder): ...

The Downloader fetches (see `engine`); threads of our own decode, since it would resize in one thread only, between two
downloads; rows come out in the thread that asks for them. Memory is bounded by `max_waiting` images and
`_MAX_WAITING_BYTES` of bodies, not by the shard. Reasons and findings: docs/decisions/2026-11-20-download-engine.md.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lposekit.errors import Interrupted, LposekitError, Outcome, Rejected
from lposekit.records import ImageRow
from lposekit.stage_times import StageTimes
from pipelines.fetch.hashes import listed_hash
from pipelines.fetch.opener import Fetched
from pipelines.fetch.settings import FetchSettings
from pipelines.image import engine
from pipelines.image.decode import DecodedImage, TooSmall
from pipelines.image.decode_budget import DecodeBudget
from pipelines.image.turns import RowTurns

_MAX_WAITING_BYTES = 256 * 2**20
_LOOK_AHEAD = 4
"""Rows begun beyond the oldest that has not ended, in multiples of the threads."""
_POLL_S = 0.1


class Fetcher(Protocol):
    """What is asked of an opener; `GuardedOpener` is one."""

    def fetch(self, url: str) -> Fetched:
        """The complete answer; raises `Rejected`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FetchedRow:
    """How fetching and decoding of one row ended.

    outcome: none if there is an image for the pose model. detail: why not, empty otherwise.
    image: also there for too_small, whose thumbnail the report shows.
    sha256, num_bytes, http_status: of the body, if one came.
    """

    row: ImageRow
    outcome: Outcome | None
    detail: str = ""
    image: DecodedImage | None = None
    sha256: str | None = None
    num_bytes: int | None = None
    http_status: int | None = None


def download_rows(
    rows: Sequence[ImageRow],
    *,
    opener: Fetcher,
    decode: Callable[[bytes], DecodedImage],
    settings: FetchSettings,
    work_dir: Path,
    times: StageTimes | None = None,
    cancel: threading.Event | None = None,
    budget: DecodeBudget | None = None,
    is_doubtful: Callable[[str], bool] = lambda host: False,
    decode_threads: int = 1,
    max_waiting: int = 32,
) -> Generator[FetchedRow, None, None]:
    """Fetch and decode all rows; yields each exactly once, in the order in which they end.

    While the caller works on a row, at most `max_waiting` rows wait for it, decoded or not, and the downloads pause.
    `decode` is called from `decode_threads` threads, as long as the host of an image has time left in `budget`. A host
    that `is_doubtful` is asked for one row at a time. `times`
    gets `fetch` and `decode`, added up over threads. img2dataset's own files (input, statistics) live and die in
    `work_dir`.

    Raises what `decode` raises (but `Rejected`), and `Interrupted` within a second after `cancel` is set. When the
    caller stops asking, downloads that are under way end on their own, within their total time; the end of the process
    waits for them.
    """
    if not rows:
        return
    decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
    shard = _Shard(
        rows,
        opener,
        decode,
        settings,
        decoders,
        max_waiting,
        times or StageTimes(),
        budget or DecodeBudget(),
        is_doubtful,
    )
    running = engine.start(shard, len(rows), settings.threads, work_dir)
    try:
        for _ in rows:
            yield shard.next_row(cancel)
            shard.slots.release()
    finally:
        shard.stop()
    running.join()  # it still writes into work_dir, which the caller may remove now


class _Shard:
    """The rows of one call on their way: fetched by the engine's threads, decoded by ours, taken by the caller."""

    def __init__(
        self,
        rows: Sequence[ImageRow],
        opener: Fetcher,
        decode: Callable[[bytes], DecodedImage],
        settings: FetchSettings,
        decoders: ThreadPoolExecutor,
        max_waiting: int,
        times: StageTimes,
        budget: DecodeBudget,
        is_doubtful: Callable[[str], bool],
    ) -> None:
        self.stopped = threading.Event()
        self.slots = threading.Semaphore(max_waiting)
        self._results: queue.SimpleQueue[Future[FetchedRow] | None] = queue.SimpleQueue()
        self._rows = rows
        self._opener = opener
        self._decode = decode
        self._verify_hash = settings.verify_hash
        self._decoders = decoders
        self._times = times
        self._budget = budget
        self._bodies = _ByteBudget(_MAX_WAITING_BYTES)
        self._facts: dict[int, tuple[str, int, int]] = {}  # sha256, num_bytes, http_status of a row
        self._rejections: dict[int, Rejected] = {}
        self._missing = set(range(len(rows)))
        urls = [row.url for row in rows]
        self._turns = RowTurns(urls, settings.per_host_connections, _LOOK_AHEAD * settings.threads, is_doubtful)
        self._turn_of: dict[int, int] = {}  # by the engine's number, which says when a row begins, not which one

    def fetch(self, index: int) -> Fetched:
        """The body of the row whose turn it is, from one of the engine's threads.

        Raises:
            Rejected: the engine turns it into text, and `deliver` finds it again.
        """
        self._bodies.wait_for_room(self.stopped)
        turn = self._turns.take(self.stopped)
        if turn is None:
            raise Rejected(Outcome.CONNECT, "the download was stopped")
        self._turn_of[index] = turn
        try:
            return self._fetch(turn)
        except Rejected as rejected:
            self._rejections[turn] = rejected
            raise
        finally:
            self._turns.end(turn)

    def _fetch(self, turn: int) -> Fetched:
        row = self._rows[turn]
        if row.url is None:
            raise Rejected(Outcome.BAD_URL, "the row has no URL")
        with self._times.stage("fetch", f"{row.key} {self._turns.hosts[turn]}"):
            fetched = self._opener.fetch(row.url)
        self._facts[turn] = hashlib.sha256(fetched.body).hexdigest(), len(fetched.body), fetched.http_status
        expected = listed_hash(row.extra) if self._verify_hash else None
        if expected is not None:
            expected.check(fetched.body)
        self._bodies.add(len(fetched.body))
        return fetched

    def deliver(self, index: int, body: bytes | None, message: str | None) -> None:
        """Take a row from the engine, waiting until the caller has room for it."""
        while self.stopped.is_set() or not self.slots.acquire(timeout=_POLL_S):
            if self.stopped.is_set():
                return
        index = self._turn_of.pop(index)
        if body is not None:
            self._decoders.submit(self._decoded, index, body).add_done_callback(self._results.put)
            return
        future: Future[FetchedRow] = Future()
        future.set_result(self._rejected(index, message))
        self._results.put(future)

    def end(self) -> None:
        """The engine has nothing more to deliver."""
        self._decoders.shutdown()
        self._results.put(None)

    def stop(self) -> None:
        """Nobody takes rows any more."""
        self.stopped.set()

    def _rejected(self, index: int, message: str | None) -> FetchedRow:
        rejected = self._rejections.pop(index, None)
        if rejected is None:  # an exception that is no Rejected: a bug of ours or of the engine, named in the row
            rejected = Rejected(Outcome.WORKER_CRASH, f"img2dataset: {message}")
        return self._row(index, rejected.outcome, rejected.detail)

    def _decoded(self, index: int, body: bytes) -> FetchedRow:
        try:
            if self.stopped.is_set():
                raise Rejected(Outcome.WORKER_CRASH, "the download was stopped")
            row = self._rows[index]
            with self._times.stage("decode", row.key), self._budget.image_of(self._turns.hosts[index]):
                image = self._decode(body)
            return self._row(index, image=image)
        except TooSmall as rejected:
            return self._row(index, rejected.outcome, rejected.detail, rejected.image)
        except Rejected as rejected:
            return self._row(index, rejected.outcome, rejected.detail)
        finally:
            self._bodies.remove(len(body))

    def _row(
        self, index: int, outcome: Outcome | None = None, detail: str = "", image: DecodedImage | None = None
    ) -> FetchedRow:
        self._missing.discard(index)
        sha256, num_bytes, http_status = self._facts.pop(index, (None, None, None))
        return FetchedRow(self._rows[index], outcome, detail, image, sha256, num_bytes, http_status)

    def next_row(self, cancel: threading.Event | None) -> FetchedRow:
        """The next row that has ended, in the caller's thread."""
        while cancel is None or not cancel.is_set():
            try:
                future = self._results.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            return future.result() if future is not None else self._lost_row()
        raise Interrupted("the download was cancelled: run the same command again to go on")

    def _lost_row(self) -> FetchedRow:
        """A row that the engine has never handed over; its traceback is on standard output."""
        self._results.put(None)
        if len(self._missing) == len(self._rows):
            raise LposekitError("img2dataset failed before the first row: its traceback is above")
        return self._row(min(self._missing), Outcome.WORKER_CRASH, "img2dataset lost the row")


class _ByteBudget:
    """Bodies that wait to be decoded. Full means: no further download starts."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    def wait_for_room(self, stopped: threading.Event) -> None:
        with self._changed:
            while self._held_bytes > self._limit_bytes and not stopped.is_set():
                self._changed.wait(_POLL_S)

    def add(self, num_bytes: int) -> None:
        with self._changed:
            self._held_bytes += num_bytes

    def remove(self, num_bytes: int) -> None:
        with self._changed:
            self._held_bytes -= num_bytes
            self._changed.notify()
