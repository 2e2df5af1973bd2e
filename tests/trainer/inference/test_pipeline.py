"""Contract of the pipeline class: the released sampler's numbers; what was saved draws the same bytes in a fresh
process; memory is bounded by the window."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPImageProcessor

from lposekit.errors import UsageError
from tests.golden.evaluate import load_models, noise_scheduler
from tests.golden.fixture_set import open_set
from tests.support.fixtures import REPOSITORY, fixture_path
from tests.support.safety_checker import safety_checker
from tests.support.sample_runs import SIDE
from trainer.inference.denoise import DenoisingStep
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.schedulers import make_scheduler
from trainer.model.base import Base, load_base
from trainer.model.pose_encoder import build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL
from trainer.model.unet import VideoUNet, inflate
from trainer.run.walker import walker_skeletons

pytestmark = pytest.mark.timeout(360)


@pytest.fixture
def base() -> Base:
    return load_base("tiny")


def tiny_pipeline(base: Base, **changes: Any) -> FollowYourPosePipeline:
    """Over the tiny base; every temporal weight random, so that each of them shows."""
    unet = inflate(base.unet, OFFICIAL)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "_temp" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    parts: dict[str, Any] = {
        "vae": base.vae,
        "text_encoder": base.text_encoder,
        "tokenizer": base.tokenizer,
        "unet": unet,
        "scheduler": make_scheduler("ddim", base.scheduler.config),
        "pose_encoder": to_t2i_adapter(encoder),
        "size": SIDE,
        "frames": 3,
    }
    return FollowYourPosePipeline(**{**parts, **changes})


def test_the_released_samplers_latents_after_every_step(base: Base) -> None:
    # Mutations tried: the halves of `_text` exchanged; pose of one half only; frames not scaled.
    fixtures = open_set(fixture_path("golden"))
    [case] = [case for case in fixtures.cases() if "prompt_embeddings" in case.inputs]
    unet, encoder = load_models(fixtures, fixtures.weights_of(case))
    scheduler = make_scheduler("ddim", noise_scheduler(fixtures).config)
    pipeline = tiny_pipeline(base, unet=unet, pose_encoder=to_t2i_adapter(encoder), scheduler=scheduler)
    steps: list[DenoisingStep] = []
    out = pipeline(
        pose=case.inputs["pose"],
        latents=case.inputs["latents"],
        prompt_embeds=case.inputs["prompt_embeddings"],
        negative_prompt_embeds=case.inputs["negative_embeddings"],
        num_inference_steps=5,
        output_type="latent",
        on_step=steps.append,
    )
    found = {f"expected.latents_after_step.{i}": step.latents_BCFHW for i, step in enumerate(steps)}
    found |= {"expected.final_latents": out.frames, "expected.unet_out_step0": steps[0].prediction}
    assert [step.timestep for step in steps] == case.expected["expected.timesteps"].tolist()
    for name, tensor in found.items():
        expected = case.expected[name]
        assert (tensor - expected).abs().max() <= 1e-4 * expected.abs().max(), name


FRESH = """
import hashlib, sys
import torch
torch.set_num_threads(int(sys.argv[2]))  # sums of other thread counts have other last digits
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.run.walker import walker_skeletons
pipeline = FollowYourPosePipeline.from_pretrained(sys.argv[1])
out = pipeline("a man", walker_skeletons(3, 64, "followyourpose"), num_inference_steps=2, seed=7)
print(hashlib.sha256(out.frames.tobytes()).hexdigest(), pipeline.config["frames"])
"""


@pytest.mark.more  # `test_sample.py` has the same of the command
def test_a_saved_pipeline_draws_the_same_bytes_in_a_fresh_process(base: Base, tmp_path: Path) -> None:
    # Mutations tried: `switches` not registered; the temporal weights dropped at load (diffusers' own from_pretrained).
    pipeline = tiny_pipeline(base)
    here = pipeline("a man", walker_skeletons(3, SIDE, "followyourpose"), num_inference_steps=2, seed=7).frames
    pipeline.save_pretrained(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), str(torch.get_num_threads())],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == [hashlib.sha256(here.tobytes()).hexdigest(), "3"]


def test_a_plain_unet_is_no_video_unet(base: Base, tmp_path: Path) -> None:
    # diffusers itself would load either as the other and drop what it does not know
    base.unet.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no video UNet"):
        VideoUNet.from_pretrained(tmp_path)


def test_weights_that_lack_a_layer_are_refused(base: Base, tmp_path: Path) -> None:
    # Mutation tried: `load_state_dict(strict=False)` in `from_pretrained`.
    unet = inflate(base.unet, OFFICIAL)
    unet.save_pretrained(tmp_path)
    plain = UNet2DConditionModel.from_config(load_base("tiny").unet.config)
    plain.save_pretrained(tmp_path / "plain")  # pyright: ignore
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).write_bytes((tmp_path / "plain" / weights).read_bytes())
    with pytest.raises(UsageError, match="attn_temp"):
        VideoUNet.from_pretrained(tmp_path)


def test_the_pose_moves_the_result_and_the_text_too(base: Base) -> None:
    pipeline = tiny_pipeline(base)
    poses = walker_skeletons(3, SIDE, "followyourpose")

    def drawn(prompt: str, pose: np.ndarray, **options: Any) -> np.ndarray:
        return pipeline(prompt, pose, num_inference_steps=2, **options).frames

    first = drawn("a man", poses)
    np.testing.assert_array_equal(drawn("a man", poses), first)
    for other in (
        drawn("a man", poses[:, :, ::-1].copy()),
        drawn("a cat", poses),
        drawn("a man", poses, negative_prompt="a hat"),
        drawn("a man", poses, seed=8),
    ):
        assert (other != first).any()


def test_images_of_stage_1_do_not_depend_on_one_another(base: Base) -> None:
    # Mutation tried: without the plan of one frame for stage 1.
    pipeline = tiny_pipeline(base, stage=1)
    latents = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    poses = walker_skeletons(3, SIDE, "followyourpose")
    together = pipeline("a man", poses, num_inference_steps=2, latents=latents).frames
    alone = pipeline("a man", poses[1:2], num_inference_steps=2, latents=latents[:, :, 1:2]).frames
    assert np.abs(together[1:2].astype(int) - alone).max() <= 1


def test_decoding_slice_by_slice_changes_nothing(base: Base) -> None:
    pipeline = tiny_pipeline(base)
    poses = walker_skeletons(3, SIDE, "followyourpose")
    one, all_ = (pipeline("a man", poses, num_inference_steps=1, vae_slice=n).frames for n in (1, 3))
    assert np.abs(one.astype(int) - all_).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "either a prompt or prompt_embeds"),
        ({"height": 60}, "multiples of 8"),
        ({"pose": np.zeros((2, 64, 64), np.uint8)}, "RGB uint8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(base: Base, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(base)(**{"prompt": "a man", "num_inference_steps": 1, **options})


def test_the_bases_safety_checker_turns_frames_black(base: Base, tmp_path: Path) -> None:
    # Mutations tried: `frames[i] = 0` left out; `flagged.append(i)` without `done`.
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipeline = tiny_pipeline(base, safety_checker=safety_checker(), feature_extractor=extractor)
    out = pipeline("a man", walker_skeletons(3, SIDE, "followyourpose"), num_inference_steps=1)
    assert out.flagged == [0, 1, 2]
    assert not out.frames.any()
    pipeline.save_pretrained(tmp_path)
    assert FollowYourPosePipeline.from_pretrained(tmp_path).safety_checker is not None


PEAKS = """
import resource, sys
import numpy as np
from trainer.inference.pipeline import FollowYourPosePipeline
pipeline = FollowYourPosePipeline.from_pretrained(sys.argv[1])
options = {"num_inference_steps": 1, "window": 16, "overlap": 4, "long_method": sys.argv[2]}
peaks = []
for frames in (1, 32, 240):
    pose = np.ones((frames, 128, 128, 3), np.uint8)
    assert len(pipeline("a man", pose, **options).frames) == frames
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(*peaks)
"""
IMAGES_OF_240_FRAMES = 2 * 240 * 128 * 128 * 3
"""Bytes of the skeletons that came in and of the images that came out."""


@pytest.mark.more
@pytest.mark.parametrize("method", ["average", "reuse"])
def test_memory_is_bounded_by_the_window(base: Base, tmp_path: Path, method: str) -> None:
    # The peak of the process, and how far sampling raises it above that of one frame, less the images themselves.
    # Mutation tried: one window of 240 frames.
    tiny_pipeline(base).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, str(tmp_path), method],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    one, short, long = map(int, done.stdout.split()[-3:])
    assert long <= 1.2 * short, (one, short, long)
    assert long - one - IMAGES_OF_240_FRAMES <= 1.2 * (short - one), (one, short, long)


def test_without_a_pose_the_size_comes_from_the_options(base: Base) -> None:
    out = tiny_pipeline(base)("a man", num_frames=2, height=64, width=128, num_inference_steps=1)
    assert out.frames.shape == (2, 64, 128, 3)
