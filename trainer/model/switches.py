"""Named switches of the model, and the two presets: `official` (the released code) and `paper` (the paper's text).

Where the released code and the paper differ, a switch has one value for each. Why the default is the released code:
docs/decisions/2026-11-20-model-preset.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lposekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModelSwitches:
    """What the model computes and what of it is trained.

    temporal_layers: add `attn_temp`, `norm_temp` and `conv_temporal` to every transformer block. Off gives, at one
        frame, exactly the Stable Diffusion UNet: the net of stage 1.
    cross_frame: the self-attention of frame i looks at frames 0 and i-1 (sparse-causal); off: at its own frame, as in
        the base.
    pose_at: where the pose encoder's maps are added. `levels`: each after its down level, as T2I-Adapter does;
        `first_level`: only the first map; `input`: the first map, to the output of the UNet's first convolution. The
        last is what a condition concatenated to the latents computes while the base is frozen: a convolution over
        concatenated channels is the sum of two.
    joint_group_norm: the norms of the resnets and of the output take their statistics over all frames of a clip
        together, as the released code does; off: for each frame by itself.
    attn_temp_init: `random` draws the output projection of the temporal attention like every other linear layer, so a
        new clip model differs from its base at step 0 (released code); `zero` starts it at zero (paper, Tune-A-Video).
    pose_init: `random` starts the pose encoder like any convolution net (released code); `zero` starts it so that all
        four feature maps are exactly zero and can still learn (paper: "zero-initialised").
    trainable: which parameters stage 2 trains. `official`: `attn1.to_q`, `attn2.to_q`, `attn_temp`, `conv_temporal`;
        `paper`: cross-frame and temporal attention only, that is all of `attn1` and `attn_temp`.
    train_norm_temp: stage 2 trains the LayerNorm before the temporal attention as well; both sources leave it frozen.
    """

    temporal_layers: bool = True
    cross_frame: bool = True
    pose_at: Literal["levels", "first_level", "input"] = "levels"
    joint_group_norm: bool = True
    attn_temp_init: Literal["random", "zero"] = "random"
    pose_init: Literal["random", "zero"] = "random"
    trainable: Literal["official", "paper"] = "official"
    train_norm_temp: bool = False


OFFICIAL = ModelSwitches()
PAPER = ModelSwitches(attn_temp_init="zero", pose_init="zero", trainable="paper")
PRESETS = {"official": OFFICIAL, "paper": PAPER}

TRAINABLE_MODULES = {
    "official": ("attn1.to_q", "attn2.to_q", "attn_temp", "conv_temporal"),
    "paper": ("attn1", "attn_temp"),
}
"""Stage 2 trains every parameter below a module whose name ends in one of these."""


def preset(name: str) -> ModelSwitches:
    """The switches of a preset; raises UsageError for a name that is none."""
    if name not in PRESETS:
        raise UsageError(f"model preset {name!r} is not known. Choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name]


def trainable_modules(switches: ModelSwitches) -> tuple[str, ...]:
    """Endings of the names of the modules that stage 2 trains."""
    extra = ("norm_temp",) if switches.train_norm_temp else ()
    return TRAINABLE_MODULES[switches.trainable] + extra


def used_maps(switches: ModelSwitches, levels: int) -> int:
    """How many of the pose encoder's maps, from the first on, are added anywhere."""
    return levels if switches.pose_at == "levels" else 1


def trains_in_stage2(parameter_name: str, switches: ModelSwitches) -> bool:
    """Whether stage 2 trains the UNet parameter of this official name."""
    parts = parameter_name.split(".")
    module_names = {".".join(parts[: end + 1]) for end in range(len(parts) - 1)}
    endings = trainable_modules(switches)
    return any(module == end or module.endswith("." + end) for module in module_names for end in endings)
