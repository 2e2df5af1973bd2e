"""What a few bad hosts cost the rows of all others: rows a second of a build, with them and without.

    python -m tests.benchmarks.slow_hosts [--rows 20000] [--rounds 2] [--forms hangs drips robots]

No peer: what is told is the throughput of the innocent rows against a list of the same rows without the bad ones. A
server in another process serves the fixtures' photos, with a strip on top that the stub pose model reads, under 40
addresses of loopback. One row in ten leads to one host that never answers, or that sends a byte every two seconds; or
three rows in ten lead to hosts with a robots.txt of 512 KB of wildcards, by addresses of 8,000 characters. Robots,
guards and sandbox are on. Time counts from the first shard's start to the last one's end. The workers' memory,
descriptors and threads are read while they run. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt
import psutil

from lposekit.pose.stub import SQUARE_PX, encode_bits
from tests.benchmarks.process_tree import INTERVAL_S, ProcessTree
from tests.benchmarks.rounds import Spread, alternate, ratio, skip, table, versions
from tests.support.bad_server import BadServer
from tests.support.build_process import Build, actor_processes
from tests.support.fixtures import REPOSITORY, fixtures_root
from tests.support.pages import Page

NUM_HOSTS = 40
LONG_NAME = "x" * 7_950
FORMS = {
    "none": "without",
    "hangs": "10 % of rows on a host that hangs",
    "drips": "10 % of rows on a host that drips",
    "none_robots": "without",
    "robots": "30 % of hosts with hostile robots.txt",
}
WITH_BAD = ["hangs", "drips", "robots"]
BAD_IN_TEN = {"none": 1, "hangs": 1, "drips": 1, "none_robots": 3, "robots": 3}
BAD_PATHS = {"hangs": "mute", "drips": "drip/2"}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server process listens, on every address of loopback."""

    good: int
    hostile: int


@dataclass(frozen=True, slots=True)
class Built:
    """One build. innocent: rows that end as they do without the bad hosts; lost: those of them that do not."""

    innocent: int
    lost: int
    wall_s: float
    cpu_s: float
    memory_mb: tuple[float, float]
    descriptors: tuple[int, int]
    threads: tuple[int, int]

    @property
    def rows_per_s(self) -> float:
        return self.innocent / self.wall_s


def hostile_robots() -> bytes:
    line = b"Disallow: /" + b"*x" * 40 + b"y$\n"
    return b"User-agent: *\n" + line * (512 * 1024 // len(line) - 1)


def marked(bgr_HWC: npt.NDArray[Any]) -> bytes:
    """The photo at the size in which it is stored, so that the strip is as well: one person, twelve keypoints."""
    height, width = bgr_HWC.shape[:2]
    scale = 512 / min(height, width)
    bgr_HWC = cv2.resize(bgr_HWC, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    for place, bit in enumerate(encode_bits(1, 12, "well", 0)):
        bgr_HWC[:SQUARE_PX, place * SQUARE_PX : (place + 1) * SQUARE_PX] = 255 * bit
    return cv2.imencode(".jpg", bgr_HWC)[1].tobytes()


def serve(photos: Path) -> None:
    """Until somebody kills this process."""
    images = [marked(photo) for path in sorted(photos.glob("*.jpg")) if (photo := cv2.imread(str(path))) is not None]
    pages = {f"/{number}.jpg": Page(image) for number, image in enumerate(images)}
    hostile = {f"/{LONG_NAME}{path[1:]}": page for path, page in pages.items()}
    hostile["/robots.txt"] = Page(hostile_robots(), "text/plain")
    with BadServer(pages, address="0.0.0.0") as good, BadServer(hostile, address="0.0.0.0") as bad:
        print(json.dumps([good.port, bad.port, len(pages)]), flush=True)
        threading.Event().wait()


@contextmanager
def served(photos: Path) -> Iterator[tuple[Ports, int]]:
    """The server process; yields its ports, and the number of its images."""
    command = [sys.executable, "-m", "tests.benchmarks.slow_hosts", "--serve", str(photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        good, hostile, num_images = json.loads(process.stdout.readline())
        try:
            yield Ports(good, hostile), num_images
        finally:
            process.kill()


def list_rows(form: str, rows: int, ports: Ports, num_images: int) -> Iterator[dict[str, str]]:
    """The innocent rows are the same with bad hosts and without."""
    for number in range(rows):
        host = f"127.0.0.{number % NUM_HOSTS + 2}"
        if number % 10 >= BAD_IN_TEN[form]:
            yield {"url": f"http://{host}:{ports.good}/{number % num_images}.jpg", "caption": f"good {number}"}
        elif form == "robots":
            url = f"http://127.0.1.{number % NUM_HOSTS + 2}:{ports.hostile}/{LONG_NAME}{number % num_images}.jpg"
            yield {"url": url, "caption": "bad"}
        elif form in BAD_PATHS:
            yield {"url": f"http://127.0.2.2:{ports.good}/{BAD_PATHS[form]}?{number}", "caption": "bad"}


class ObedientBuild(Build):
    """With robots.txt heeded."""

    def arguments(self) -> list[str]:
        return [argument for argument in super().arguments() if argument != "--fetch.no-robots"]


def drive(form: str, rows: int, ports: Ports, num_images: int) -> Built:
    """One build, watched."""
    with tempfile.TemporaryDirectory() as name:
        list_path = Path(name) / "list.jsonl"
        wanted = list(list_rows(form, rows, ports, num_images))
        list_path.write_text("".join(json.dumps(row) + "\n" for row in wanted))
        build = ObedientBuild(list_path, Path(name) / "d", rows_per_shard=1000)
        cpu_s, seen = 0.0, list[tuple[float, int, int]]()
        with build.started() as process:
            tree = ProcessTree(process.pid, with_root=True)
            while process.poll() is None:
                cpu_s = tree.sample()
                seen += [found] if (found := _workers(process)) else []
                time.sleep(INTERVAL_S)
        assert process.returncode == 0, build.log_path.read_text()
        return _built(build, wanted, cpu_s, seen)


def _workers(process: subprocess.Popen[str]) -> tuple[float, int, int] | None:
    """MB (without what they share, such as Ray's object store), descriptors and threads of the workers together."""
    try:
        workers = actor_processes(process, "ShardWorker")
        return (
            (
                sum(memory.rss - memory.shared for memory in (worker.memory_info() for worker in workers)) / 2**20,
                sum(worker.num_fds() for worker in workers),
                sum(worker.num_threads() for worker in workers),
            )
            if len(workers) == 2
            else None
        )
    except psutil.Error:
        return None


def _built(
    build: Build, wanted: Sequence[dict[str, str]], cpu_s: float, seen: Sequence[tuple[float, int, int]]
) -> Built:
    from lposekit import open_dataset

    stats = [json.loads(path.read_text()) for path in build.output.glob("*_stats.json")]
    wall_s = max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)
    rows = open_dataset(build.output).rows().select(["caption", "outcome"]).to_pylist()
    innocent = [row["outcome"] for row in rows if row["caption"] != "bad"]
    assert len(rows) == len(wanted)
    lost = sum(outcome in ("timeout", "connect", "dns", "worker_crash", "robots") for outcome in innocent)
    third = max(len(seen) // 3, 1)
    peaks = [tuple(max(part[column] for part in half) for half in (seen[:third], seen[-third:])) for column in range(3)]
    return Built(len(innocent), lost, wall_s, cpu_s, *peaks)  # type: ignore[arg-type]


def report(results: dict[str, list[Built]]) -> str:
    """The table; the last line is JSON."""
    lines = []
    for form, built in results.items():
        first, last = built[0], built[-1]
        against = "none_robots" if form == "robots" else "none"
        share = ratio([each.rows_per_s for each in built], [each.rows_per_s for each in results[against]])
        ends = [f"{low:.0f} -> {high:.0f}" for low, high in (last.memory_mb, last.descriptors, last.threads)]
        speed = Spread.of([each.rows_per_s for each in built])
        cpu_ms = Spread.of([1000 * each.cpu_s / each.innocent for each in built])
        lines.append(
            [FORMS.get(form, form), first.innocent, sum(each.lost for each in built), speed, share, cpu_ms, *ends]
        )
    headings = ["list", "innocent rows", "lost", "innocent rows/s", "of the list without"]
    headings += ["CPU ms an innocent row", "workers' MB", "descriptors", "threads"]
    figures = {form: [asdict(each) for each in built] for form, built in results.items()}
    return (
        f"{versions('img2dataset', 'ray')}\n\n{table(headings, lines)}\n"
        "Of the last three the peaks in the first third and in the last third of a run.\n\n" + json.dumps(figures)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=WITH_BAD)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    photos = fixtures_root() / "data" / "images"
    if not photos.is_dir():
        skip(f"{photos} is not there")
    without = {"none_robots" if form == "robots" else "none" for form in options.forms}
    names = [name for name in FORMS if name in without or name in options.forms]
    with served(photos) as (ports, num_images):
        forms = {name: partial(drive, name, options.rows, ports, num_images) for name in names}
        print(report(alternate(forms, options.rounds)))


if __name__ == "__main__":
    main()
