"""The forms of fetch and decode that `fetch_decode` compares, each measured in a process of its own.

    python -m tests.benchmarks.fetch_forms FORM WORK --rows N --threads COUNT ...

It also runs under a Python that has little but img2dataset: nothing of lposekit is imported but where ours runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.rounds import cpu_s, timed, versions

PEER_PACKAGES = ("img2dataset", "albumentations", "opencv-python-headless", "numpy")
WARM_UP_ROWS = 32

Stored = Sequence[int]
"""Width and height of a stored image, and the bytes of its file."""
FetchAll = Callable[[], tuple[float, dict[str, Stored]]]
"""Fetches everything; returns the CPU seconds of decode, resize and encode, and what would be stored, by URL."""


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to begin."""

    fetch_all: FetchAll
    close: Callable[[], None] = lambda: None


Engine = Callable[[Sequence[str], int, Path], Prepared]
"""URLs, threads, and a folder for temporary files."""


@dataclass(frozen=True)
class Pass:
    """One pass of one form: CPU milliseconds per image of its parts, wall milliseconds, and what it stored."""

    python: str
    packages: str
    start_s: float
    fetch_ms: float
    decode_ms: float
    cpu_ms: float
    wall_ms: float
    stored: dict[str, Stored]


def main() -> None:
    """Measure one form with each of the thread counts; the last line printed has all passes as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("work", type=Path, help="folder with urls.json, for temporary files")
    parser.add_argument("--rows", type=int, required=True, help="URLs to fetch")
    parser.add_argument("--threads", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    urls = json.loads((arguments.work / "urls.json").read_text())[: arguments.rows]
    engine = FORMS[arguments.form].engine
    if len(arguments.threads) > 1:  # a search within one process: its first pass must not pay for all first uses
        measure(engine, urls[:WARM_UP_ROWS], arguments.threads[0], arguments.work)
    passes = [measure(engine, urls, threads, arguments.work) for threads in arguments.threads]
    print(json.dumps([asdict(one) for one in passes]))


def measure(engine: Engine, urls: Sequence[str], threads: int, work: Path) -> Pass:
    """One pass in this process."""
    started_s = cpu_s()
    prepared = engine(urls, threads, work)
    start_s = cpu_s() - started_s
    answers = []
    took = timed(lambda: answers.append(prepared.fetch_all()))
    prepared.close()
    decode_s, stored = answers[0]
    per_image = 1000 / len(urls)
    return Pass(
        python=f"Python {platform.python_version()}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}",
        packages=versions(*PEER_PACKAGES),
        start_s=start_s,
        fetch_ms=(took.cpu_s - decode_s) * per_image,
        decode_ms=decode_s * per_image,
        cpu_ms=took.cpu_s * per_image,
        wall_ms=took.wall_s * per_image,
        stored=stored,
    )


def stock(
    urls: Sequence[str], threads: int, work: Path, *, one_context: bool = False, skip_reencode: bool = False
) -> Prepared:
    """img2dataset 1.47 as its own `download` builds it, but for the writer, which throws samples away."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer

    install_opener(one_context)
    decode_s = 0.0
    stored: dict[str, Stored] = {}
    resizer = Resizer(
        512,
        "keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=95,
        skip_reencode=skip_reencode,
        min_image_size=64,
        max_aspect_ratio=8.0,
    )

    def timed_resizer(stream: Any, boxes: Any) -> Any:
        nonlocal decode_s
        began_s = time.thread_time()
        answer = resizer(stream, boxes)
        decode_s += time.thread_time() - began_s
        return answer

    class Counter:
        def __init__(self, *_: Any) -> None:
            pass

        def write(self, img_str: bytes | None, key: str, caption: Any, meta: dict[str, Any]) -> None:
            if img_str is not None:
                stored[meta["url"]] = (meta["width"], meta["height"], len(img_str))

        def close(self) -> None:
            pass

    rows_file = write_rows(urls, work / "stock.feather")
    downloader = Downloader(
        sample_writer_class=Counter,
        resizer=timed_resizer,
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(work),
        column_list=["url"],
        timeout=10,
        number_sample_per_shard=10000,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )

    def fetch_all() -> tuple[float, dict[str, Stored]]:
        ok, _ = downloader((0, str(rows_file)))
        assert ok, "stock img2dataset failed: see its traceback"
        return decode_s, stored

    return Prepared(fetch_all)


def install_opener(one_context: bool) -> None:
    """What urlopen uses. Without `one_context` it is what urlopen would make itself, but before the clock starts.

    Left alone, each thread that comes early makes one: under Python 3.12 as many CA bundles are loaded as there are
    threads. A run of hours does not notice that, one of 300 images would.
    """
    handlers = [urllib.request.HTTPSHandler(context=ssl.create_default_context())] if one_context else []
    urllib.request.install_opener(urllib.request.build_opener(*handlers))


def write_rows(urls: Sequence[str], path: Path) -> Path:
    """The input file of img2dataset's Downloader, which removes it."""
    import pyarrow as pa

    rows = pa.table({"url": list(urls)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    return path


def ours(
    urls: Sequence[str], threads: int, work: Path, *, keep_connections: bool = True, resume: bool = True
) -> Prepared:
    """The path of `build-laion-pose` up to the stored JPEG, with one decoder child.

    A list whose images lie on a server of their own each keeps no connection and resumes no TLS session; one of a host
    that closes each connection resumes sessions.
    """
    import psutil

    from lposekit.records import ImageRow
    from pipelines.fetch.polite import polite_opener
    from pipelines.fetch.settings import FetchSettings
    from pipelines.image import engine
    from pipelines.image.decode import ImageDecoder, encode_jpeg
    from pipelines.image.download import FetchedRow, download_rows
    from pipelines.image.settings import ImageSettings

    engine.load()
    settings = FetchSettings(threads=threads, per_host_connections=threads)
    opener = polite_opener(settings, allow_private_addresses=True)
    if not keep_connections:
        opener.transport.idle.max_connections = 0
    if not resume:
        opener.transport.sessions.max_origins = 0
    decoder = ImageDecoder(ImageSettings())
    decoder.start()
    rows = [ImageRow(f"{index:09}", url, "") for index, url in enumerate(urls)]
    stored: dict[str, Stored] = {}
    here_s = 0.0

    def timed_decode(data: bytes) -> Any:
        nonlocal here_s
        began_s = time.thread_time()
        try:
            return decoder.decode(data)
        finally:
            here_s += time.thread_time() - began_s

    def take(fetched: FetchedRow) -> None:
        nonlocal here_s
        if fetched.outcome is not None or fetched.image is None:
            return
        began_s = time.thread_time()
        coded = encode_jpeg(fetched.image.rgb_HWC, 95)
        here_s += time.thread_time() - began_s
        stored[str(fetched.row.url)] = (fetched.image.width, fetched.image.height, len(coded))

    def fetch_all() -> tuple[float, dict[str, Stored]]:
        children = psutil.Process().children(recursive=True)
        before_s = sum(sum(child.cpu_times()[:2]) for child in children)
        for row in download_rows(rows, opener=opener, decode=timed_decode, settings=settings, work_dir=work):
            take(row)
        children_s = sum(sum(child.cpu_times()[:2]) for child in children) - before_s
        return here_s + children_s, stored

    def close() -> None:
        decoder.close()
        opener.close()

    return Prepared(fetch_all, close)


@dataclass(frozen=True)
class Form:
    """One row of the table. `python`: `this`, or `3.12` for the other interpreter."""

    label: str
    engine: Engine
    python: str = "this"
    skips_reencode: bool = False
    is_weak: bool = False


THIS_PYTHON = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
LOADS_EACH_TIME = sys.version_info < (3, 12)
FORMS = {
    "stock": Form(f"stock as it is, {THIS_PYTHON}", stock, is_weak=LOADS_EACH_TIME),
    "stock_context": Form(f"stock, one TLS context, {THIS_PYTHON}", partial(stock, one_context=True)),
    "stock_skip": Form(
        f"stock, one TLS context, skip_reencode, {THIS_PYTHON}",
        partial(stock, one_context=True, skip_reencode=True),
        skips_reencode=True,
    ),
    "stock_312": Form("stock as it is, Python 3.12", stock, python="3.12"),
    "stock_312_skip": Form(
        "stock, skip_reencode, Python 3.12", partial(stock, skip_reencode=True), python="3.12", skips_reencode=True
    ),
    "ours_new": Form(
        f"ours, a new connection for each image, {THIS_PYTHON}", partial(ours, keep_connections=False, resume=False)
    ),
    "ours_resumed": Form(
        f"ours, a new connection for each image, TLS session resumed, {THIS_PYTHON}",
        partial(ours, keep_connections=False),
    ),
    "ours_kept": Form(f"ours, kept connections, {THIS_PYTHON}", ours),
}
OURS = ("ours_new", "ours_resumed", "ours_kept")


if __name__ == "__main__":
    main()
