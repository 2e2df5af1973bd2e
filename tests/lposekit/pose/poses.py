"""Made-up persons and tracks for the tests of `lposekit.pose`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lposekit.pose.tracks import PersonTrack, PoseTracks, empty_track
from lposekit.records import Person

# A standing person in a box of 1 x 1, COCO's order.
STANDING = np.array(
    [
        *((0.50, 0.08), (0.53, 0.06), (0.47, 0.06), (0.56, 0.08), (0.44, 0.08)),
        *((0.65, 0.20), (0.35, 0.20), (0.75, 0.35), (0.25, 0.35), (0.80, 0.50), (0.20, 0.50)),
        *((0.60, 0.52), (0.40, 0.52), (0.60, 0.75), (0.40, 0.75), (0.60, 0.97), (0.40, 0.97)),
    ],
    np.float32,
)


def standing(left: float, top: float = 50.0, width: float = 60.0, height: float = 150.0, score: float = 0.9) -> Person:
    """Somebody who stands in that box, all 17 joints detected with 0.8."""
    keypoints_K3 = np.full((17, 3), 0.8, np.float32)
    keypoints_K3[:, :2] = STANDING * (width, height) + (left, top)
    return Person(np.array([left, top, left + width, top + height], np.float32), score, keypoints_K3)


def as_track(persons: dict[int, Person], num_frames: int, person_id: int = 1) -> PersonTrack:
    """One person by frame."""
    track = empty_track(person_id, num_frames, 17)
    for frame, person in persons.items():
        left, top, right, bottom = person.bbox_xyxy
        track.boxes_F5[frame] = (left, top, right - left, bottom - top, person.bbox_score)
        track.keypoints_FK3[frame] = person.keypoints_K3
    return track


def as_tracks(*persons: PersonTrack, fps: Fraction = Fraction(30)) -> PoseTracks:
    return PoseTracks(fps, 640, 480, len(persons[0].boxes_F5), "coco17", persons, {})
