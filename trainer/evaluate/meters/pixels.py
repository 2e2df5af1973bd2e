"""How far the frames are from the real ones, pixel by pixel: L1, PSNR, SSIM."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.json_values import JsonObject
from lposekit.scores import disco, frames
from trainer.evaluate.meters.meter import Judged, mean_of
from trainer.evaluate.protocol import Pair
from trainer.evaluate.settings import Definitions

FIGURES = ("l1", "psnr", "ssim")


class PixelMeter:
    """The usual definitions, or DisCo's."""

    name = "pixels"

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def identity(self) -> JsonObject:
        return {"definitions": self._definitions}

    def measure(self, clip: Judged) -> JsonObject:
        if clip.real_FHWC is None:
            return {}
        both = clip.drawn_FHWC, clip.real_FHWC
        if self._definitions == "disco":
            return {"l1": disco.l1(*both), "psnr": frames.psnr(*both), "ssim": disco.ssim(*both)}
        return {"l1": frames.l1(*both), "psnr": frames.psnr(*both), "ssim": frames.ssim(*both)}

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        return {name: mean_of(found, name) for name in FIGURES}
