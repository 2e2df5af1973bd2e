"""Every row of a shard ends in exactly one outcome, whatever the servers send and whoever stops the download.

img2dataset's real Downloader runs in all tests, against a real server on loopback. The parts
have tests of their own. Mutations that were tried stand beside the guards.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lposekit.errors import Interrupted, Outcome, Rejected
from lposekit.records import ImageRow
from pipelines.fetch.opener import Fetched, GuardedOpener
from pipelines.fetch.settings import FetchSettings
from pipelines.image import download, engine
from pipelines.image.decode import DecodedImage, ImageDecoder, decode_image
from pipelines.image.download import FetchedRow, download_rows
from pipelines.image.settings import ImageSettings
from tests.support.bad_server import BadServer, Page, closed_port

SETTINGS = FetchSettings(
    threads=8, connect_timeout_s=2, idle_timeout_s=2, total_timeout_s=3, retries=0, robots=False, max_body_bytes=2**20
)
IMAGES = ImageSettings()


def jpeg(width: int = 96, height: int = 80, colour: int = 120) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 50, 60)).save(file, "JPEG")
    return file.getvalue()


def decode(data: bytes) -> DecodedImage:
    return decode_image(data, IMAGES)


PAGES = {
    "/photo.jpg": Page(jpeg()),
    "/as-html": Page(jpeg(), "text/html"),
    "/html.jpg": Page(b"<!doctype html><html>", "image/jpeg"),
    "/pdf.jpg": Page(b"%PDF-1.4", "image/jpeg"),
    "/empty.jpg": Page(b"", "image/jpeg"),
    "/cut.jpg": Page(jpeg()[:-40]),
    "/tiny.jpg": Page(jpeg(20, 20)),
    "/big.jpg": Page(bytes(2**20 + 1)),
    **{f"/{number}.jpg": Page(jpeg(colour=number % 256)) for number in range(200)},
}


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    with BadServer(pages=PAGES) as running:
        yield running


@pytest.fixture(autouse=True)
def _hard_limit() -> Iterator[None]:
    """The tests run in a thread's time: a hang becomes a failure after a minute."""
    import faulthandler

    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def opener(settings: FetchSettings = SETTINGS) -> GuardedOpener:
    return GuardedOpener(settings, allow_private_addresses=True)


def rows_of(*urls: str | None, **columns: Any) -> list[ImageRow]:
    return [ImageRow(f"{index:09}", url, "", columns) for index, url in enumerate(urls)]


def fetched_rows(rows: list[ImageRow], tmp_path: Path, **options: Any) -> dict[str, FetchedRow]:
    """What came, by key. Fails if a row came twice, or if anything stayed in the work folder."""
    taken: list[FetchedRow] = []
    options = {"opener": opener(), "decode": decode, "settings": SETTINGS, "work_dir": tmp_path} | options
    consume(rows, taken.append, **options)
    assert Counter(fetched.row.key for fetched in taken) == Counter(row.key for row in rows)
    wait_until(lambda: not list(tmp_path.iterdir()))
    return {fetched.row.key: fetched for fetched in taken}


def consume(rows: list[ImageRow], take: Callable[[FetchedRow], object], **options: Any) -> None:
    """Hands every row to `take`, as it comes."""
    with contextlib.closing(download_rows(rows, **options)) as fetched:
        for row in fetched:
            take(row)


def wait_until(condition: Any, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# ---- outcomes ----


def test_each_row_ends_in_its_own_outcome(server: BadServer, tmp_path: Path) -> None:
    cases = {
        f"{server.url}/photo.jpg": None,
        f"{server.url}/as-html": None,
        f"{server.url}/html.jpg": Outcome.NOT_IMAGE,
        f"{server.url}/pdf.jpg": Outcome.NOT_IMAGE,
        f"{server.url}/empty.jpg": Outcome.NOT_IMAGE,
        f"{server.url}/cut.jpg": Outcome.CORRUPT,
        f"{server.url}/tiny.jpg": Outcome.TOO_SMALL,
        f"{server.url}/big.jpg": Outcome.TOO_BIG,
        f"{server.url}/short": Outcome.SHORT_READ,
        f"{server.url}/drip/1": Outcome.TIMEOUT,
        f"{server.url}/no-such-page": Outcome.HTTP_4XX,
        f"http://127.0.0.1:{closed_port()}/refused": Outcome.CONNECT,
        "file:///etc/passwd": Outcome.BAD_URL,
        "not a URL": Outcome.BAD_URL,
        "http://a b/\x00\ud800": Outcome.BAD_URL,
        "": Outcome.BAD_URL,
        None: Outcome.BAD_URL,
        "lposekit-row:0:0": Outcome.BAD_URL,
    }
    fetched = fetched_rows(rows_of(*cases), tmp_path)
    assert {row.row.url: row.outcome for row in fetched.values()} == cases
    assert all(bool(row.detail) == (row.outcome is not None) for row in fetched.values())


def test_an_image_comes_with_its_facts(server: BadServer, tmp_path: Path) -> None:
    (fetched,) = fetched_rows(rows_of(f"{server.url}/photo.jpg"), tmp_path).values()
    assert fetched.image is not None
    assert np.array_equal(fetched.image.rgb_HWC, decode(jpeg()).rgb_HWC)
    assert fetched.sha256 == hashlib.sha256(jpeg()).hexdigest()
    assert (fetched.num_bytes, fetched.http_status, fetched.detail) == (len(jpeg()), 200, "")


def test_a_too_small_image_is_there_for_its_thumbnail(server: BadServer, tmp_path: Path) -> None:
    (fetched,) = fetched_rows(rows_of(f"{server.url}/tiny.jpg"), tmp_path).values()
    assert fetched.outcome is Outcome.TOO_SMALL
    assert fetched.image is not None
    assert fetched.image.width == 20


def test_images_stay_with_their_rows(server: BadServer, tmp_path: Path) -> None:
    # mutation: the row's index taken from a counter in `deliver` -> images and rows are mixed
    rows = rows_of(*(f"{server.url}/{number}.jpg" for number in range(200)))
    for key, fetched in fetched_rows(rows, tmp_path, decode_threads=4).items():
        assert fetched.image is not None
        assert fetched.row.key == key
        assert abs(int(fetched.image.rgb_HWC[40, 40, 0]) - int(key)) <= 3


def test_the_same_url_twice_is_two_rows(server: BadServer, tmp_path: Path) -> None:
    fetched = fetched_rows(rows_of(*[f"{server.url}/photo.jpg"] * 3), tmp_path)
    assert [row.outcome for row in fetched.values()] == [None] * 3


@pytest.mark.parametrize("column", ["sha256", "md5"])
@pytest.mark.case(19)
def test_a_wrong_hash_is_found_before_the_image_is_decoded(server: BadServer, tmp_path: Path, column: str) -> None:
    # mutation: expected.check dropped
    right, wrong = hashlib.new(column, jpeg()).hexdigest(), hashlib.new(column, b"other").hexdigest()
    url = f"{server.url}/photo.jpg"
    (good,) = fetched_rows(rows_of(url, **{column: right}), tmp_path).values()
    (bad,) = fetched_rows(rows_of(url, **{column: wrong}), tmp_path).values()
    (unchecked,) = fetched_rows(
        rows_of(url, **{column: wrong}), tmp_path, settings=FetchSettings(verify_hash=False)
    ).values()
    assert (good.outcome, bad.outcome, unchecked.outcome) == (None, Outcome.HASH_MISMATCH, None)
    assert bad.sha256 == hashlib.sha256(jpeg()).hexdigest()


def test_no_rows_are_no_work(tmp_path: Path) -> None:
    assert fetched_rows([], tmp_path) == {}


def test_the_whole_path_with_a_killable_decoder(server: BadServer, tmp_path: Path) -> None:
    rows = rows_of(*(f"{server.url}/{number}.jpg" for number in range(30)), f"{server.url}/cut.jpg")
    with ImageDecoder(ImageSettings(decode_processes=2)) as decoder:
        fetched = fetched_rows(rows, tmp_path, decode=decoder.decode, decode_threads=decoder.parallel)
    assert Counter(row.outcome for row in fetched.values()) == {None: 30, Outcome.CORRUPT: 1}


# ---- failures that are no row's ----


class Broken:
    """An opener with a bug."""

    def fetch(self, url: str) -> Fetched:
        raise ZeroDivisionError("a bug")


@pytest.mark.case(59)
def test_a_bug_in_the_opener_is_named_in_its_rows(tmp_path: Path) -> None:
    (fetched,) = fetched_rows(rows_of("http://example.com/"), tmp_path, opener=Broken()).values()
    assert fetched.outcome is Outcome.WORKER_CRASH
    assert "a bug" in fetched.detail


def test_a_caller_that_stops_asking_ends_the_download(server: BadServer, tmp_path: Path) -> None:
    # mutation: `stopped` not set -> the engine's thread waits for room for ever
    taken = []

    def take(fetched: FetchedRow) -> None:
        taken.append(fetched)
        raise OSError("disk full")

    rows = rows_of(*(f"{server.url}/{number}.jpg" for number in range(200)))
    with pytest.raises(OSError, match="disk full"):
        consume(rows, take, opener=opener(), decode=decode, settings=SETTINGS, work_dir=tmp_path)
    assert len(taken) == 1
    wait_until(lambda: not any(thread.name == "img2dataset" for thread in threading.enumerate()))
    assert not list(tmp_path.iterdir())


def test_what_the_decoder_raises_ends_the_download(server: BadServer, tmp_path: Path) -> None:
    def broken(data: bytes) -> DecodedImage:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        fetched_rows(rows_of(f"{server.url}/photo.jpg"), tmp_path, decode=broken)


def test_a_row_that_the_engine_lost_still_ends(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # mutation: _lost_row waits like for any other row -> the test hangs
    from img2dataset import downloader

    def lossy(row: tuple[int, str], **options: Any) -> Any:
        key, stream, error = downloader.download_image(
            row, options["timeout"], options["user_agent_token"], options["disallowed_header_directives"]
        )
        return (key, stream, error) if key != 1 else (99, stream, error)  # a row that does not exist

    monkeypatch.setattr(downloader, "download_image_with_retry", lossy)
    fetched = fetched_rows(rows_of(*[f"{server.url}/photo.jpg"] * 3), tmp_path)
    assert [row.outcome for row in fetched.values()].count(Outcome.WORKER_CRASH) == 1
    assert [row.detail for row in fetched.values() if row.outcome] == ["img2dataset lost the row"]
    capsys.readouterr()


# ---- stopping, pausing, sharing the process ----


@pytest.mark.parametrize("page", ["photo.jpg", "silent", "drip/1"])
def test_cancelling_takes_less_than_a_second(server: BadServer, tmp_path: Path, page: str) -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    began_s = time.monotonic()
    with pytest.raises(Interrupted):
        consume(
            rows_of(*[f"{server.url}/{page}"] * 2000),
            lambda _: time.sleep(0.01),
            opener=opener(),
            decode=decode,
            settings=SETTINGS,
            work_dir=tmp_path,
            cancel=cancel,
        )
    assert time.monotonic() - began_s < 1.3
    wait_until(lambda: not any(thread.name == "img2dataset" for thread in threading.enumerate()), within_s=10)


CANCEL_SCRIPT = """
import sys, threading
from pathlib import Path
from lposekit.errors import Interrupted
from lposekit.records import ImageRow
from pipelines.image import engine
from pipelines.image.download import download_rows
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.settings import FetchSettings
settings = FetchSettings(threads=4, idle_timeout_s=3, total_timeout_s=3, retries=0, robots=False)
cancel = threading.Event()
engine.load()
threading.Timer(0.5, cancel.set).start()
try:
    for row in download_rows(
        [ImageRow(str(index), sys.argv[1], "") for index in range(300)],
        opener=GuardedOpener(settings, allow_private_addresses=True), decode=None, settings=settings,
        work_dir=Path(sys.argv[2]), cancel=cancel,
    ):
        print(row)
except Interrupted:
    print("interrupted", flush=True)
"""


@pytest.mark.more
def test_a_process_that_cancelled_a_download_can_end(server: BadServer, tmp_path: Path) -> None:
    # mutation: no atexit.register -> the process hangs for ever in multiprocessing's exit handler
    command = [sys.executable, "-c", CANCEL_SCRIPT, f"{server.url}/silent", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        try:
            assert process.wait(timeout=40) == 0
        finally:
            process.kill()


def test_downloads_pause_while_the_caller_is_busy(server: BadServer, tmp_path: Path) -> None:
    # mutation: no slots.acquire in `deliver` -> all 200 images are decoded while the caller works on its first
    decoded = 0
    lock = threading.Lock()

    def counting(data: bytes) -> DecodedImage:
        nonlocal decoded
        with lock:
            decoded += 1
        return decode(data)

    seen: list[int] = []

    def slow_take(_: FetchedRow) -> None:
        if not seen:
            time.sleep(1.0)
        seen.append(decoded)

    rows = rows_of(*(f"{server.url}/{number}.jpg" for number in range(200)))
    hits_before = len(server.hits)
    consume(
        rows,
        slow_take,
        opener=opener(),
        decode=counting,
        settings=SETTINGS,
        work_dir=tmp_path,
        decode_threads=2,
        max_waiting=5,
    )
    assert seen[0] <= 5
    assert len(seen) == 200
    assert len(server.hits) - hits_before == 200


def test_waiting_bodies_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation: wait_for_room returns at once -> dozens of bodies wait
    monkeypatch.setattr(download, "_MAX_WAITING_BYTES", 10_000)
    lock, waiting, most = threading.Lock(), 0, 0
    body = jpeg() + bytes(4000)

    class Counting:
        def fetch(self, url: str) -> Fetched:
            nonlocal waiting, most
            with lock:
                waiting += len(body)
                most = max(most, waiting)
            return Fetched(body, url, 200, Any, 1, len(body))  # pyright: ignore[reportArgumentType]

    def slow(data: bytes) -> DecodedImage:
        nonlocal waiting
        time.sleep(0.005)
        with lock:
            waiting -= len(data)
        return decode(data)

    rows = rows_of(*["http://example.com/"] * 100)
    consume(
        rows,
        lambda _: None,
        opener=Counting(),
        decode=slow,
        settings=SETTINGS,
        work_dir=tmp_path,
        max_waiting=100,
    )
    assert most <= 10_000 + (SETTINGS.threads + 1) * len(body)


def test_shards_with_other_openers_run_side_by_side(server: BadServer, tmp_path: Path) -> None:
    # mutation: one source for all calls in _RowOpener -> rows end with the other shard's outcome
    class Closed:
        def fetch(self, url: str) -> Fetched:
            time.sleep(0.01)
            raise Rejected(Outcome.BLOCKED, "closed")

    results: dict[str, dict[str, FetchedRow]] = {}

    def run(name: str, chosen: Any) -> None:
        folder = tmp_path / name
        folder.mkdir()
        results[name] = fetched_rows(rows_of(*[f"{server.url}/photo.jpg"] * 40), folder, opener=chosen)

    threads = [threading.Thread(target=run, args=pair) for pair in (("open", opener()), ("closed", Closed()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {row.outcome for row in results["open"].values()} == {None}
    assert {row.outcome for row in results["closed"].values()} == {Outcome.BLOCKED}


def test_others_in_the_process_use_urllib_as_before(server: BadServer, tmp_path: Path) -> None:
    # mutation: _RowOpener answers every address -> ValueError here
    engine.load()
    fetched_rows(rows_of(f"{server.url}/photo.jpg"), tmp_path)
    with urllib.request.urlopen(f"{server.url}/photo.jpg", timeout=5) as answer:
        assert answer.read() == jpeg()


def test_a_work_folder_with_odd_characters_will_do(server: BadServer, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder" #1 ünï'
    folder.mkdir()
    assert len(fetched_rows(rows_of(f"{server.url}/photo.jpg"), folder)) == 1
