"""Bar (a): CPU time per image over loopback HTTPS, stock img2dataset 1.47 against ours, in the same run.

    python -m tests.benchmarks.fetch_decode [FOLDER] [--rows 300] [--rounds 3]

The photos of FOLDER (default: the fixtures' data/images) are served under opaque names by another process. Each engine
runs in a fresh process of its own, turn and turn about. What counts is the CPU time, user and system, of that process
and its children, after its imports and start-up, which are reported apart.

- stock: its own Downloader and Resizer (keep_ratio, 512, only if bigger, area, JPEG quality 95), samples thrown away;
- ours: GuardedOpener, download_rows, ImageDecoder with one killable child, encode_jpeg of every picture;
- ours_new: the same without kept connections, since stock keeps none and a web list has many hosts. The bar is judged
  on this one.

"decode" is decode, resize and encode, "fetch" is everything else: transport, hashes, threads, queues. Photos that only
one of the two accepts, and pictures of another size, are counted and printed. Both verify the server's certificate
against the system's list plus the server's own authority, as on a machine that fetches from the web. Both keep the
same number of threads. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
BAR = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="photos (default: the fixtures' data/images)")
    parser.add_argument("--rows", type=int, default=300, help="at least this many URLs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        run = json.loads((arguments.work / "run.json").read_text())
        json.dump(_measure(ENGINES[arguments.engine], run, arguments.work), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as name:
        print(report(compare(arguments, Path(name))))


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Run both engines in turn; returns the figures of each run by engine."""
    from tests.support.bad_server import separate_server
    from tests.support.fixtures import fixture_path

    names = publish(arguments.folder or fixture_path("data/images"), work / "public", arguments.rows)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
    with separate_server(work / "public", https=True) as (url, ca_file):
        assert ca_file is not None
        _write_trusted(ca_file, work / "trusted.pem")
        run = {"urls": [f"{url}/{name}" for name in names], "threads": arguments.threads}
        (work / "run.json").write_text(json.dumps(run))
        for _ in range(arguments.rounds):
            for engine, results in runs.items():
                results.append(_run_engine(engine, work))
    return runs


def publish(folder: Path, public: Path, num_rows: int) -> list[str]:
    """Copy the photos under opaque names until there are `num_rows`; returns the names."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS)
    public.mkdir()
    names = []
    while len(names) < num_rows:
        for photo in photos:
            names.append(hashlib.sha256(f"{len(names)}".encode()).hexdigest()[:16])
            shutil.copyfile(photo, public / names[-1])
    return names


def _write_trusted(ca_file: Path, target: Path) -> None:
    import certifi

    system = ssl.get_default_verify_paths().cafile or certifi.where()
    target.write_bytes(Path(system).read_bytes() + b"\n" + ca_file.read_bytes())


def _run_engine(engine: str, work: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--engine", engine, "--work", str(work)]
    environment = {**os.environ, "SSL_CERT_FILE": str(work / "trusted.pem"), "NO_ALBUMENTATIONS_UPDATE": "1"}
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(finished.stdout.splitlines()[-1])


Engine = Callable[[dict[str, Any], Path], "Prepared"]
Prepared = Callable[[], tuple[float, dict[str, tuple[int, int]]]]
"""Fetches everything; returns the CPU seconds of decode, resize and encode, and the size of each picture by URL."""


def _measure(engine: Engine, run: dict[str, Any], work: Path) -> dict[str, Any]:
    """CPU milliseconds per image of one engine, in this process."""
    start_s = _cpu_s()
    fetch_all = engine(run, work)
    ready_s, began_s = _cpu_s(), time.perf_counter()
    decode_s, sizes = fetch_all()
    total_s, wall_s = _cpu_s() - ready_s, time.perf_counter() - began_s
    per_image = 1000 / len(run["urls"])
    return {
        "start_s": ready_s - start_s,
        "fetch_ms": (total_s - decode_s) * per_image,
        "decode_ms": decode_s * per_image,
        "total_ms": total_s * per_image,
        "wall_ms": wall_s * per_image,
        "sizes": sizes,
    }


def _cpu_s() -> float:
    """CPU time of this process and of all its children, living and dead."""
    import psutil

    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + dead.ru_utime + dead.ru_stime + sum(times.user + times.system for times in living)


def stock(run: dict[str, Any], work: Path) -> Prepared:
    """img2dataset 1.47 as its own `download` builds it, but for the writer, which throws samples away."""
    import pyarrow as pa
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer

    decode_s = 0.0
    sizes: dict[str, tuple[int, int]] = {}
    resizer = Resizer(
        512, "keep_ratio", resize_only_if_bigger=True, encode_quality=95, min_image_size=64, max_aspect_ratio=8.0
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
                sizes[meta["url"]] = (meta["width"], meta["height"])

        def close(self) -> None:
            pass

    rows_file = work / "stock.feather"
    table = pa.table({"url": run["urls"]})
    with pa.OSFile(str(rows_file), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    downloader = Downloader(
        sample_writer_class=Counter,
        resizer=timed_resizer,
        thread_count=run["threads"],
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

    def fetch_all() -> tuple[float, dict[str, tuple[int, int]]]:
        ok, _ = downloader((0, str(rows_file)))
        assert ok, "stock img2dataset failed: see its traceback"
        return decode_s, sizes

    return fetch_all


def ours(run: dict[str, Any], work: Path, *, keep_alive: bool = True) -> Prepared:
    """The path of `build-laion-pose` up to the stored JPEG, with one decoder child."""
    import psutil
    from pipelines.decode.images import ImageDecoder, encode_jpeg
    from pipelines.fetch.download import FetchedRow, download_rows
    from pipelines.settings import FetchSettings, ImageSettings

    from lposekit.records import ImageRow
    from pipelines.fetch import engine
    from pipelines.fetch.polite import polite_opener

    engine.load()
    settings = FetchSettings(threads=run["threads"], per_host_connections=run["threads"])
    opener = polite_opener(settings, allow_private_addresses=True)
    decoder = ImageDecoder(ImageSettings())
    decoder.start()
    rows = [ImageRow(f"{index:09}", url, "") for index, url in enumerate(run["urls"])]
    sizes: dict[str, tuple[int, int]] = {}
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
        encode_jpeg(fetched.image.rgb_HWC, 95)
        here_s += time.thread_time() - began_s
        sizes[str(fetched.row.url)] = (fetched.image.width, fetched.image.height)

    class Reconnecting:
        """Keeps no connection: as on a list where every picture lies on a server of its own."""

        def fetch(self, url: str) -> Any:
            try:
                return opener.fetch(url)
            finally:
                opener.close()

    fetcher = opener if keep_alive else Reconnecting()

    def fetch_all() -> tuple[float, dict[str, tuple[int, int]]]:
        children = psutil.Process().children(recursive=True)
        before_s = sum(sum(child.cpu_times()[:2]) for child in children)
        download_rows(rows, opener=fetcher, decode=timed_decode, settings=settings, sink=take, work_dir=work)
        children_s = sum(sum(child.cpu_times()[:2]) for child in children) - before_s
        return here_s + children_s, sizes

    return fetch_all


ENGINES: dict[str, Engine] = {"stock": stock, "ours": ours, "ours_new": partial(ours, keep_alive=False)}


def report(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A table for people, then the same as one line of JSON."""
    names = ("fetch_ms", "decode_ms", "total_ms", "wall_ms", "start_s")
    middle = {engine: {name: statistics.median(run[name] for run in runs[engine]) for name in names} for engine in runs}
    ratio = {
        engine: {name: middle["stock"][name] / middle[engine][name] for name in names}
        for engine in ("ours", "ours_new")
    }
    sizes = {engine: runs[engine][0]["sizes"] for engine in runs}
    both = sizes["stock"].keys() & sizes["ours"].keys()
    counts = {
        "pictures_stock": len(sizes["stock"]),
        "pictures_ours": len(sizes["ours"]),
        "other_size": sum(sizes["stock"][url] != sizes["ours"][url] for url in both),
    }
    lines = [f"CPU per image, median of {len(runs['ours'])} runs; ratios are stock / ours and stock / ours_new"]
    lines += [f"{'':10}" + "".join(f"{engine:>10}" for engine in runs) + f"{'ratio':>8}{'ratio':>8}"]
    for name in names:
        figures = "".join(f"{middle[engine][name]:10.2f}" for engine in runs)
        lines.append(f"{name:10}{figures}{ratio['ours'][name]:8.2f}{ratio['ours_new'][name]:8.2f}")
    lines += [f"{counts}", f"bar (a): total ratio {ratio['ours_new']['total_ms']:.2f}, wanted {BAR}"]
    return "\n".join([*lines, json.dumps({"bar": "a", "ratio": ratio, **middle, **counts})])


if __name__ == "__main__":
    main()
