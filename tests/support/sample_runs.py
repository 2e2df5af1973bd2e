"""Small trained runs of both stages to sample from, and pose files for them."""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lposekit.pose.tracks import PersonTrack, PoseTracks, write_tracks
from tests.support.train_runs import scratch, settings_for, train_in_child
from trainer.run.walker import walker_keypoints, walker_skeletons

STEPS = 2
"""Training steps of a run."""
SIDE = 64
"""Pixels of the runs' images."""


@functools.cache
def trained(stage: int, pose_encoder: bool = True, ema: bool = False) -> Path:
    """The folder of a run of a stage, made once."""
    name = f"sampled-stage{stage}{'' if pose_encoder else '-alone'}{'-ema' if ema else ''}"
    settings = settings_for(stage, scratch() / name, max_steps=STEPS)
    if stage == 2 and pose_encoder:
        settings = dataclasses.replace(settings, pose_encoder=str(trained(1)))
    if ema:
        settings = dataclasses.replace(settings, ema=dataclasses.replace(settings.ema, decay=0.5))
    done = train_in_child(settings)
    assert done.exit_code == 0, done.message
    return scratch() / name


def walking(path: Path, num_frames: int = 12, persons: int = 1) -> Path:
    """A poses file of figures that walk side by side, in a video of 96 x 64 pixels."""
    tracks = []
    for number in range(persons):
        keypoints_FK3 = np.stack([walker_keypoints(frame / 16, SIDE) for frame in range(num_frames)])
        keypoints_FK3[..., 0] += 16 + 10 * number
        box = np.array([20 + 10 * number, 5, 30, 55, 0.9], np.float32)
        tracks.append(PersonTrack(number + 1, keypoints_FK3, np.repeat(box[None], num_frames, axis=0)))
    info = {"keypoint_score_threshold": 0.5}
    write_tracks(path, PoseTracks(Fraction(25), 96, 64, num_frames, "coco17", tuple(tracks), info))
    return path


def skeleton_video(path: Path, num_frames: int = 12, side: int = 256, swapped: bool = False) -> Path:
    """The walking figure as a video of drawn skeletons."""
    frames = walker_skeletons(num_frames, side, "followyourpose")
    return write_video(path, np.ascontiguousarray(frames[..., ::-1]) if swapped else frames)


def write_video(path: Path, frames_FHWC: np.ndarray, fps: int = 25) -> Path:
    """An H.264 file of these frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for rgb_HWC in frames_FHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> np.ndarray:
    """All frames of a file, RGB uint8 [F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
