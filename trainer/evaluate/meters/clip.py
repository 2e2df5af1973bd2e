"""CLIP score and frame consistency, with a CLIP model of transformers that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.scores.embeddings import consecutive_consistency, pairwise_consistency, text_score
from trainer.evaluate.meters.digests import weights_digest
from trainer.evaluate.meters.meter import Frames, Judged, mean_of
from trainer.evaluate.protocol import Pair
from trainer.model.tensor_files import first_line
from trainer.model.tiny import quiet_progress_bars
from trainer.model.weights_folder import weights_folder

HUB_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
FRAMES_AT_ONCE = 32
FIGURES = ("text", "consecutive", "pairwise")


class ClipMeter:
    """The cosines of frames and prompt, and of frames among each other."""

    name = "clip"

    def __init__(self, name: str, device: torch.device) -> None:
        """Loads the model. name: a folder that `save_pretrained` wrote, or a hub id.

        Raises:
            UsageError: it is not there, or is no CLIP model.
        """
        folder = weights_folder(f"--clip {name}", name, HUB_FILES, WAYS_ON)
        loads: Any = CLIPModel
        quiet_progress_bars()
        try:
            model, info = loads.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._images: Any = _image_processor(folder, model)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UsageError(f"--clip {name}: cannot be loaded ({first_line(error)}). {WAYS_ON}") from error
        if missing := sorted(info["missing_keys"]):
            raise UsageError(f"--clip {name}: lacks {len(missing)} of its weights, {missing[0]} among them. {WAYS_ON}")
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self._identity = {"model": name, "weights_sha256": weights_digest(model), "class": "transformers.CLIPModel"}

    def identity(self) -> JsonObject:
        return self._identity

    def measure(self, clip: Judged) -> JsonObject:
        text_D = self.text(clip.pair.prompt)
        real = None if clip.real_FHWC is None else self._figures(clip.real_FHWC, text_D)
        return {**self._figures(clip.drawn_FHWC, text_D), "real": real}

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        drawn = {name: mean_of(found, name) for name in FIGURES}
        return {**drawn, "real": {name: mean_of(found, "real", name) for name in FIGURES}}

    def _figures(self, frames_FHWC: Frames, text_D: npt.NDArray[np.float32]) -> JsonObject:
        images_FD = self.images(frames_FHWC)
        several = len(images_FD) > 1
        return {
            "text": text_score(images_FD, text_D),
            "consecutive": consecutive_consistency(images_FD) if several else None,
            "pairwise": pairwise_consistency(images_FD) if several else None,
        }

    @torch.inference_mode()
    def text(self, prompt: str) -> npt.NDArray[np.float32]:
        """The embedding [D] of a prompt; what is longer than the model reads is cut."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([prompt], truncation=True, max_length=longest, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        found = self._model.get_text_features(input_ids=ids.to(self._model.device), attention_mask=mask)
        return _array(found)[0]

    @torch.inference_mode()
    def images(self, frames_FHWC: Frames) -> npt.NDArray[np.float32]:
        """The embeddings [F, D] of frames."""
        parts = []
        for start in range(0, len(frames_FHWC), FRAMES_AT_ONCE):
            batch = self._images(images=list(frames_FHWC[start : start + FRAMES_AT_ONCE]), return_tensors="pt")
            pixels = batch["pixel_values"].to(self._model.device, torch.float32)
            parts.append(_array(self._model.get_image_features(pixel_values=pixels)))
        return np.concatenate(parts)


WAYS_ON = (
    "Name a folder with config.json, model.safetensors and the tokenizer's files, as `save_pretrained` writes them, or "
    "openai/clip-vit-large-patch14 where there is a network. Without --clip, these scores are left out."
)


def _image_processor(folder: Path, model: Any) -> Any:
    """The model's own preparation of images, without torchvision; CLIP's usual one at its size, where it has none."""
    if (folder / "preprocessor_config.json").is_file():
        return CLIPImageProcessorPil.from_pretrained(folder)
    side = model.config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})  # pyright: ignore


def _array(found: Any) -> npt.NDArray[np.float32]:
    """transformers 4 gives the embeddings themselves, 5 an output that holds them."""
    return getattr(found, "pooler_output", found).float().cpu().numpy()
