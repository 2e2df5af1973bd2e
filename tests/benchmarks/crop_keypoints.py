"""How many of the detected keypoints of a dataset stay in the training image, for each crop.

    python -m tests.benchmarks.crop_keypoints DATASET... [--size 512]

Counted are the keypoints of all persons that reach the dataset's threshold, and of the persons that were found, those
of whom every detected keypoint stays. `random` is the mean of 16 draws.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lposekit.shards.pose_json import read_pose
from lposekit.skeleton import drop_outside
from trainer.data.catalog import open_catalog
from trainer.data.decode import Framing, image_geometry
from trainer.data.geometry import Crop
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom

CROPS: tuple[Crop, ...] = ("center", "random", "person")
DRAWS = 16


def counts(jpeg: bytes, pose_json: bytes, framing: Framing, draws: int) -> np.ndarray:
    """Keypoints detected, those that stay, persons, those who stay whole: [4], the mean of all draws."""
    pose, found = read_pose(pose_json), np.zeros(4)
    for draw in range(draws):
        geometry = image_geometry(jpeg, framing, SampleRandom(0, SampleRef(0, 0, 0, draw)), pose_json)
        for person in pose.persons:
            detected = person.keypoints_K3[:, 2] >= pose.keypoint_score_threshold
            detected &= drop_outside(person.keypoints_K3[None], pose.height, pose.width)[0, :, 2] > 0
            moved = geometry.keypoints(person.keypoints_K3[None], pose.keypoint_format)
            inside = detected & (drop_outside(moved, geometry.size, geometry.size)[0, :, 2] > 0)
            found += (detected.sum(), inside.sum(), 1, (inside == detected).all())
    return found / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    totals: dict[Crop, npt.NDArray[np.float64]] = {crop: np.zeros(4) for crop in CROPS}
    images = 0
    for dataset in open_catalog(options.data, "image"):
        for shard in dataset.shards:
            for row in range(len(shard)):
                read = dataset.read(shard, row, ["jpg", "pose.json"])
                images += 1
                for crop, total in totals.items():
                    draws = DRAWS if crop == "random" else 1
                    total += counts(read["jpg"], read["pose.json"], Framing(options.size, crop), draws)
    sys.stdout.write(f"{images} images\n")
    for crop, (detected, inside, persons, whole) in totals.items():
        sys.stdout.write(
            f"{crop:8} {inside:7.1f} of {detected:.0f} keypoints ({inside / detected:.1%}), "
            f"{whole:6.1f} of {persons:.0f} persons whole ({whole / persons:.1%})\n"
        )


if __name__ == "__main__":
    main()
