"""Contract of `--init`: a new run starts from weights of the release, of a run or of a T2I-Adapter, all or none;
what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lposekit.errors import UsageError
from tests.support.train_runs import losses, settings_for, small_base
from trainer.model.base import load_base
from trainer.model.official_weights import write_official_unet, write_pose_encoder
from trainer.model.pose_encoder import build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL
from trainer.model.unet import inflate
from trainer.run.build import build_model
from trainer.run.distributed import World
from trainer.settings import EmaSettings, ModelSettings, OptimSettings, TrainSettings
from trainer.stages import StageModel
from trainer.train import run

WIDTHS = (8, 8, 16, 16)


def started(settings: TrainSettings) -> StageModel:
    """The model of a new run as it is before its first step."""
    base = load_base(str(small_base()))
    encoder = build_pose_encoder(WIDTHS, OFFICIAL, 5) if settings.stage == 2 else None
    return build_model(settings, base, encoder, World(torch.device("cpu")), settings.init)


def assert_starts_as(stage: StageModel, weights: dict[str, torch.Tensor]) -> None:
    trained = stage.trainable()
    assert all(torch.equal(value, weights[name]) for name, value in trained.items())


@pytest.mark.parametrize("form", ["release", "adapter", "unet"])
def test_stage_1_starts_from_a_pose_encoder_in_every_form(form: str, tmp_path: Path):
    # Mutation tried: nothing copied -> red
    encoder = build_pose_encoder(WIDTHS, OFFICIAL, 7)
    if form == "release":
        source = tmp_path / "pose_encoder.pth"
        write_pose_encoder(encoder, source)
    elif form == "adapter":
        source = tmp_path / "t2iadapter_keypose"
        to_t2i_adapter(encoder).save_pretrained(source)
    else:
        source = tmp_path / "unet.bin"
        write_official_unet(inflate(load_base(str(small_base())).unet, OFFICIAL), encoder, source)
    settings = settings_for(1, tmp_path / "run", init=str(source))
    weights = {f"skeleton_adapter.{name}": value for name, value in encoder.state_dict().items()}
    assert_starts_as(started(settings), weights)


def released(folder: Path, *, base_shift: float = 0.0) -> Path:
    """A folder as accelerate wrote the release: a UNet with trained weights of its own, and an encoder."""
    unet = inflate(load_base(str(small_base())).unet, OFFICIAL, seed=9)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if "attn_temp" in name or "conv_temporal" in name:
                value.add_(0.01)
        unet.conv_in.weight.add_(base_shift)
    folder.mkdir()
    write_official_unet(unet, build_pose_encoder(WIDTHS, OFFICIAL, 7), folder / "pytorch_model.bin")
    return folder


def test_stage_2_starts_from_the_release_and_takes_its_pose_encoder_along(tmp_path: Path):
    # Mutations tried: the pose encoder left out -> red; loaded again on resume -> red
    source = released(tmp_path / "release")
    expected = torch.load(source / "pytorch_model.bin", weights_only=True)
    settings = settings_for(2, tmp_path / "run", init=str(source), pose_encoder="", max_steps=1)
    assert_starts_as(started(settings), expected)
    run(settings)
    carried = load_file(tmp_path / "run/pose_encoder.safetensors")
    assert all(torch.equal(value, expected[f"skeleton_adapter.{name}"]) for name, value in carried.items())
    (source / "pytorch_model.bin").rename(source / "gone")
    run(dataclasses.replace(settings, max_steps=2))
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2]


def test_a_run_starts_from_the_average_of_another(tmp_path: Path):
    ema = EmaSettings(decay=0.5)
    fast = OptimSettings(lr=1e-2)
    run(settings_for(2, tmp_path / "first", max_steps=3, ema=ema, optim=fast))
    average = load_file(tmp_path / "first/checkpoints/step-000003/ema.safetensors")
    settings = settings_for(2, tmp_path / "second", init=str(tmp_path / "first"))
    assert_starts_as(started(settings), average)


def test_a_clip_model_of_another_base_is_no_start(tmp_path: Path):
    # Mutation tried: no comparison -> trained queries of one base beside the frozen keys of another.
    run(settings_for(2, tmp_path / "first", max_steps=1))
    card = tmp_path / "first" / "run.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps({**values, "base": {**values["base"], "unet": "0" * 64}}))
    with pytest.raises(UsageError, match="trained on another base"):
        started(settings_for(2, tmp_path / "second", init=str(tmp_path / "first")))


def test_a_model_that_uses_some_maps_of_the_pose_encoder_starts_from_all_of_it(tmp_path: Path):
    # Mutation tried: the file held against the trained tensors alone -> "28 of 10 tensors differ".
    encoder = build_pose_encoder(WIDTHS, OFFICIAL, 7)
    write_pose_encoder(encoder, tmp_path / "pose_encoder.pth")
    model = ModelSettings(pose_at="first_level")
    stage = started(settings_for(1, tmp_path / "run", init=str(tmp_path / "pose_encoder.pth"), model=model))
    assert stage.pose_encoder is not None
    found = stage.pose_encoder.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in encoder.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path: Path):
    # Mutations tried: no look at the frozen ones -> red; no look at the names -> red
    write_pose_encoder(build_pose_encoder((8, 8, 16, 32), OFFICIAL), tmp_path / "wide.safetensors")
    with pytest.raises(UsageError, match=r"--init: .*wide.*do not fit: stage 1 .* differ: .*body.6.*\(32, "):
        started(settings_for(1, tmp_path / "run", init=str(tmp_path / "wide.safetensors")))
    write_pose_encoder(build_pose_encoder(WIDTHS, OFFICIAL), tmp_path / "pose.safetensors")
    with pytest.raises(UsageError, match=r"stage 2 starts from a video UNet .*--pose-encoder.* conv_in.*is missing"):
        started(settings_for(2, tmp_path / "run", init=str(tmp_path / "pose.safetensors")))
    other = released(tmp_path / "other", base_shift=0.1)
    with pytest.raises(UsageError, match=r"another base.*1 weights that stay frozen .*conv_in.weight has other values"):
        started(settings_for(2, tmp_path / "run", init=str(other)))
    plain = released(tmp_path / "plain")
    paper = ModelSettings(trainable="paper")
    with pytest.raises(UsageError, match=r"stay frozen are not the base's: .*conv_temporal"):
        started(settings_for(2, tmp_path / "run", init=str(plain), model=paper))
    run(settings_for(1, tmp_path / "one", max_steps=1))
    with pytest.raises(UsageError, match=r"stage 2 starts from .* is missing"):
        started(settings_for(2, tmp_path / "run", init=str(tmp_path / "one")))


def test_a_start_that_is_not_there_or_named_twice_is_a_wrong_use(tmp_path: Path):
    with pytest.raises(UsageError, match="--init nothing: nothing there"):
        run(settings_for(1, tmp_path / "run", init="nothing"))
    with pytest.raises(UsageError, match="--init a: in stage 1, --pose-encoder names what to start from as well"):
        run(settings_for(1, tmp_path / "run", init="a", pose_encoder="b"))
    assert not (tmp_path / "run").exists()
