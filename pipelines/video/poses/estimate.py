"""From the frames of a video to the tracks of its persons, as the models found them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lposekit.pose.tracker import Tracker, TrackerSettings
from lposekit.pose.tracks import PersonTrack
from lposekit.records import Person, PoseFailure
from lposekit.stage_times import StageTimes
from pipelines.video.poses.frames import Frame, FrameSource, StreamFacts
from pipelines.video.poses.settings import TrackingSettings

log = logging.getLogger(__name__)

Estimate = Callable[[list[npt.NDArray[np.uint8]], StageTimes], Sequence[list[Person] | PoseFailure]]
"""The models, asked for the persons of some images (uint8 [H, W, 3], RGB): an answer each; see `Estimator.estimate`."""
_SAY_EVERY_S = 30.0


@dataclass(slots=True)
class FoundPoses:
    """The persons over a video, and what went wrong with its frames. `damaged`: those that the file no longer holds
    included; `failed`: those that the models failed on."""

    persons: tuple[PersonTrack, ...] = ()
    num_frames: int = 0
    damaged: int = 0
    failed: int = 0
    last: list[Person] = field(default_factory=list)


def find_poses(
    name: str,
    source: FrameSource,
    facts: StreamFacts,
    estimate: Estimate,
    tracker: Tracker,
    batch_size: int,
    times: StageTimes,
) -> FoundPoses:
    """The tracks of the video that `source` has open. Memory: a batch of frames, and a pose for each person seen.

    Raises Rejected where decoding ends before the video does.
    """
    found = FoundPoses(damaged=facts.cut_off)
    said_s = time.monotonic()
    for batch in source.batches(facts, batch_size):
        poses = _estimated(batch, estimate, times, found)
        with times.stage("track"):
            for frame in batch:
                found.last = found.last if frame.repeated else poses.pop(0)
                tracker.update(found.last)
        found.num_frames += len(batch)
        found.damaged += sum(frame.damaged for frame in batch)
        if time.monotonic() - said_s > _SAY_EVERY_S:
            said_s = time.monotonic()
            log.info("%s: %d of %d frames", name, found.num_frames, facts.num_frames)
    found.persons = tracker.tracks()
    return found


def _estimated(batch: Sequence[Frame], estimate: Estimate, times: StageTimes, found: FoundPoses) -> list[list[Person]]:
    """The persons of each frame that is not repeated; nobody where it is damaged, or where the models failed."""
    fresh = [frame for frame in batch if not frame.repeated]
    images = [frame.rgb_HWC for frame in fresh if frame.rgb_HWC is not None]
    answers = iter(estimate(images, times) if images else [])
    poses: list[list[Person]] = []
    for frame in fresh:
        answer = [] if frame.rgb_HWC is None else next(answers)
        if isinstance(answer, PoseFailure):
            log.debug("a frame failed: %s", answer.detail)
            found.failed += 1
            answer = []
        poses.append(answer)
    return poses


def tracker_settings(settings: TrackingSettings, facts: StreamFacts, start_score: float) -> TrackerSettings:
    """Seconds to frames. Of a video that is hardly longer than `min_length_s`, half of the frames are enough."""
    least = min(math.ceil(settings.min_length_s * facts.fps), facts.num_frames // 2)
    return TrackerSettings(
        start_score=start_score,
        min_likeness=settings.min_likeness,
        memory_frames=round(settings.memory_s * facts.fps),
        min_frames=max(1, least),
    )
