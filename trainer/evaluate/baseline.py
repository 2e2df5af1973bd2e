"""The baselines of the paper that diffusers runs, ControlNet and T2I-Adapter: which weights are named, and whether they
belong to the base. Only configuration files are read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel

from lposekit.errors import UsageError
from trainer.evaluate.settings import EvaluateSettings
from trainer.export import SKELETONS
from trainer.model.base import base_folder
from trainer.model.base_check import read_config, refuse_unfit_configurations
from trainer.model.weights_folder import weights_folder
from trainer.run.sampler import WeightsFacts, read_stated

STYLE = "openpose18"
"""Of the published weights of both kinds."""
SIZE = 512
"""Pixels of Stable Diffusion's images, where a base does not state its own."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
BASE_CONFIGURATIONS = ("*/config.json", "scheduler/*.json")
XL_ADAPTER = "full_adapter_xl"
SHAPES = {
    "in_channels": ("latents of {} channels", 4),
    "cross_attention_dim": ("text of width {}", 1280),
    "block_out_channels": ("levels of {} channels", [320, 640, 1280, 1280]),
    "layers_per_block": ("{} layers a level", 2),
    "addition_embed_type": ("further inputs of kind {}", None),
}
"""Values of a ControlNet's configuration that are those of its UNet: in words, and diffusers' default."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the two. flag: it names the weights. title: the paper's name. model: its class. pipeline: name of a class
    of diffusers. part, scale: arguments of the pipeline."""

    flag: str
    title: str
    model: Any
    pipeline: str
    part: str
    scale: str


KINDS = {
    "controlnet": Kind(
        "--controlnet",
        "ControlNet",
        ControlNetModel,
        "StableDiffusionControlNetPipeline",
        "controlnet",
        "controlnet_conditioning_scale",
    ),
    "t2i-adapter": Kind(
        "--t2i-adapter",
        "T2I-Adapter",
        T2IAdapter,
        "StableDiffusionAdapterPipeline",
        "adapter",
        "adapter_conditioning_scale",
    ),
}


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline's weights, which are not loaded yet. kind: in `KINDS`. name: as it was given. folder: where they lie.
    base: name of the base. facts: what they need around them: size, and how skeletons are drawn."""

    kind: str
    name: str
    folder: Path
    base: str
    facts: WeightsFacts

    @property
    def title(self) -> str:
        """The system's name on the page."""
        return f"{KINDS[self.kind].title} ({Path(self.name).resolve().name})"


def read_baseline(settings: EvaluateSettings) -> Baseline | None:
    """The baseline that the settings name, if they name one.

    Raises:
        UsageError: its weights are not there, are of another kind, or do not belong to the base.
    """
    kind = "controlnet" if settings.controlnet is not None else "t2i-adapter"
    name = settings.controlnet or settings.t2i_adapter
    if name is None:
        return None
    assert settings.base is not None
    flag = KINDS[kind].flag
    folder = baseline_folder(flag, name)
    config = baseline_config(kind, name, folder)
    base = base_folder(settings.base, BASE_CONFIGURATIONS)
    refuse_unfit_configurations(settings.base, base)
    what = f"the base {settings.base}"
    unet, vae = (read_config(what, base / part / "config.json") for part in ("unet", "vae"))
    unfit = next(_unfit(kind, config, unet, reduction(vae)), None)
    if unfit is not None:
        raise UsageError(
            f"{flag} {name}: {unfit} ({what}). Name the weights that were trained over this base, or their base."
        )
    size = (unet.get("sample_size") or SIZE // reduction(vae)) * reduction(vae)
    stated = _stated_skeletons(flag, name, folder) or {"pose_style": STYLE, "size": size}
    if settings.baseline.style not in (None, stated["pose_style"]):  # a width belongs to its style
        stated = {**stated, "pose_style": settings.baseline.style, "pose_line_width": None}
    return Baseline(kind, name, folder, settings.base, read_stated(f"{flag} {name}", None, {"stage": 1, **stated}))


def baseline_folder(flag: str, name: str) -> Path:
    """The local folder with the weights, fetched from the hub if need be. Raises UsageError: they are not there."""
    ways_on = "Name a folder with config.json and diffusion_pytorch_model.safetensors, as `save_pretrained` writes it."
    for weights in WEIGHTS:  # of a hub's two copies, only the first
        folder = weights_folder(f"{flag} {name}", name, ("config.json", SKELETONS, weights), ways_on)
        if (folder / weights).is_file():
            return folder
    raise UsageError(f"{flag} {name}: no weights there (neither {' nor '.join(WEIGHTS)}). {ways_on}")


def baseline_config(kind: str, name: str, folder: Path) -> dict[str, Any]:
    """The configuration of the weights. Raises UsageError: it is of another class than the flag's, or damaged."""
    chosen = KINDS[kind]
    config = read_config(f"{chosen.flag} {name}", folder / "config.json")
    found, wanted = config.get("_class_name"), chosen.model.__name__
    if found != wanted:
        right = [other.flag for other in KINDS.values() if other.model.__name__ == found]
        hint = f"Name it with {right[0]}." if right else f"Name the folder of a {wanted} of diffusers."
        raise UsageError(f"{chosen.flag} {name}: its config.json is of a {found}, not of a {wanted}. {hint}")
    return config


def reduction(vae: Mapping[str, Any]) -> int:
    """How many times smaller than its images a VAE's latents are."""
    return 2 ** (len(vae.get("block_out_channels", (64,))) - 1)


def _unfit(kind: str, config: Mapping[str, Any], unet: Mapping[str, Any], reduced: int) -> Iterator[str]:
    """Why weights do not belong to a UNet, and a VAE that reduces images so many times."""
    if kind == "controlnet":
        for name, (words, default) in SHAPES.items():
            own, of_base = config.get(name, default), unet.get(name, default)
            if own != of_base:
                yield f"takes {words.format(own)}, and the UNet has {words.format(of_base)}"
        channels, scale = (
            config.get("conditioning_channels", 3),
            2 ** (len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1),
        )
    else:
        if config.get("adapter_type", "full_adapter") == XL_ADAPTER:
            yield "is an adapter of Stable Diffusion XL, and the base is none"
        own, of_base = (
            found.get(name, SHAPES["block_out_channels"][1])
            for found, name in ((config, "channels"), (unet, "block_out_channels"))
        )
        if own != of_base:
            yield f"gives levels of {own} channels, and the UNet has levels of {of_base} channels"
        channels, scale = config.get("in_channels", 3), config.get("downscale_factor", 8)
    if channels != 3:
        yield f"takes images of {channels} channels, and skeletons have 3"
    if scale != reduced:
        yield f"reduces images {scale} times, and the VAE {reduced} times"


def _stated_skeletons(flag: str, name: str, folder: Path) -> dict[str, Any] | None:
    """How skeletons are drawn for an adapter that `lposekit export` wrote; None of other weights."""
    if not (folder / SKELETONS).is_file():
        return None
    found = read_config(f"{flag} {name}", folder / SKELETONS)
    return {"pose_style": found.get("style"), "pose_line_width": found.get("line_width_px"), "size": found.get("size")}
