"""Bases that the trainer cannot train are refused before they are loaded, or while they are: later, each would fail in
a way that says nothing of the reason, or train something else without a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import nn

from lposekit.errors import UsageError
from trainer.model.tensor_files import first_line

TRAINED_PREDICTIONS = ("epsilon", "v_prediction")
Part = TypeVar("Part", bound=nn.Module)


def refuse_unfit_configurations(name: str, folder: Path) -> None:
    """Looks at the configuration files of a base alone.

    Raises:
        UsageError: its scheduler is of another kind, or its parts do not belong together.
    """
    what = f"the base {name}"
    scheduler = read_config(what, folder / "scheduler" / "scheduler_config.json")
    unet, vae, text = (read_config(what, folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    kind = str(scheduler.get("_class_name", ""))
    prediction = scheduler.get("prediction_type", "epsilon")
    if kind.startswith("FlowMatch") or prediction not in TRAINED_PREDICTIONS:
        what = kind if kind.startswith("FlowMatch") else f"prediction type {prediction!r}"
        raise _unfit(name, f"its scheduler is of another kind ({what}); noise or velocity prediction is trained")
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        hint = ": an inpainting model has 9" if channels == 9 else ""
        raise _unfit(name, f"its UNet takes {channels} channels, and its VAE gives {latents}{hint}")
    width, text_width = unet.get("cross_attention_dim", 1280), text.get("hidden_size", 512)
    if width != text_width:
        raise _unfit(name, f"its UNet reads text of width {width}, and its text encoder gives {text_width}")


def load_part(what: str, folder: Path, load: Callable[..., tuple[Part, Mapping[str, Any]]]) -> Part:
    """A part of a base, or another model, with exactly its weights. `what`: for the user. `load`: gives the module and
    what was missing.

    Raises:
        UsageError: the weights are damaged, or some are missing, which would be random.
    """
    try:
        module, info = load()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"{what}: the weights in {folder} cannot be loaded ({first_line(error)}). Fetch them again."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(
            f"{what}: {folder} lacks {len(missing)} of its weights, {missing[0]} among them. Fetch it again."
        )
    return module


def read_config(what: str, path: Path) -> dict[str, Any]:
    """The configuration in a file. `what`: whose it is, for the user. Raises UsageError: it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{what}: {path} cannot be read ({first_line(error)}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{what}: {path} is no configuration. Fetch it again.")
    return found


def _unfit(name: str, reason: str) -> UsageError:
    return UsageError(f"the base {name} cannot be trained: {reason}. Take one of the Stable Diffusion 1.x or 2.x kind.")
