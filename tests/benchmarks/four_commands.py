"""The four commands in a row, without arguments, in an empty folder; then both stages with two more seeds.

    python -m tests.benchmarks.four_commands [--seeds 3]

No peer: the figures are what a new user waits for (bar: under 15 minutes for the four, set-up aside), and what the
quickstart learns. On a fixed noise batch, stage 1's matching pose should beat another sample's by a margin that step 0
does not show, and stage 2 should lower the loss of clips in order more than that of the same clips shuffled. The last
line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.process_tree import run_measured
from tests.benchmarks.rounds import Timing, table, versions
from tests.support.fixtures import fixtures_root
from trainer.run.metrics import METRICS_NAME, read_metrics

COMMANDS = ("build-laion-pose", "build-video-shards", "train --stage 1", "train --stage 2")
LIMIT_S = 900.0
PANELS = {1: ("matching_pose", "shuffled_pose"), 2: ("frames_in_order", "frames_shuffled")}


def lposekit(folder: Path, *arguments: str) -> Timing:
    """Runs a command in a folder, to the end of its last process."""
    environment = {**os.environ, "LPOSEKIT_WEIGHTS": str(fixtures_root() / "weights")}
    _, timeline = run_measured([sys.executable, "-m", "lposekit", *arguments], folder, environment)
    return Timing(timeline.end - timeline.start, timeline.cpu_s[-1])


def margins(run: Path, stage: int) -> tuple[float, float]:
    """How much lower the first case's loss is than the second's, at step 0 and at the end."""
    lower, higher = (f"probe/{name}" for name in PANELS[stage])
    found = [line[higher] - line[lower] for line in read_metrics(run / METRICS_NAME) if lower in line]
    return found[0], found[-1]


def learn(folder: Path, seeds: int) -> dict[int, list[tuple[float, float]]]:
    """The margins of both stages by seed; those of seed 0 were trained by the four commands."""
    learned: dict[int, list[tuple[float, float]]] = {stage: [] for stage in PANELS}
    for seed in range(seeds):
        for stage in PANELS:
            run = folder / "quickstart" / (f"stage{stage}" if seed == 0 else f"stage{stage}-seed{seed}")
            if seed:
                lposekit(folder, "train", "--stage", str(stage), "--seed", str(seed), "--output", str(run))
            learned[stage].append(margins(run, stage))
    return learned


def print_seconds(taken: dict[str, Timing]) -> None:
    """The table of the four commands."""
    wall, cpu = (sum(getattr(timing, name) for timing in taken.values()) for name in ("wall_s", "cpu_s"))
    rows = [[f"lposekit {command}", timing.wall_s, timing.cpu_s] for command, timing in taken.items()]
    print(table(["command", "wall s", "CPU s"], [*rows, ["together", wall, cpu]]))
    print(f"together {wall:.0f} s; bar: {LIMIT_S:.0f} s")


def print_margins(learned: dict[int, list[tuple[float, float]]]) -> None:
    """The table of what the stages learned."""
    rows = []
    for stage, pairs in learned.items():
        better, worse = PANELS[stage]
        for seed, (before, after) in enumerate(pairs):
            rows.append([stage, f"{worse} - {better}", seed, f"{before:+.4f}", f"{after:+.4f}"])
    print(table(["stage", "difference of the losses", "seed", "step 0", "end"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken = {command: lposekit(folder, *command.split()) for command in COMMANDS}
        learned = learn(folder, arguments.seeds)
    print("The four commands as a new user runs them, one after the other, once each, without arguments. From start to")
    print("end of their processes, imports included; CPU of all processes, Ray's included. No peer does the same.")
    print(versions("torch", "ray", "mmpose", "mmdet"))
    print()
    print_seconds(taken)
    print()
    print_margins(learned)
    seconds = {command: {"wall_s": timing.wall_s, "cpu_s": timing.cpu_s} for command, timing in taken.items()}
    print(json.dumps({"bench": "four_commands", "seconds": seconds, "margins": learned}))


if __name__ == "__main__":
    main()
