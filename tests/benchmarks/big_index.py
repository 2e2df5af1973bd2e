"""What it costs to open a dataset of 100,000 shards and 100 million samples whose index is there.

    python -m tests.benchmarks.big_index [--shards 100000] [--samples 1000] [--readers 4]

The folder has commit markers and tars of the right names and sizes (the tars are holes, and no sample is decoded), and
the index as `lposekit.shards.packed` describes it. Each figure is of a process of its own; private memory is what no
file stands behind (Anonymous); of the mapped index, Rss counts the pages that were looked at, which all readers share.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lposekit.shards.layout import DatasetLayout
from lposekit.shards.packed import COMPLETE, REGULAR, SAMPLE, SHARD, head_of

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("jpg", "json", "pose.json", "txt")
SIZES = (40_000, 900, 1_500, 60)
SAMPLE_BYTES = sum(512 + -(-size // 512) * 512 for size in SIZES)


def make(root: Path, num_shards: int, samples_each: int) -> None:
    """The folder."""
    layout = DatasetLayout(root)
    layout.meta.mkdir(parents=True)
    layout.card.write_text('{"schema": 1, "kind": "image"}')
    tar_bytes = samples_each * SAMPLE_BYTES + 1024
    table = np.zeros(num_shards, SHARD)
    for shard in range(num_shards):
        marker = layout.stats(shard)
        marker.write_text('{"count": 0}')
        with layout.tar(shard).open("wb") as tar:
            tar.truncate(tar_bytes)
        found = marker.stat()
        table[shard]["marker_bytes"], table[shard]["marker_ns"] = found.st_size, found.st_mtime_ns
    table["shard"], table["tar_bytes"], table["samples"] = np.arange(num_shards), tar_bytes, samples_each
    table["first"] = np.arange(num_shards) * samples_each
    table["flags"] = REGULAR | COMPLETE
    samples = np.zeros(samples_each, SAMPLE)
    samples["start"], samples["row"] = np.arange(samples_each) * SAMPLE_BYTES, np.arange(samples_each)
    samples["sizes"] = SIZES
    with layout.whole_index.open("wb") as file:
        file.write(head_of(num_shards * samples_each, num_shards, time.time_ns() + 10**10, [NAMES]))
        for _ in range(num_shards):
            file.write(samples.tobytes())
        file.write(table.tobytes())


def measured(what: str, root: Path) -> dict[str, float]:
    """In a process of its own."""
    before = memory()
    start = time.perf_counter()
    if what == "open_dataset":
        from lposekit import open_dataset

        dataset = open_dataset(root)
        count, shards = len(dataset), dataset.shards
    else:
        from trainer.data.catalog import open_catalog
        from trainer.data.order import OrderState, SampleOrder

        (catalog,) = open_catalog([root], "image")
        assert catalog.digest()
        order = SampleOrder([[len(shard) for shard in catalog.shards]], [1.0], seed=0)
        order.draw(OrderState(), 64)
        count, shards = sum(map(len, catalog.shards)), catalog.shards
    opened_s = time.perf_counter() - start
    draw, start = random.Random(0), time.perf_counter()
    for _ in range(10_000):
        shard = shards[draw.randrange(len(shards))]
        assert len(shard.members(draw.randrange(len(shard)))) == len(NAMES)
    looked_up_us = (time.perf_counter() - start) * 100
    after = memory()
    return {"samples": count, "open_s": opened_s, "look_up_us": looked_up_us} | {
        f"{name}_mb": (after[name] - before[name]) / 1024 for name in before
    }


def memory() -> dict[str, int]:
    """kB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return {name: int(re.findall(rf"^{name}:\s+(\d+)", text, re.M)[0]) for name in ("Anonymous", "Rss", "Pss")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--measured", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        print(json.dumps(measured(options.measured[0], Path(options.measured[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "d"
        make(root, options.shards, options.samples)
        print(f"index of {DatasetLayout(root).whole_index.stat().st_size / 2**30:.2f} GiB", flush=True)
        for what, together in (("open_dataset", 1), ("trainer", 1), ("trainer", options.readers)):
            command = [sys.executable, "-m", "tests.benchmarks.big_index", "--measured", what, str(root)]
            processes = [
                subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(together)
            ]
            for process in processes:
                print(what, f"({together} at a time)", process.communicate()[0].strip(), flush=True)


if __name__ == "__main__":
    main()
