"""Bar (d): the driver's peak memory grows by less than 20 MB from 2,000 to 50,000 rows (stub pose model).

    python -m tests.benchmarks.driver_memory [--rows 2000 50000]

A server in another process serves one tiny picture under many names; the build runs as a user starts it. Peak memory is
the driver's resident set as the kernel counts it (VmHWM), read while it runs. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path

from tests.support.bad_server import separate_server
from tests.support.build_process import Build
from tests.support.stub_pictures import stub_picture

LIMIT_MB = 20.0
PICTURES = 50


def driver_peak_mb(rows: int) -> tuple[float, float]:
    """Peak memory of the driver in MB, and the seconds of the whole run."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "served").mkdir()
        for picture in range(PICTURES):
            (work / "served" / f"{picture}.jpg").write_bytes(stub_picture(picture, num_persons=picture % 2))
        with separate_server(work / "served") as (url, _):
            list_path = work / "list.jsonl"
            with list_path.open("w") as stream:
                for row in range(rows):
                    stream.write(json.dumps({"url": f"{url}/{row % PICTURES}.jpg", "caption": f"row {row}"}) + "\n")
            build = Build(list_path, work / "d", rows_per_shard=500)
            start, peak_kb = time.monotonic(), 0
            with build.started() as process:
                while process.poll() is None:
                    peak_kb = max(peak_kb, _peak_kb(process.pid))
                    time.sleep(0.2)
            assert process.returncode == 0, build.log_path.read_text()
            return peak_kb / 1024, time.monotonic() - start


def _peak_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[2_000, 50_000])
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")
    results = {}
    for rows in options.rows:
        peak_mb, seconds = driver_peak_mb(rows)
        results[rows] = peak_mb
        print(f"{rows} rows: driver peak {peak_mb:.1f} MB, {seconds:.0f} s ({rows / seconds:.0f} rows/s)")
    few, many = options.rows
    growth = results[many] - results[few]
    print(f"bar (d): {growth:.1f} MB of at most {LIMIT_MB}")
    print(json.dumps({"benchmark": "driver_memory", "growth_mb": growth, "limit_mb": LIMIT_MB, "peaks_mb": results}))


if __name__ == "__main__":
    main()
