"""The four commands in a row, without arguments, in an empty folder; then both stages with two more seeds.

    python -m tests.benchmarks.four_commands [--seeds 3]

Bars: under 15 minutes for the four (set-up aside). On a fixed noise batch stage 1's matching pose beats another
sample's by a margin that step 0 does not show, and stage 2 lowers the loss of clips in order more than that of the same
clips with shuffled frames. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.fixtures import REPOSITORY, fixtures_root
from trainer.run.metrics import METRICS_NAME, read_metrics

COMMANDS = ("build-laion-pose", "build-video-shards", "train --stage 1", "train --stage 2")
LIMIT_S = 900.0
PANELS = {1: ("matching_pose", "shuffled_pose"), 2: ("frames_in_order", "frames_shuffled")}


def lposekit(folder: Path, arguments: Sequence[str]) -> float:
    """Runs a command in a folder; returns its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LPOSEKIT_WEIGHTS": str(fixtures_root() / "weights")}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lposekit", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - start


def margins(run: Path, stage: int) -> tuple[float, float]:
    """How much lower the first case's loss is than the second's, at step 0 and at the end."""
    lower, higher = (f"probe/{name}" for name in PANELS[stage])
    found = [line[higher] - line[lower] for line in read_metrics(run / METRICS_NAME) if lower in line]
    return found[0], found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    learned: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = {command: lposekit(folder, command.split()) for command in COMMANDS}
        for seed in range(arguments.seeds):
            for stage in (1, 2):
                run = folder / "quickstart" / (f"stage{stage}" if seed == 0 else f"stage{stage}-seed{seed}")
                if seed:
                    lposekit(folder, ["train", "--stage", str(stage), "--seed", str(seed), "--output", str(run)])
                learned[stage].append(margins(run, stage))
    for command, taken in seconds.items():
        print(f"lposekit {command:20} {taken:6.1f} s")
    total = sum(seconds.values())
    print(f"together {total:.0f} s (bar: {LIMIT_S:.0f})")
    for stage, pairs in learned.items():
        told = ", ".join(f"{before:+.4f} -> {after:+.4f}" for before, after in pairs)
        better, worse = PANELS[stage]
        print(f"stage {stage}: {worse} minus {better}, step 0 -> end, seeds 0 to {len(pairs) - 1}: {told}")
    met = total < LIMIT_S and all(after > before for pairs in learned.values() for before, after in pairs)
    print(json.dumps({"bench": "four_commands", "seconds": seconds, "margins": learned, "met": met}))


if __name__ == "__main__":
    main()
