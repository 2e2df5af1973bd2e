"""Contract of `lposekit export` of runs: what was exported and is read back is what was trained, to the bit where our
own code or the release's layout reads it, and in its numbers where stock diffusers does; what a layout cannot hold is
refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from lposekit.cli import main
from lposekit.errors import UsageError
from tests.support.fixtures import REPOSITORY
from tests.support.sample_runs import SIDE, trained
from trainer.export import export_run
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.settings import SampleSettings
from trainer.run.sampler import load_pipeline, read_facts
from trainer.run.walker import walker_skeletons

pytestmark = pytest.mark.timeout(360)


def pipeline_of(settings: SampleSettings) -> FollowYourPosePipeline:
    return load_pipeline(settings, read_facts(settings))


def drawn(pipeline: FollowYourPosePipeline) -> np.ndarray:
    skeletons = walker_skeletons(3, SIDE, "followyourpose")
    return pipeline("a figure walks", skeletons, num_inference_steps=2, seed=5).frames


# Mutations: the pose encoder left out; the weights of step 1 in place of the trained ones.
@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_exported_for_diffusers_draws_the_same_bytes(tmp_path: Path, stage: int) -> None:
    run = trained(stage)
    report = export_run(run, "diffusers", tmp_path / "out")
    assert "model_index.json" in report.files
    before, after = pipeline_of(SampleSettings(run=run)), pipeline_of(SampleSettings(run=tmp_path / "out"))
    assert np.array_equal(drawn(before), drawn(after))
    assert f"stage {stage}" in (tmp_path / "out" / "README.md").read_text()
    # Mutation tried: configurations as they are saved -> the base's folder is told.
    again = export_run(tmp_path / "out", "diffusers", tmp_path / "again")
    texts = [(tmp_path / "again" / name).read_text() for name in again.files if name.endswith(".json")]
    assert not any("_name_or_path" in text or str(tmp_path) in text for text in texts)


DRAWS = """
import sys
import numpy as np
folder, skeletons, out, alone = sys.argv[1:]
if alone == "alone":
    sys.modules.update(dict.fromkeys(["lposekit", "pipelines", "trainer"]))  # importing them fails
    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
else:
    from trainer.inference.pipeline import FollowYourPosePipeline
    pipeline = FollowYourPosePipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
np.save(out, pipeline("a figure walks", np.load(skeletons), num_inference_steps=2, seed=5).frames)
"""


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.more), 2])
def test_both_forms_draw_the_same_bytes_in_fresh_processes_one_without_this_package(tmp_path: Path, stage: int) -> None:
    # Mutations tried: the UNet's source left out -> it does not load; a definition left out -> NameError.
    np.save(tmp_path / "skeletons.npy", walker_skeletons(3, SIDE, "followyourpose"))
    frames = []
    for target, alone in (("diffusers", "with"), ("diffusers-standalone", "alone")):
        export_run(trained(stage), target, tmp_path / target)
        files = (tmp_path / target, tmp_path / "skeletons.npy", tmp_path / f"{alone}.npy")
        command = [sys.executable, "-c", DRAWS, *map(str, files), alone]
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stderr
        frames.append(np.load(files[2]))
    assert np.array_equal(*frames)
    source = (tmp_path / "diffusers-standalone" / "pipeline.py").read_text()
    assert not any(name in source for name in ("from trainer", "from lposekit"))


def test_the_official_layout_read_back_is_the_identity(tmp_path: Path) -> None:
    # Mutation tried: half precision in `write_weights` -> the tensors differ.
    run = trained(2)
    report = export_run(run, "official", tmp_path / "out")
    assert report.files == ("README.md", "followyourpose_checkpoint-1000/pytorch_model.bin", "pose_encoder.pth")
    before = pipeline_of(SampleSettings(run=run))
    facts = read_facts(SampleSettings(run=run))
    assert facts.card is not None
    assert facts.card.base is not None
    after = pipeline_of(SampleSettings(official_weights=tmp_path / "out", base=facts.card.base.name))
    for name in ("unet", "pose_encoder"):
        one, other = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_pose_encoder_of_stage_1_works_in_stock_diffusers_as_it_does_here(tmp_path: Path) -> None:
    # Mutation tried: levels of the adapter exchanged in `diffusers_name` -> loading fails; weights scaled -> red.
    run = trained(1)
    export_run(run, "t2i-adapter", tmp_path / "adapter")
    adapter = T2IAdapter.from_pretrained(tmp_path / "adapter")
    ours = pipeline_of(SampleSettings(run=run))
    ours.unet.save_pretrained(tmp_path / "unet")
    config = dict(UNet2DConditionModel.load_config(tmp_path / "unet"))
    stock = UNet2DConditionModel.from_config(config)
    state = {name: value for name, value in ours.unet.state_dict().items() if name in stock.state_dict()}
    stock.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    latent_BChw = torch.randn((1, 4, SIDE // 8, SIDE // 8), generator=generator)
    text = torch.randn((1, 7, stock.config["cross_attention_dim"]), generator=generator)
    skeleton = torch.from_numpy(walker_skeletons(1, SIDE, "followyourpose")[0]).permute(2, 0, 1)[None] / 255
    timestep = torch.tensor([500])
    with torch.no_grad():
        maps = adapter(skeleton)
        theirs = stock(
            latent_BChw, timestep, text, down_intrablock_additional_residuals=[each.clone() for each in maps]
        ).sample
        assert ours.pose_encoder is not None
        own_maps = [each[:, :, None] for each in ours.pose_encoder(skeleton)]
        here = ours.unet(latent_BChw[:, :, None], timestep, text, own_maps)[:, :, 0]
    assert (theirs - here).abs().max() < 1e-5
    assert maps[0].abs().max() > 0


@pytest.mark.parametrize(
    ("stage", "target", "words"),
    [(2, "t2i-adapter", "temporal layers"), (1, "coco", "holds trained weights")],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, stage: int, target: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export_run(trained(stage), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_runs_and_never_writes_over_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(trained(1))
    assert main(["export", run, "--to", "official", "--output", "out", "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main(["export", run, "--to", "official", "--output", "out"]) == 0
    assert "official sampler" in capsys.readouterr().out
    assert main(["export", run, "--to", "official", "--output", "out"]) == 2
    assert "not empty" in capsys.readouterr().err
