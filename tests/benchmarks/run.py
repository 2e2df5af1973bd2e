"""Run the benchmarks one after the other and write what they print to docs/benchmarks.md, with machine and date.

    python -m tests.benchmarks.run [NAME ...]

Without names: all that need no GPU. A benchmark that is run again replaces its own section and leaves the others.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tests.support.fixtures import REPOSITORY

BENCHMARKS = {
    "fetch_decode": "Fetch and decode: CPU time per image against stock img2dataset",
    "whole_run": "Whole run against img2dataset + MMPoseInferencer",
    "pose_stage": "Pose stage against bare batched forward passes",
    "ground_truth": "Ground truth: what is kept, and how well persons and keypoints are found",
    "same_as_mmpose": "The same numbers as MMPose",
    "driver_memory": "Memory of the driver",
    "video_build": "Video build against a bare loop, and memory",
    "video_read": "Random reads of clips",
    "loader": "Training loader",
    "train_step": "Training step",
    "four_commands": "The four commands in a row, and what the quickstart learns",
}
PAGE = REPOSITORY / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Measured with `make bench`; each benchmark runs what it is compared with in the same run and prints ratios. Single
figures depend on the machine and on what else it does; the ratios hold better. Each section says where and when it was
measured.
"""


def machine() -> str:
    """One line about this machine."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_kb = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    cpu = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores ({cpu}), {memory_kb / 2**20:.0f} GiB, Python {platform.python_version()}, no GPU"


def section(name: str, output: str) -> str:
    date = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [line for line in output.rstrip().splitlines() if not line.startswith("{")]
    body = "\n".join(lines)
    command = f"python -m tests.benchmarks.{name}"
    return f"## {BENCHMARKS[name]}\n\n`{command}`, {date}, {machine()}\n\n```\n{body}\n```\n"


def write_section(name: str, output: str) -> None:
    """Put a benchmark's output into the page, in place of its older one."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    new = section(name, output)
    old = re.compile(rf"^## {re.escape(BENCHMARKS[name])}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    page = old.sub(lambda _: new + "\n", page) if old.search(page) else f"{page.rstrip()}\n\n{new}"
    PAGE.write_text(page.rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="benchmarks to run")
    failed = []
    for name in parser.parse_args().names or BENCHMARKS:
        print(f"== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{name}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        if done.returncode == 0:
            write_section(name, done.stdout)
        else:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
