"""Contract: poses that a stranger wrote are read strictly, and every reader names shard or sample, and the field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.shards.pose_json import read_pose
from tests.support.train_data import image_members, write_dataset
from trainer.data.catalog import open_catalog
from trainer.data.decode import Framing, Skeleton
from trainer.data.order import SampleRef
from trainer.data.reader import SampleReader, SampleRecipe

GOOD = json.loads(image_members(0)["pose.json"])


def _one(pose: dict[str, Any]) -> dict[str, Any]:
    return pose["persons"][0]


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "16 keypoints": (lambda pose: _one(pose)["keypoints"].__delitem__(slice(3)), r"persons\[0\]\.keypoints has 48"),
    "NaN": (
        lambda pose: _one(pose)["keypoints"].__setitem__(4, float("nan")),
        r"persons\[0\]\.keypoints holds 'nan",
    ),
    "infinity": (lambda pose: _one(pose).update(bbox_score=float("inf")), r"persons\[0\]\.bbox_score holds 'inf"),
    "large": (lambda pose: _one(pose)["bbox"].__setitem__(0, 10**400), r"persons\[0\]\.bbox holds '10"),
    "text": (lambda pose: _one(pose)["keypoints"].__setitem__(0, "1.5"), r"persons\[0\]\.keypoints holds '1\.5'"),
    "flag": (lambda pose: _one(pose)["keypoints"].__setitem__(0, True), r"persons\[0\]\.keypoints holds 'True'"),
    "object": (lambda pose: _one(pose).update(keypoints={}), r"persons\[0\]\.keypoints has no list"),
    "no box": (lambda pose: _one(pose).pop("bbox"), r"persons\[0\]\.bbox has no list"),
    "persons": (lambda pose: pose.update(persons=[1]), "persons is"),
    "format": (lambda pose: pose.update(keypoint_format="coco18"), "keypoint_format is 'coco18', none of"),
    "format of another kind": (lambda pose: pose.update(keypoint_format=["coco17"]), "keypoint_format is"),
    "threshold": (lambda pose: pose.update(keypoint_score_threshold="0.5"), "keypoint_score_threshold is"),
    "width": (lambda pose: pose.update(width=-1), "width is -1"),
}


# Mutations tried: each check of `_numbers` left out, `float(value)` in its place; `list_of(OBJECT)` without its items'
# check; the trainer without its `except` -> red each.
@pytest.mark.case(75)
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_pose_is_refused_with_its_field(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    pose = copy.deepcopy(GOOD)
    damage(pose)
    data = json.dumps(pose).encode()
    with pytest.raises(ValueError, match=words):
        read_pose(data)

    def members(number: int, **_: object) -> dict[str, bytes]:
        return image_members(number) if number == 0 else {**image_members(number), "pose.json": data}

    monkeypatch.setattr("tests.support.train_data.image_members", members)
    root = write_dataset(tmp_path / "d", [2])
    reader = SampleReader(open_catalog([root], "image"), SampleRecipe(Framing(64), 0, Skeleton()))
    reader.read(SampleRef(0, 0, 0, 0))
    with pytest.raises(LposekitError, match=f"shard 00000 of .*: sample 000000001 is damaged: its pose.json .*{words}"):
        reader.read(SampleRef(0, 0, 1, 0))
    dataset = lposekit.open_dataset(root)
    assert dataset[0].skeleton().any()
    with pytest.raises(LposekitError, match=f"sample 000000001: pose.json: {words}"):
        _ = dataset[1].persons


@pytest.mark.case(75)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "utf-8"),
        (b'{"persons": []}', "keypoint_format is missing"),
    ],
)
def test_what_is_no_pose_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_pose(data)


def test_a_number_that_was_not_finite_comes_back_as_nan() -> None:
    # Mutation tried: null refused -> red.
    pose = copy.deepcopy(GOOD)
    _one(pose)["keypoints"][0] = None
    _one(pose)["bbox"][1] = None
    (person,) = read_pose(json.dumps(pose).encode()).persons
    assert (person.keypoints_K3[0, 0] != person.keypoints_K3[0, 0], person.keypoints_K3[0, 1] > 0) == (True, True)
