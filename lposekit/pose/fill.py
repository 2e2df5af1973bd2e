"""Short gaps in tracks are filled: frames without the person, and joints that were not detected for a moment.

Straight lines between the two ends. What is filled gets the lower score of the two ends, so that it is drawn when both
are; longer gaps stay gaps, so that nobody is drawn who has left, and no face on the back of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lposekit.pose.tracks import PersonTrack, PoseTracks


def fill_gaps(tracks: PoseTracks, max_frames: int, score_threshold: float) -> PoseTracks:
    """The poses with gaps of up to `max_frames` frames filled, persons first, then their joints.

    `score_threshold`: raw score from which a joint counts as detected. What was detected stays as it is.
    """
    return replace(tracks, persons=tuple(_filled(person, max_frames, score_threshold) for person in tracks.persons))


def _filled(person: PersonTrack, max_frames: int, score_threshold: float) -> PersonTrack:
    boxes_F5, keypoints_FK3 = person.boxes_F5.copy(), person.keypoints_FK3.copy()
    for first, last in gaps(person.present_F, max_frames):
        _bridge(boxes_F5, first, last)
        _bridge(keypoints_FK3, first, last)
    present_F = np.isfinite(boxes_F5[:, 0])
    with np.errstate(invalid="ignore"):
        detected_FK = (keypoints_FK3[..., 2] >= score_threshold) & np.isfinite(keypoints_FK3).all(-1)
    for joint in range(keypoints_FK3.shape[1]):
        for first, last in gaps(detected_FK[:, joint], max_frames):
            if present_F[first : last + 1].all():
                _bridge(keypoints_FK3[:, joint], first, last)
    return PersonTrack(person.id, keypoints_FK3, boxes_F5)


def gaps(there_F: npt.NDArray[np.bool_], max_frames: int) -> Iterator[tuple[int, int]]:
    """The last frame before and the first frame after each gap of at most `max_frames` frames."""
    frames = np.flatnonzero(there_F)
    missing = np.diff(frames) - 1
    for i in np.flatnonzero((missing > 0) & (missing <= max_frames)):
        yield int(frames[i]), int(frames[i + 1])


def _bridge(values_FN: npt.NDArray[np.float32], first: int, last: int) -> None:
    """Fill the frames between two, in place. The last column holds scores."""
    shape = (-1,) + (1,) * (values_FN.ndim - 1)
    share_G = ((np.arange(first + 1, last) - first) / (last - first)).reshape(shape).astype(np.float32)
    values_FN[first + 1 : last] = values_FN[first] * (1 - share_G) + values_FN[last] * share_G
    values_FN[first + 1 : last, ..., -1] = np.minimum(values_FN[first, ..., -1], values_FN[last, ..., -1])
