"""Contract of the baselines of `lposekit evaluate`: a ControlNet or a T2I-Adapter that is named draws each frame by
itself, from the skeletons that it knows, and is judged as any other system; weights that do not belong to the base are
refused before anything is drawn.

The weights are random and tiny: published ones cannot be had here. The pipelines are those of diffusers.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPImageProcessorPil

from lposekit.cli import main
from lposekit.skeleton_styles import StyleName
from tests.support.safety_checker import safety_checker
from tests.support.sample_runs import trained
from tests.support.train_runs import scratch, small_base
from trainer.evaluate.baseline import read_baseline
from trainer.evaluate.protocol import read_protocol
from trainer.evaluate.results import Results
from trainer.evaluate.settings import BaselineSettings, EvaluateSettings
from trainer.export import SKELETONS, export_run
from trainer.smallworld.datasets import write_images

pytestmark = pytest.mark.timeout(480)
PAIRS = 2


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@functools.cache
def world() -> Path:
    """A dataset of the small world: images with captions and poses."""
    folder = scratch() / "baseline-images"
    write_images(folder, seed=4, split="train", count=5)
    return folder


@functools.cache
def controlnet(**changes: Any) -> Path:
    """A ControlNet for the small base, whose last layers are random, not zero: it has something to say."""
    folder = scratch() / f"controlnet-{'-'.join(changes)}"
    unet: Any = UNet2DConditionModel.from_pretrained(small_base() / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = {**ControlNetModel.from_unet(unet).config, **changes}
        model: Any = ControlNetModel.from_config(config)
        for layer in (
            *model.controlnet_down_blocks,
            model.controlnet_mid_block,
            model.controlnet_cond_embedding.conv_out,
        ):
            torch.nn.init.normal_(layer.weight, std=0.5)
        model.save_pretrained(folder)
    return folder


@functools.cache
def adapter(**changes: Any) -> Path:
    """A T2I-Adapter for the small base."""
    folder = scratch() / f"adapter-{'-'.join(changes)}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        T2IAdapter(**{"channels": [8, 8, 16, 16], **changes}).save_pretrained(folder)
    return folder


@functools.cache
def exported() -> Path:
    """The pose encoder of a run of stage 1, as `lposekit export --to t2i-adapter` writes it."""
    folder = scratch() / "exported-adapter"
    export_run(trained(1), "t2i-adapter", folder)
    return folder


def evaluate(*arguments: str | Path, output: str = "out", frames: int = 2) -> int:
    """The exit code of `lposekit evaluate` of few pairs."""
    words = ["--output", output, "--pose-model", "none", "--compute.threads", "1", "--drawing.steps", "2"]
    words += ["--base", str(small_base()), "--data", str(world()), "--pairs", str(PAIRS), "--num-frames", str(frames)]
    sizes = () if "--run" in arguments else ("--drawing.height", "64", "--drawing.width", "64")
    return main(["evaluate", *words, *sizes, *(str(word) for word in arguments)])


def drawn(output: str = "out") -> np.ndarray:
    """All that was drawn: uint8 [P, F, H, W, 3]."""
    pairs = read_protocol(Path(output, "protocol.jsonl")).pairs
    return np.stack([Results(Path(output, "samples")).frames(pair) for pair in pairs])


def found(output: str = "out") -> dict[str, Any]:
    return json.loads(Path(output, "evaluation.json").read_bytes())


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in levels."""
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize(("flag", "title"), [("--controlnet", "ControlNet"), ("--t2i-adapter", "T2I-Adapter")])
def test_a_baseline_draws_and_stands_beside_the_rows_of_the_paper(flag: str, title: str, capsys: Any) -> None:
    # Mutation tried: the skeleton left out of the call -> both scales draw the same.
    folder = controlnet() if flag == "--controlnet" else adapter()
    assert evaluate(flag, folder) == 0
    name = f"{title} ({folder.name})"
    assert name in capsys.readouterr().out
    assert f"<th>{name}, measured here</th>" in Path("out/report.html").read_text()
    assert found()["kind"] == flag.removeprefix("--")
    how = found()["drawn_with"]
    assert how["baseline"]["style"] == "openpose18"
    assert how["settings"]["guidance"] == 7.5
    assert evaluate(flag, folder, "--baseline.scale", "0", output="without") == 0
    assert apart(drawn(), drawn("without")) > 1


def test_an_exported_run_draws_as_a_t2i_adapter_what_the_run_draws() -> None:
    # Mutations tried: the style of published adapters for it; other noise than a run's; its line width forgotten.
    assert evaluate("--run", trained(1), output="run") == 0
    assert evaluate("--t2i-adapter", exported(), "--drawing.guidance", "12.5", output="adapter") == 0
    assert found("adapter")["drawn_with"]["baseline"]["style"] == "followyourpose"
    assert found("adapter")["drawn_with"]["size_hw"] == found("run")["drawn_with"]["size_hw"]
    assert np.abs(drawn("run").astype(int) - drawn("adapter")).max() <= 1
    # and another style, named, is another condition
    words = ("--t2i-adapter", exported(), "--drawing.guidance", "12.5", "--baseline.style", "openpose18")
    assert evaluate(*words, output="other") == 0
    assert apart(drawn("adapter"), drawn("other")) > 1


@pytest.mark.parametrize(("style", "width"), [(None, 3), ("followyourpose", 3), ("openpose18", None)])
def test_a_stated_line_width_goes_with_its_style(tmp_path: Path, style: StyleName | None, width: int | None) -> None:
    # Mutation tried: a style that is named always takes its own width.
    folder = shutil.copytree(adapter(), tmp_path / "adapter")
    (folder / SKELETONS).write_text(json.dumps({"style": "followyourpose", "line_width_px": 3, "size": 64}))
    named = BaselineSettings(style=style)
    found = read_baseline(EvaluateSettings(t2i_adapter=str(folder), base=str(small_base()), baseline=named))
    assert found is not None
    assert (found.facts.pose_style, found.facts.pose_line_width) == (style or "followyourpose", width)


def test_each_frame_has_its_own_noise_unless_one_is_asked_for() -> None:
    # Mutation tried: `same_noise` not passed on. The pose is held, so that frames differ by noise alone.
    assert evaluate("--controlnet", controlnet()) == 0
    assert evaluate("--controlnet", controlnet(), "--baseline.same-noise", output="same") == 0
    assert apart(drawn()[:, 0], drawn()[:, 1]) > 1
    assert np.array_equal(drawn("same")[:, 0], drawn("same")[:, 1])
    assert np.array_equal(drawn()[:, 0], drawn("same")[:, 0])


@pytest.mark.parametrize("eta", ["0", "1"])
def test_frames_do_not_depend_on_how_many_are_drawn_at_a_time(eta: str) -> None:
    # Mutations tried: noise drawn for each batch anew from the seed -> the second batch repeats the first one's; one
    # generator for all frames -> the noise of eta depends on the batch.
    words = ("--controlnet", controlnet(), "--drawing.eta", eta)
    assert evaluate(*words, frames=3) == 0
    assert evaluate(*words, "--baseline.batch-size", "2", frames=3, output="b") == 0
    assert np.abs(drawn().astype(int) - drawn("b")).max() <= 1


def test_a_stopped_baseline_goes_on_to_the_same_bytes_and_other_weights_are_not_mixed_with_it(capsys: Any) -> None:
    # Mutation tried: the baseline's weights left out of what the samples were made from.
    assert evaluate("--controlnet", controlnet()) == 0
    names = ("evaluation.json", "report.html")
    before = {name: Path("out", name).read_bytes() for name in names}
    kept, lost = (Path("out/samples", pair.key) for pair in read_protocol(Path("out/protocol.jsonl")).pairs)
    times = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    shutil.rmtree(lost)
    for name in names:
        Path("out", name).unlink()
    assert evaluate("--controlnet", controlnet()) == 0
    assert before == {name: Path("out", name).read_bytes() for name in names}
    assert times == {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert evaluate("--t2i-adapter", adapter()) == 2
    assert "drawn with other weights or settings" in capsys.readouterr().err
    assert evaluate("--controlnet", controlnet(), "--baseline.scale", "0.5") == 2
    assert "scale: 1.0 -> 0.5" in capsys.readouterr().err


def test_what_a_baseline_drew_is_judged_as_any_frames(capsys: Any) -> None:
    assert evaluate("--t2i-adapter", adapter()) == 0
    words = ["evaluate", "--frames", "out/samples", "--protocol", "out/protocol.jsonl", "--output", "b"]
    assert main([*words, "--pose-model", "none"]) == 0
    assert found()["scores"] == found("b")["scores"]


@pytest.mark.parametrize("flag", ["--controlnet", "--t2i-adapter"])
def test_the_bases_safety_checker_turns_frames_black_and_can_be_left_out(flag: str) -> None:
    # Mutation tried: the checker not handed to the pipeline.
    base = Path(shutil.copytree(small_base(), "checked"))
    safety_checker().save_pretrained(base / "safety_checker")
    CLIPImageProcessorPil(
        size={"shortest_edge": 32},  # pyright: ignore
        crop_size={"height": 32, "width": 32},  # pyright: ignore
    ).save_pretrained(base / "feature_extractor")
    words = (flag, controlnet() if flag == "--controlnet" else adapter(), "--base", base)
    assert evaluate(*words) == 0
    assert not drawn().any()
    assert evaluate(*words, "--drawing.no-safety-checker", output="b") == 0
    assert drawn("b").any()


REFUSED: dict[str, tuple[Any, str]] = {
    "not there": (lambda: ("--controlnet", "nowhere"), "--controlnet nowhere: there is no such folder"),
    "no weights": (lambda: ("--controlnet", without(controlnet(), ".safetensors")), "no weights there"),
    "no configuration": (lambda: ("--controlnet", without(controlnet(), "config.json")), "config.json cannot be read"),
    "cut weights": (lambda: ("--controlnet", cut(controlnet())), "cannot be loaded"),
    "an adapter as a ControlNet": (lambda: ("--controlnet", adapter()), "Name it with --t2i-adapter"),
    "a ControlNet as an adapter": (lambda: ("--t2i-adapter", controlnet()), "Name it with --controlnet"),
    "a UNet": (lambda: ("--controlnet", small_base() / "unet"), "of a UNet2DConditionModel, not of a ControlNetModel"),
    "another text": (lambda: ("--controlnet", controlnet(cross_attention_dim=48)), "text of width 48, .* of width 32"),
    "more latents": (lambda: ("--controlnet", controlnet(in_channels=9)), "latents of 9 channels, .* of 4 channels"),
    "other levels": (lambda: ("--t2i-adapter", adapter(channels=(8, 16, 16, 16))), r"\[8, 16, 16, 16\] channels, .*"),
    "grey images": (lambda: ("--t2i-adapter", adapter(in_channels=1)), "images of 1 channels, and skeletons have 3"),
    "another reduction": (lambda: ("--t2i-adapter", adapter(downscale_factor=16)), "16 times, and the VAE 8 times"),
    "of XL": (lambda: ("--t2i-adapter", adapter(adapter_type="full_adapter_xl")), "Stable Diffusion XL"),
    "two systems": (lambda: ("--t2i-adapter", adapter(), "--controlnet", controlnet()), "name what is judged"),
    "a step": (lambda: ("--controlnet", controlnet(), "--drawing.step", "4"), "is for a run"),
    "no baseline": (lambda: ("--frames", ".", "--baseline.scale", "2"), "neither is named"),
}


def without(folder: Path, ending: str) -> Path:
    """A copy that lacks a file."""
    copy = Path(shutil.copytree(folder, "lacking"))
    next(path for path in copy.iterdir() if path.name.endswith(ending)).unlink()
    return copy


def cut(folder: Path) -> Path:
    """A copy whose weights end early."""
    copy = Path(shutil.copytree(folder, "cut"))
    path = copy / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return copy


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_one_error_before_anything_is_drawn(case: str, capsys: Any) -> None:
    # Mutations tried: each check taken out -> red; most then fail while the first frame is drawn, with a traceback.
    words, says = REFUSED[case]
    assert evaluate(*words()) == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert "Traceback" not in error
    assert not list(Path("out").rglob("*.png"))


def test_a_base_is_needed_and_a_dry_run_checks_that_it_fits(capsys: Any) -> None:
    words = ("evaluate", "--controlnet", controlnet(), "--data", world(), "--output", "out", "--pose-model", "none")
    assert main([str(word) for word in words]) == 2
    assert "name the Stable Diffusion model" in capsys.readouterr().err
    assert evaluate("--controlnet", controlnet(), "--dry-run") == 0
    assert f"would judge {PAIRS} pairs of 2 frames: ControlNet ({controlnet().name})" in capsys.readouterr().out
    assert evaluate("--controlnet", controlnet(cross_attention_dim=48), "--dry-run") == 2
    assert not Path("out").exists()
