"""Schedulers by name: the official DDIM, or any other of diffusers' that suits a Stable Diffusion base."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers

from lposekit.errors import UsageError
from lposekit.setting_values import nearest

SHORT_NAMES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
OFFICIAL = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}
"""What the released sampler's DDIM has over a base's betas, and Stable Diffusion's PNDM; schedulers that know less take
what they know."""


def make_scheduler(name: str, base: Mapping[str, Any]) -> Any:
    """The scheduler of this name over the betas and the prediction type of a base's scheduler configuration.

    Raises UsageError for a name that is none, or that needs a package that is not installed.
    """
    known = [kind.name for kind in diffusers.schedulers.KarrasDiffusionSchedulers]
    class_name = SHORT_NAMES.get(name, name)
    if class_name not in known:
        hint = nearest(name, [*SHORT_NAMES, *known])
        raise UsageError(
            f"--scheduler {name}: no such scheduler{hint} There are {', '.join(SHORT_NAMES)}, and {known}."
        )
    betas = {key: base[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    config = {**betas, "prediction_type": base.get("prediction_type", "epsilon"), **OFFICIAL}
    if base.get("trained_betas") is not None:
        config["trained_betas"] = base["trained_betas"]
    try:
        kind = getattr(diffusers, class_name)
        known_options = inspect.signature(kind.__init__).parameters
        return kind.from_config({key: value for key, value in config.items() if key in known_options})
    except (ImportError, ValueError) as error:
        raise UsageError(f"--scheduler {name}: {error}. Choose another one.") from error
