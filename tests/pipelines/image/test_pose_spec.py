"""Contract of what the driver tells its pose actors: names and numbers arrive as they were set, and the box threshold
is the keep rule's own, so that both judge a person alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lposekit.pose.backend import choose_backend
from lposekit.pose.estimator import EstimatorSettings, PoseEstimator
from lposekit.pose.zoo import detector_entry
from lposekit.recipe import Machine
from pipelines.image.recipe import ImageRecipe, keep_rule
from pipelines.image.settings import BuildImagesSettings, PoseSettings
from pipelines.pose.actor import PoseSpec, load_estimator
from pipelines.pose.models import known_model


def pose_spec(settings: BuildImagesSettings) -> PoseSpec:
    """What the driver would hand to its pose actors, on a machine without a GPU."""
    [spec] = ImageRecipe(settings).pool(Machine(cpus=2, gpus=0)).arguments
    return spec


@pytest.mark.parametrize(("named", "used"), [(None, detector_entry("rtmdet-nano").box_score_threshold), (0.0, 0.0)])
def test_keep_rule_and_pose_actors_take_the_same_box_threshold(named: float | None, used: float) -> None:
    settings = BuildImagesSettings(detector="rtmdet-nano", pose=PoseSettings(box_score_threshold=named))
    assert pose_spec(settings).box_score_threshold == used
    assert keep_rule(settings, known_model(settings)).box_score_threshold == used


def test_settings_reach_the_estimator_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr(PoseEstimator, "load", lambda *names, weights_dir, **changes: taken.update(changes))
    pose = PoseSettings(
        threads=3,
        batch_size=5,
        crop_batch_size=7,
        min_box_area_fraction=0.5,
        min_box_side_px=9.0,
        duplicate_oks=0.9,
    )
    load_estimator(pose_spec(BuildImagesSettings(detector="rtmdet-nano", pose=pose)))
    set_here = dataclasses.asdict(pose) | {
        "backend": choose_backend("auto", "cpu", "float32"),
        "device": "cpu",
        "precision": "float32",
        "box_score_threshold": detector_entry("rtmdet-nano").box_score_threshold,
    }
    fields = [field.name for field in dataclasses.fields(EstimatorSettings)]
    assert dataclasses.asdict(EstimatorSettings(**taken)) == {name: set_here[name] for name in fields}
