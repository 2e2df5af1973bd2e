"""How still a clip is, and how many of its frames are black: needs no weights."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.json_values import JsonObject
from lposekit.scores.frames import flicker
from trainer.evaluate.meters.meter import Frames, Judged, mean_of
from trainer.evaluate.protocol import Pair


class MotionMeter:
    """Flicker: mean absolute difference of neighbouring frames, in levels of 0..255."""

    name = "motion"

    def identity(self) -> JsonObject:
        return {}

    def measure(self, clip: Judged) -> JsonObject:
        black = sum(1 for rgb_HWC in clip.drawn_FHWC if not rgb_HWC.any())
        return {
            "flicker": _flicker(clip.drawn_FHWC),
            "real_flicker": None if clip.real_FHWC is None else _flicker(clip.real_FHWC),
            "black_frames": black,
        }

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        return {
            "flicker": mean_of(found, "flicker"),
            "real_flicker": mean_of(found, "real_flicker"),
            "black_frames": sum(each["black_frames"] for each in found),  # pyright: ignore
        }


def _flicker(frames_FHWC: Frames) -> float | None:
    return flicker(frames_FHWC) if len(frames_FHWC) > 1 else None
