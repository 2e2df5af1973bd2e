"""One clip as mp4, coded as the video build codes its clips: key frames at most 12 apart, no B-frames."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

from trainer.inference.mp4 import write_mp4
from trainer.smallworld.draw import Image

FPS = 8
_OPTIONS = {"crf": "17", "preset": "veryfast", "sc_threshold": "0"}


def clip_bytes(frames_FHWC: Image) -> bytes:
    """The mp4 of frames, RGB uint8 [F, H, W, 3] with even sides, at `FPS` frames a second."""
    with tempfile.TemporaryDirectory() as folder:
        # a file, since FFmpeg opens it once more to move the index to its front
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames_FHWC, Fraction(FPS), _OPTIONS, key_frame_every=12)
        return path.read_bytes()
