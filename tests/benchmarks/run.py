"""Run the benchmarks one after the other and write what they print to docs/benchmarks.md, with machine and date.

    python -m tests.benchmarks.run [NAME ...]

Without names: all of them. A benchmark that is run again replaces its own section and leaves the others. One that
cannot run here says why; its section then shows the reason only if it has no figures yet.
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

import psutil

from tests.benchmarks.rounds import SKIPPED
from tests.support.fixtures import REPOSITORY

BENCHMARKS = {
    "fetch_decode": "Fetch and decode: CPU time per image against stock img2dataset",
    "whole_run": "Whole run against img2dataset + MMPoseInferencer",
    "pose_stage": "Pose stage against bare batched forward passes",
    "gpu_count": "16 cores and one H200, computed from counted work",
    "ground_truth": "Ground truth: what is kept, and how well persons and keypoints are found",
    "pose_video": "Poses of a video against a loop over MMPoseInferencer",
    "pose_tracks": "Poses over time: coverage, identity switches, jitter",
    "same_as_mmpose": "The same numbers as MMPose",
    "slow_hosts": "Hosts that hang or drip, hostile robots.txt: what they cost the rows of others",
    "driver_memory": "Memory of the driver",
    "video_build": "Video build against a bare loop, and memory",
    "video_read": "Random reads of clips",
    "loader": "Training loader",
    "train_step": "Training step",
    "cache_latents": "Latents cached by one worker and by two",
    "train_memory": "Memory of a training step, told beforehand",
    "checkpoint_stop": "A checkpoint beside the training loop",
    "official_step": "Training step against the official Follow-Your-Pose code",
    "sample_speed": "Sampling against the same arithmetic under diffusers' DDIM loop; long clips",
    "gpu": "On a GPU: training steps, attention, memory, resuming, poses",
    "growth": "Growth: time and memory over the number of shards",
    "four_commands": "The four commands in a row, and what the quickstart learns",
}
OTHER_CPUS = "On other kinds of CPU:"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Measured with `make bench`, one section at a time with `make bench ARGS=NAME`. Each section runs what it is compared
with in the same run, in alternating rounds, and prints medians with the lowest and highest round in brackets, CPU time
(user and system, all processes) beside wall time, and ratios round by round. A ratio above 1 means that ours is faster
or smaller. The peer is set up as its most competent user would; a weaker form of it is named as such. Single figures
depend on the machine; the ratios hold better. Each section says where, when and with which versions it was measured.
"""


def machine() -> str:
    """One line about this machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = [
        re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE) for name in ("model name", "cpu family", "model")
    ]
    name, family, model = (match.group(1) if match else "unknown" for match in found)
    memory_kb = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    cpu = f"{name}, family {family}, model {model}"
    # the driver's own file: torch is not loaded for it
    gpu = "a GPU" if Path("/dev/nvidiactl").exists() else "no GPU"
    return f"{os.cpu_count()} cores ({cpu}), {memory_kb / 2**20:.0f} GiB, Python {platform.python_version()}, {gpu}"


def section(name: str, output: str, other_load: float) -> str:
    date = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [line for line in output.rstrip().splitlines() if not line.startswith("{")]
    body = "\n".join(lines).rstrip()
    load = f"CPU busy with other work before the start: {other_load:.0f} %"
    head = f"`python -m tests.benchmarks.{name}`, {date}, {machine()}. {load}."
    return f"## {BENCHMARKS[name]}\n\n{head}\n\n```\n{body}\n```\n"


def cpu_of(text: str) -> str:
    """The kind of CPU that a line of a section names."""
    found = re.search(r"cores \((.+, family \w+, model \w+)\)", text)
    return found[1] if found else ""


def ratios_of_other_cpus(old: str, cpu: str) -> list[str]:
    """What an older section says of other kinds of CPU: the last ratios to a peer that were measured on each."""
    measured, _, kept = old.partition(OTHER_CPUS)
    lines = [line.removeprefix("- ") for line in kept.splitlines() if line.startswith("- ")]
    old_cpu, date = cpu_of(measured), re.search(r"\d{4}-\d\d-\d\d", measured)
    if date and old_cpu:
        lines = [line for line in lines if f"({old_cpu})" not in line]
        ratios = [line for line in measured.splitlines() if " / ours: wall " in line]
        lines += [f"{date[0]} ({old_cpu}): {line}" for line in ratios]
    return [line for line in lines if f"({cpu})" not in line]


def write_section(name: str, output: str, other_load: float, *, replace: bool = True, page: Path = PAGE) -> None:
    """Put a benchmark's output into the page, in place of its older one; sections go in the order of `BENCHMARKS`."""
    text = page.read_text(encoding="utf-8") if page.exists() else HEAD
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    by_title, title = {text[3:].partition("\n")[0]: text for text in sections}, BENCHMARKS[name]
    if replace or title not in by_title:
        new = section(name, output, other_load)
        kept = "\n".join(f"- {line}" for line in ratios_of_other_cpus(by_title.get(title, ""), cpu_of(new)))
        by_title[title] = f"{new}\n{OTHER_CPUS}\n\n{kept}\n" if kept else new
    known = [by_title[title] for title in BENCHMARKS.values() if title in by_title]
    others = [text for title, text in by_title.items() if title not in BENCHMARKS.values()]  # written by hand
    page.write_text("\n\n".join(text.rstrip() for text in (head, *known, *others)) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="benchmarks to run")
    failed = []
    for name in parser.parse_args().names or BENCHMARKS:
        print(f"== {name}", flush=True)
        other_load = psutil.cpu_percent(interval=3)
        command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        if done.returncode in (0, SKIPPED):
            write_section(name, done.stdout, other_load, replace=done.returncode == 0)
        else:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
