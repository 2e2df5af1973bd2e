"""The driver's peak memory over the number of rows and shards of a build (stub pose model).

    python -m tests.benchmarks.driver_memory [--rows 2000 50000] [--rows-per-shard 50]

No peer: what is told is the growth from the shorter list to the longer one. A server in another process serves one tiny
image under many names; the build runs as a user starts it. Peak memory is the driver's resident set as the kernel
counts it (VmHWM), read while it runs. CPU time is that of the build's processes, Ray's included. The last line is one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.process_tree import INTERVAL_S, ProcessTree
from tests.benchmarks.rounds import table, versions
from tests.support.bad_server import separate_server
from tests.support.build_process import Build
from tests.support.stub_images import stub_image

IMAGES = 50


@dataclass(frozen=True)
class Driven:
    """One build: its length, its cost, and the driver's peak."""

    rows: int
    shards: int
    wall_s: float
    cpu_s: float
    peak_mb: float


def drive(rows: int, rows_per_shard: int) -> Driven:
    """Build a dataset from a list of `rows` URLs, and watch the driver."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "served").mkdir()
        for image in range(IMAGES):
            (work / "served" / f"{image}.jpg").write_bytes(stub_image(image, num_persons=image % 2))
        with separate_server(work / "served") as (url, _):
            list_path = work / "list.jsonl"
            with list_path.open("w") as stream:
                for row in range(rows):
                    stream.write(json.dumps({"url": f"{url}/{row % IMAGES}.jpg", "caption": f"row {row}"}) + "\n")
            build = Build(list_path, work / "d", rows_per_shard=rows_per_shard)
            start, peak_kb, cpu_s = time.monotonic(), 0, 0.0
            with build.started() as process:
                tree = ProcessTree(process.pid, with_root=True)
                while process.poll() is None:
                    peak_kb = max(peak_kb, _peak_kb(process.pid))
                    cpu_s = tree.sample()
                    time.sleep(INTERVAL_S)
                wall_s = time.monotonic() - start
            assert process.returncode == 0, build.log_path.read_text()
            return Driven(rows, len(build.layout.committed_shards()), wall_s, cpu_s, peak_kb / 1024)


def _peak_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) if found else 0


def report(driven: Sequence[Driven]) -> str:
    """A table and the growth; the last line is JSON."""
    few, many = driven
    headings = ["rows", "shards", "driver's peak MB", "wall s", "CPU s, all processes", "rows/s", "CPU ms a row"]
    rows = [
        [d.rows, d.shards, d.peak_mb, d.wall_s, d.cpu_s, d.rows / d.wall_s, 1000 * d.cpu_s / d.rows] for d in driven
    ]
    growth_mb = many.peak_mb - few.peak_mb
    a_shard_kb = 1024 * growth_mb / (many.shards - few.shards)
    growth = f"growth of the driver: {growth_mb:.1f} MB, {a_shard_kb:.1f} kB a further shard"
    data = {"benchmark": "driver_memory", "growth_mb": growth_mb, "runs": [asdict(d) for d in driven]}
    return "\n".join([table(headings, rows), "", growth, json.dumps(data)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[2_000, 50_000])
    parser.add_argument("--rows-per-shard", type=int, default=50)
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")
    print(f"stub pose model, 2 workers, 1 pose process, shards of {options.rows_per_shard} rows; no peer")
    print("wall and CPU time with start-up")
    print(versions("ray", "pyarrow", "webdataset"), flush=True)
    print()
    print(report([drive(rows, options.rows_per_shard) for rows in options.rows]))


if __name__ == "__main__":
    main()
