"""Contract: a base is found or refused with the ways on, and `tiny` is a whole base that something can be learned
from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lposekit.errors import UsageError
from tests.support.fixtures import fixture_path
from trainer.model.base import (
    Base,
    decode_latents,
    draw_latents,
    encode_images,
    encode_text,
    load_base,
    random_base,
    tokenize,
    weights_digest,
)
from trainer.model.fit import random_images
from trainer.model.tiny import build_tiny, tiny_folder

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("tiny") / "base"
    build_tiny(folder)
    return load_base(str(folder))


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(8)
    return random_images(6)[:, None]


def test_tiny_is_the_same_each_time_and_leaves_the_global_generator_alone(tiny: Base, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    build_tiny(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    again = load_base(str(tmp_path / "again"))
    for part in ("unet", "vae", "text_encoder"):
        assert weights_digest(getattr(tiny, part)) == weights_digest(getattr(again, part))


def test_tiny_is_built_once_and_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tiny_folder()
    marker = folder / "unet" / "config.json"
    written = marker.stat().st_mtime_ns
    assert load_base("tiny").source == str(folder) == str(tiny_folder())
    assert marker.stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_tiny_fits_on_a_laptop(tiny: Base) -> None:
    parameters = sum(p.numel() for part in (tiny.unet, tiny.vae, tiny.text_encoder) for p in part.parameters())
    assert parameters < 5e6


@torch.no_grad()
def test_latents_of_tiny_show_the_image(tiny: Base, images: torch.Tensor) -> None:
    # mutation: leave fit_vae out and the latents are noise: both are red
    moments = encode_images(tiny.vae, images)
    noise = torch.randn(moments.chunk(2, dim=2)[0].shape)
    latents = draw_latents(tiny.vae, moments, noise)
    assert latents.shape == (6, 4, 1, 8, 8)
    assert 0.5 < latents.std() < 1.5
    assert (latents - draw_latents(tiny.vae, moments, torch.zeros_like(noise))).std() < 0.05
    back = decode_latents(tiny.vae, latents)
    assert (back - images).square().mean() < 0.6 * images.var()


@torch.no_grad()
def test_unet_of_tiny_predicts_some_of_the_noise(tiny: Base, images: torch.Tensor) -> None:
    moments = encode_images(tiny.vae, images)
    latents = draw_latents(tiny.vae, moments, torch.zeros_like(moments.chunk(2, dim=2)[0]))[:, :, 0]
    noise, timesteps = torch.randn_like(latents), torch.tensor([50, 200, 400, 600, 800, 950])
    text = encode_text(tiny.text_encoder, tokenize(tiny.tokenizer, ["a"] * 6))
    prediction = tiny.unet(tiny.scheduler.add_noise(latents, noise, timesteps), timesteps, text).sample  # type: ignore[arg-type]
    assert (prediction - noise).square().mean() < 0.9 * noise.square().mean()


@torch.no_grad()
def test_draws_equal_those_of_diffusers(tiny: Base, images: torch.Tensor) -> None:
    distribution = tiny.vae.encode(images[:, 0]).latent_dist  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(distribution.mean.shape, generator=torch.Generator().manual_seed(2))
    expected = distribution.sample(generator) * tiny.vae.config["scaling_factor"]
    found = draw_latents(tiny.vae, encode_images(tiny.vae, images), noise[:, None])
    torch.testing.assert_close(found[:, :, 0], expected)


def test_captions_of_any_text_become_77_tokens(tiny: Base) -> None:
    captions = ["", "A man dances, 2 children watch!", "x" * 500, "d\u00e9j\u00e0 vu \U0001f483"]
    ids = tokenize(tiny.tokenizer, captions)
    assert ids.shape == (4, 77)
    assert ids.max() < len(tiny.tokenizer)
    text = encode_text(tiny.text_encoder, ids)
    assert text.shape == (4, 77, 32)
    assert not torch.equal(text[0], text[1])


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "a/b/c"])
def test_a_base_that_is_not_found_names_the_ways_on(name: str) -> None:
    with pytest.raises(UsageError, match=r"not found.*--base FOLDER.*--base tiny"):
        load_base(name)


def test_a_hub_base_that_cannot_be_had_names_the_ways_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # a closed port stands for any hub that does not answer
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"not found.*hub.*--base tiny"):
        load_base("CompVis/stable-diffusion-v1-4")


def test_a_folder_without_weights_says_which_are_missing(tmp_path: Path) -> None:
    for part in ("tokenizer", "text_encoder", "vae", "scheduler"):
        (tmp_path / part).mkdir()
    with pytest.raises(UsageError, match=r"lacks unet, the weights of text_encoder, the weights of vae.*--base tiny"):
        load_base(str(tmp_path))


def test_real_configurations_give_a_random_base_of_true_width() -> None:
    folder = fixture_path("weights/stable-diffusion-v1-4-noweights")
    with torch.device("meta"):
        base = random_base(folder)
    assert sum(p.numel() for p in base.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in base.text_encoder.parameters()) == 123_060_480
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    words = [vocabulary[f"{word}</w>"] for word in ("a", "person", "dancing")]
    assert tokenize(base.tokenizer, ["A person dancing"])[0, :5].tolist() == [49406, *words, 49407]
    stated = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert base.scheduler.config["beta_end"] == stated["beta_end"]
    assert base.scheduler.config["prediction_type"] == "epsilon"


def changed(tiny: Base, tmp_path: Path, part: str, **values: object) -> Path:
    """A copy of the tiny base with other values in a part's configuration."""
    folder = tmp_path / "base"
    shutil.copytree(tiny.source, folder)
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("scheduler", {"prediction_type": "sample"}, "prediction type 'sample'"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ("unet", {"in_channels": 9}, "takes 9 channels, and its VAE gives 4: an inpainting model"),
        ("unet", {"cross_attention_dim": 1024}, "reads text of width 1024, and its text encoder gives 32"),
    ],
)
def test_a_base_that_cannot_be_trained_is_refused_with_the_reason(
    part: str, values: dict[str, object], words: str, tiny: Base, tmp_path: Path
) -> None:
    # Mutations tried: each check left out -> red (the first two trained noise prediction without a word).
    with pytest.raises(UsageError, match=f"cannot be trained: .*{words}"):
        load_base(str(changed(tiny, tmp_path, part, **values)))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_cut_off_or_missing_are_refused_with_the_folder(part: str, tiny: Base, tmp_path: Path) -> None:
    # Mutations tried: errors passed on as they are, missing weights left to chance -> red.
    folder = changed(tiny, tmp_path, part)
    [weights] = (folder / part).glob("*.safetensors")
    whole = {name: value.clone() for name, value in load_file(weights).items()}
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=rf"the weights in .*/{part} cannot be loaded"):
        load_base(str(folder))
    lost = sorted(whole)[0]
    save_file({name: value for name, value in whole.items() if name != lost}, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"/{part} lacks 1 of its weights, {lost}"):
        load_base(str(folder))
