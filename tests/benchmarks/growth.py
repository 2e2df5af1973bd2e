"""How time and memory of what reads a whole dataset folder grow with the number of its shards.

    python -m tests.benchmarks.growth [--sizes 1000 10000 100000] [--rounds 3] [--limit-s 180] [--wide-rows 1000]

Image datasets of 8 rows (4 samples) a shard, as a finished build leaves them (`tests/benchmarks/synthetic.py`). Each
operation runs in a process of its own; wall and CPU are of the whole process, start and imports included; memory is its
peak resident set as the kernel counts it (VmHWM). A pass that should take longer than 20 s, by the growth so far, is
run once; one that should take longer than `--limit-s` is not run: the table then shows what was extrapolated. Two more
folders, of few shards with many rows, tell apart what a shard costs and what a row costs.

There is no peer. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.rounds import Spread, alternate, skip, table, timed, versions

REPOSITORY = Path(__file__).resolve().parents[2]  # not from tests.support, whose imports would be measured too
ROWS = 8
WIDE_SIZES = (40, 200)
SAMPLES_READ = 100
ONCE_ABOVE_S = 20.0
SPARE_BYTES = 2 * 2**30
OPERATIONS = {
    "index": "`open_dataset` that makes the index",
    "open": "`open_dataset`",
    "catalog": "trainer: `open_catalog`, digest, first 64 draws",
    "resume": "`build-laion-pose` with nothing left (report aside)",
    "verify": "`lposekit verify`",
    "view": "`lposekit view`",
}
MEASURES = ("wall_s", "cpu_s", "peak_mb")


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of one operation. ``read_ms``: to read one random sample of the open dataset."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    read_ms: float | None = None


Passes = dict[str, list[Pass]]
"""Operation -> its passes over one folder; an operation that was not run is missing."""
Results = dict[int, Passes]
"""Number of shards -> passes, in rising order."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A dataset folder of equal shards."""

    root: Path
    shards: int
    rows_per_shard: int


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line: what one more shard costs, and what none would."""

    slope: float
    start: float

    def at(self, shards: float) -> float:
        return self.start + self.slope * shards


# What runs in the process that is measured. `build` are the arguments of the command that made the folder.


def make_index(root: Path, build: Sequence[str]) -> dict[str, float]:
    from lposekit import open_dataset
    from lposekit.shards.layout import DatasetLayout

    DatasetLayout(root).whole_index.unlink(missing_ok=True)
    assert len(open_dataset(root))
    return {}


def open_and_read(root: Path, build: Sequence[str]) -> dict[str, float]:
    from lposekit import open_dataset

    dataset = open_dataset(root)
    draw = random.Random(0)
    start = time.perf_counter()
    for _ in range(SAMPLES_READ):
        assert dataset[draw.randrange(len(dataset))].members["jpg"]
    return {"read_ms": 1000 * (time.perf_counter() - start) / SAMPLES_READ}


def start_training_data(root: Path, build: Sequence[str]) -> dict[str, float]:
    """As `trainer.run.data.open_data` does, without a model."""
    from trainer.data.catalog import open_catalog
    from trainer.data.order import OrderState, SampleOrder

    datasets = open_catalog([root], "image")
    assert [dataset.digest() for dataset in datasets]
    order = SampleOrder([[len(shard) for shard in dataset.shards] for dataset in datasets], [1.0], seed=0)
    refs, _ = order.draw(OrderState(), 64)
    assert len(refs) == 64
    return {}


def resume_finished(root: Path, build: Sequence[str]) -> dict[str, float]:
    """The command as it stands, but for the report at its end, which is `lposekit view` in a process of its own."""
    from lposekit.cli import main
    from pipelines import build as build_module

    build_module.write_report = lambda layout: None
    assert main([*build, "--json"]) == 0
    return {}


def run_command(name: str, root: Path, build: Sequence[str]) -> dict[str, float]:
    from lposekit.cli import main

    assert main([name, str(root)]) == 0
    return {}


MEASURED: dict[str, Callable[[Path, Sequence[str]], dict[str, float]]] = {
    "index": make_index,
    "open": open_and_read,
    "catalog": start_training_data,
    "resume": resume_finished,
    "verify": partial(run_command, "verify"),
    "view": partial(run_command, "view"),
}


def run_measured(operation: str, root: Path, build: Sequence[str]) -> None:
    """The measured process; its last line says what only it knows."""
    measures = MEASURED[operation](root, build)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print("\n" + json.dumps({"peak_mb": int(found.group(1)) / 1024, **measures}))


# What measures it.


def measure(operation: str, folder: Folder) -> Pass:
    """One operation in a process of its own."""
    from tests.benchmarks.synthetic import build_arguments

    arguments = [str(folder.root), *build_arguments(folder.root, folder.rows_per_shard)]
    command = [sys.executable, "-m", "tests.benchmarks.growth", "--measured", operation, *arguments]
    done: list[subprocess.CompletedProcess[str]] = []
    taken = timed(
        lambda: done.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False))
    )
    if done[0].returncode != 0:
        sys.exit(f"{operation} over {folder.shards} shards failed:\n{done[0].stdout}{done[0].stderr}")
    said, _, last = done[0].stdout.rstrip().rpartition("\n")
    if operation == "resume":
        answer = json.loads(said)
        assert (answer["rows"], answer["new_rows"]) == (folder.shards * folder.rows_per_shard, 0), answer
    return Pass(taken.wall_s, taken.cpu_s, **json.loads(last))


def measure_folder(folder: Folder, rounds: Mapping[str, int]) -> Passes:
    """The operations in alternating rounds, as many as are said for each; those of one round come last."""
    results: Passes = {}
    for number in sorted(set(rounds.values()), reverse=True):
        forms = {name: partial(measure, name, folder) for name, wanted in rounds.items() if wanted == number}
        results |= alternate(forms, number)
    return results


def middle(passes: Sequence[Pass], measure_name: str) -> float:
    return Spread.of([getattr(each, measure_name) for each in passes]).middle


def sizes_of(results: Results, operation: str) -> list[int]:
    """The sizes that an operation was run at, rising."""
    return [shards for shards, passes in results.items() if operation in passes]


def line(results: Results, operation: str, measure_name: str, sizes: Sequence[int]) -> Line:
    """Through the medians at two sizes."""
    low, high = (middle(results[shards][operation], measure_name) for shards in sizes)
    slope = (high - low) / (sizes[1] - sizes[0])
    return Line(slope, low - slope * sizes[0])


def rounds_of(results: Results, shards: int, options: argparse.Namespace) -> dict[str, int]:
    """How often each operation is run on a folder of this size; those that would take too long are left out."""
    rounds = {}
    for operation in OPERATIONS:
        before, expected_s = sizes_of(results, operation)[-2:], 0.0
        if len(before) == 2:
            expected_s = line(results, operation, "wall_s", before).at(shards)
        elif before:  # start-up counted as if it grew too: rather one round than an hour
            expected_s = middle(results[before[0]][operation], "wall_s") * shards / before[0]
        if expected_s <= options.limit_s:
            rounds[operation] = options.rounds if expected_s <= ONCE_ABOVE_S else 1
        elif len(before) < 2:
            rounds[operation] = 1
    return rounds


def disk_reason(work: Path, num_bytes: int, num_files: int) -> str | None:
    """Why a folder does not fit on the disk; None if it does."""
    disk = os.statvfs(work)
    free = disk.f_bavail * disk.f_frsize
    if free < num_bytes + SPARE_BYTES:
        return (
            f"it needs {(num_bytes + SPARE_BYTES) / 2**30:.1f} GiB, {free / 2**30:.1f} are free in the temporary folder"
        )
    if disk.f_files and disk.f_favail < num_files:  # file systems without a table of inodes say 0
        return f"it needs {num_files} inodes, {disk.f_favail} are free in the temporary folder"
    return None


def measure_sizes(
    work: Path, rows: int, sizes: Sequence[int], options: argparse.Namespace
) -> tuple[Results, list[str]]:
    """Folders of these numbers of shards, smallest first, and what is to be said about them."""
    from tests.benchmarks.synthetic import make_folder, make_template

    template = make_template(work / f"template-{rows}", rows)
    results: Results = {}
    notes = []
    for shards in sorted(sizes):
        name = f"{shards} shards of {rows} rows"
        reason = disk_reason(work, shards * template.disk_bytes, shards * template.num_files)
        if reason:
            notes.append(f"{name}: not run, {reason}.")
            continue
        rounds = rounds_of(results, shards, options)
        folder = Folder(work / f"folder-{rows}-{shards}", shards, rows)
        made_s = timed(partial(make_folder, folder.root, template, shards)).wall_s
        notes.append(f"{name}: made in {made_s:.0f} s, {shards * template.disk_bytes / 2**30:.2f} GiB.")
        print(notes[-1], file=sys.stderr, flush=True)
        results[shards] = measure_folder(folder, rounds)
        shutil.rmtree(folder.root)
        too_long = ", ".join(text for operation, text in OPERATIONS.items() if operation not in rounds)
        if too_long:
            notes.append(f"{name}: not run, it would take longer than {options.limit_s:.0f} s: {too_long}.")
    return results, notes


# What is printed.


def told(passes: Sequence[Pass], measure_name: str) -> float | Spread:
    values = [getattr(each, measure_name) for each in passes]
    return Spread.of(values) if len(values) > 1 else values[0]


def growth_rows(results: Results) -> list[list[Any]]:
    """Every operation at every size, measured or extrapolated."""
    rows = []
    for operation, text in OPERATIONS.items():
        known = sizes_of(results, operation)[-2:]
        for shards, passes in results.items():
            if operation in passes:
                cells: list[Any] = [told(passes[operation], name) for name in MEASURES]
            else:
                at = (line(results, operation, name, known).at(shards) for name in MEASURES)
                cells = [f"extrapolated: {value:.0f}" for value in at]
            rows.append([text, shards, *cells])
    return rows


def marginal_costs(results: Results, wide: Results, wide_rows: int) -> dict[str, dict[str, Any]]:
    """What one more shard costs, by the two largest sizes; and, against shards of many rows, the shard itself and a row
    apart."""
    costs: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        sizes, wide_sizes = (sizes_of(each, operation)[-2:] for each in (results, wide))
        if len(sizes) < 2:
            continue
        costs[operation] = {"between": sizes}
        for name in MEASURES:
            shard = line(results, operation, name, sizes).slope
            costs[operation][f"shard_{name}"] = shard
            if len(wide_sizes) == 2:
                row = (line(wide, operation, name, wide_sizes).slope - shard) / (wide_rows - ROWS)
                costs[operation] |= {f"row_{name}": row, f"bare_shard_{name}": shard - ROWS * row}
    return costs


def marginal_rows(costs: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    rows = []
    for operation, cost in costs.items():
        cells = [cost["shard_wall_s"] * 1e3, cost["shard_cpu_s"] * 1e3, cost["shard_peak_mb"] * 1024]
        apart: list[Any] = ["-"] * 4
        if "row_cpu_s" in cost:
            apart = [cost["bare_shard_cpu_s"] * 1e3, cost["bare_shard_peak_mb"] * 1024]
            apart += [f"{cost['row_cpu_s'] * 1e6:.1f}", f"{cost['row_peak_mb'] * 2**20:.0f}"]
        rows.append([OPERATIONS[operation], " to ".join(map(str, cost["between"])), *cells, *apart])
    return rows


def print_tables(results: Results, wide: Results, costs: Mapping[str, Mapping[str, Any]], wide_rows: int) -> None:
    headings = ["operation", "shards", "wall s", "CPU s", "peak MB"]
    print(table(headings, growth_rows(results)))
    if wide:
        print(f"\nShards of {wide_rows} rows, {wide_rows // 2} samples:")
        print(table(headings, growth_rows(wide)))
    if costs:
        print(
            f"\nWhat one more shard of {ROWS} rows costs, then the shard itself and one more row apart. Of two rows one"
        )
        print(
            "has a sample: what knows samples only (`open_dataset`, the trainer) takes twice a row's figure for each."
        )
        whole, bare, row = f"shard of {ROWS} rows", "shard itself", "row"
        columns = [f"{whole}: wall ms", f"{whole}: CPU ms", f"{whole}: kB"]
        columns += [f"{bare}: CPU ms", f"{bare}: kB", f"{row}: CPU us", f"{row}: bytes"]
        print(table(["operation", "between", *columns], marginal_rows(costs)))


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="numbers of shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=180.0, help="a pass that takes longer is extrapolated")
    parser.add_argument("--wide-rows", type=int, default=1_000, help="rows a shard of the other folders; 0: none")
    parser.add_argument("--measured", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = options_of()
    if options.measured:
        operation, root, *build = options.measured
        run_measured(operation, Path(root), build)
        return
    wide: Results = {}
    with tempfile.TemporaryDirectory() as name:
        results, notes = measure_sizes(Path(name), ROWS, options.sizes, options)
        if not results:
            skip(" ".join(notes))
        if options.wide_rows:
            wide, more = measure_sizes(Path(name), options.wide_rows, WIDE_SIZES, options)
            notes += more
    costs = marginal_costs(results, wide, options.wide_rows)
    print(
        f"No peer: how our operations grow with the number of shards, of {ROWS} rows and {ROWS // 2} samples each. Page"
    )
    print(f"cache warm; {options.rounds} alternating rounds, passes above {ONCE_ABOVE_S:.0f} s once (no brackets).")
    print("A finished build that is run again also writes its report, in a process of its own: add `lposekit view`.")
    print(versions("numpy", "pyarrow"))
    print()
    print_tables(results, wide, costs, options.wide_rows)
    print()
    reads = [
        f"{middle(passes['open'], 'read_ms'):.3f} at {shards} shards"
        for shards, passes in results.items()
        if "open" in passes
    ]
    print(f"ms to read one of {SAMPLES_READ} random samples: {', '.join(reads)}.")
    print("\n".join(notes))
    print(json.dumps({"bench": "growth", "passes": as_json(results), "wide": as_json(wide), "marginal": costs}))


def as_json(results: Results) -> dict[int, Any]:
    return {n: {name: [asdict(each) for each in all_of] for name, all_of in by.items()} for n, by in results.items()}


if __name__ == "__main__":
    main()
