"""Contract of what the driver tells its pose actors: names and numbers arrive as they were set, and the box threshold
is the keep rule's own, so that both judge a person alike."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import UsageError
from lposekit.pose.backend import ENGINE, backend_version, choose_backend
from lposekit.pose.estimator import EstimatorSettings, PoseEstimator
from lposekit.pose.zoo import detector_entry
from lposekit.recipe import Machine
from lposekit.shards.card import bind_models
from pipelines.image.recipe import ImageRecipe, keep_rule
from pipelines.image.settings import BuildImagesSettings, PoseSettings
from pipelines.pose.actor import PoseSpec, load_estimator
from pipelines.pose.models import known_model
from tests.support.dataset_folder import make_dataset


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


# Mutation: `_held` gives None; `_cpu_backend` left out of `preflight`.
@pytest.mark.skipif(backend_version(ENGINE) is None, reason=f"{ENGINE} is not installed")
def test_a_folder_begun_with_torch_goes_on_with_torch_or_is_refused_before_anything_starts(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    bind_models(layout, {"pose_model": {"name": "tinypose"}, "backend": {"name": "torch", "version": "2.13.0"}})
    settings = BuildImagesSettings(output=layout.root, detector="rtmdet-nano")
    recipe = pickle.loads(pickle.dumps(_asked(ImageRecipe(settings))))
    assert recipe.pool(Machine(cpus=2, gpus=0)).arguments[0].backend == "torch"
    assert pose_spec(replace(settings, output=tmp_path / "new")).backend == ENGINE
    named = replace(settings, pose=PoseSettings(backend="openvino"))
    with pytest.raises(UsageError, match=r"--pose.backend openvino: the folder was begun with torch"):
        ImageRecipe(named).preflight()


def _asked(recipe: ImageRecipe) -> ImageRecipe:
    """A recipe that has chosen, as the driver's has when it travels to the workers."""
    recipe.pool(Machine(cpus=2, gpus=0))
    return recipe


def test_on_a_gpu_an_actor_prepares_a_batch_while_another_is_computed() -> None:
    # Mutation tried: the last argument of the GPU's `Pool` left out.
    settings = BuildImagesSettings(detector="rtmdet-nano")
    pools = [ImageRecipe(settings).pool(Machine(cpus=2, gpus=gpus)) for gpus in (0, 1)]
    assert [pool.calls_at_once for pool in pools] == [1, 2]
