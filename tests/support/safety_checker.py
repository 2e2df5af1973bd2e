"""A safety checker as a base has one, that objects to every image."""

from __future__ import annotations

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig


def safety_checker() -> StableDiffusionSafetyChecker:
    """A checker of the smallest size that objects to everything."""
    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config={**part, "image_size": 32, "patch_size": 16}, projection_dim=4)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-10)
    return checker
