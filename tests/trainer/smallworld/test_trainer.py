"""Contract: the ordinary trainer runs both stages on the world's folders and its base, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from trainer import train
from trainer.inference.settings import SampleSettings
from trainer.run.sampler import load_pipeline, read_facts
from trainer.settings import (
    ClipSamplingSettings,
    ComputeSettings,
    FramingSettings,
    LoaderSettings,
    SkeletonSettings,
    Stage,
    TrainSettings,
    WatchSettings,
)
from trainer.smallworld.base_parts import new_parts, save_base
from trainer.smallworld.datasets import write_clips, write_images
from trainer.smallworld.posed import Case, draw_scenes, measure_images, skeletons
from trainer.smallworld.pretrain import as_tensor
from trainer.smallworld.scene import still
from trainer.smallworld.vae import new_vae


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets and a base that has learned nothing."""
    root = tmp_path_factory.mktemp("world")
    write_images(root / "images", 1, "train", 6)
    write_clips(root / "clips", 1, "train", 4)
    save_base(root / "base", new_vae(as_tensor(still(1, "train", 0).frames())), new_parts(1))
    return root


def run_stage(world: Path, stage: Stage, data: str) -> None:
    settings = TrainSettings(
        stage=stage,
        data=(world / data,),
        base=str(world / "base"),
        output=world / f"stage{stage}",
        pose_encoder=str(world / "stage1") if stage == 2 else "",
        max_steps=2,
        batch_size=2,
        image=FramingSettings(size=64),
        clip=ClipSamplingSettings(frames=3, stride=1),
        pose=SkeletonSettings(line_width=2),
        loader=LoaderSettings(workers=0),
        compute=ComputeSettings(threads=1),
        watch=WatchSettings(probe_every=0, sample_every=0, tensorboard=False, mfu=False),
    )
    assert train.run(settings).exit_code == 0


@pytest.mark.timeout(1200)
@pytest.mark.more  # full samplings, two minutes
def test_both_stages_train_and_sample_on_the_small_world(world: Path) -> None:
    # Mutation tried: a VAE of three levels -> red.
    run_stage(world, 1, "images")
    run_stage(world, 2, "clips")
    sample = SampleSettings(run=world / "stage2")
    pipeline = load_pipeline(sample, read_facts(sample))
    drawn = pipeline("a small bear in red clothes on a mint background", num_frames=2, num_inference_steps=2)
    assert drawn.frames.shape == (2, 64, 64, 3)
    scenes = [still(2, "held_out", number) for number in range(2)]
    for case in get_args(Case):
        # it has learned nothing
        assert measure_images(draw_scenes(pipeline, scenes, case, seed=1), scenes)["pck"] < 0.5


def test_skeletons_of_the_world_carry_left_and_right_in_their_colours() -> None:
    # Mutations tried: `mirrored` ignored -> red; the head's pairs alone exchanged -> red.
    points = still(2, "held_out", 3).joints_F17x2
    plain = skeletons(points, "followyourpose", 2, mirrored=False)[0]
    swapped = skeletons(points, "followyourpose", 2, mirrored=True)[0]
    left_elbow, right_elbow = (np.rint(points[0, joint]).astype(int) for joint in (7, 8))
    for (x, y), first, second in ((left_elbow, 1, 2), (right_elbow, 2, 1)):
        assert plain[y, x].argmax() == first
        assert swapped[y, x].argmax() == second
