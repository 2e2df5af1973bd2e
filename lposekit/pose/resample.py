"""Poses at another frame rate, length or size."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from lposekit.pose.tracks import PersonTrack, PoseTracks, empty_track


def resample(tracks: PoseTracks, fps: Fraction | int, num_frames: int | None = None) -> PoseTracks:
    """The poses at `fps`: frame k shows the moment k / fps, on a straight line between the two frames around it.

    `num_frames`: default, as long as the video is. Behind its end nobody is there. Where a person is in only one of
    the two frames around a moment, the nearer frame decides.

    Raises:
        ValueError: fps or num_frames are not positive.
    """
    count = round(tracks.num_frames * fps / tracks.fps) if num_frames is None else num_frames
    if fps <= 0 or count < 0 or (num_frames is not None and num_frames < 1):
        raise ValueError(f"{num_frames} frames at {fps} frames a second: both must be positive")
    # exact: 30 frames a second are every second of 60, not every 1.9999th
    places = [k * tracks.fps / fps for k in range(count)]
    early_N = np.array([int(place) for place in places], np.intp)
    share_N = np.array([float(place - int(place)) for place in places], np.float32)
    persons = tuple(_resampled(person, early_N, share_N) for person in tracks.persons)
    return replace(tracks, fps=Fraction(fps), num_frames=count, persons=persons)


def _resampled(person: PersonTrack, early_N: np.ndarray, share_N: np.ndarray) -> PersonTrack:
    last = len(person.boxes_F5) - 1
    present_F = np.append(person.present_F, False)  # behind the end
    late_N = np.where(share_N > 0, np.minimum(early_N + 1, last + 1), early_N).clip(max=last + 1)
    early_N = early_N.clip(max=last + 1)
    both_N = present_F[early_N] & present_F[late_N]
    nearer_N = np.where(share_N < 0.5, early_N, late_N)
    alone_N = ~both_N & present_F[nearer_N]
    new = empty_track(person.id, len(early_N), person.keypoints_FK3.shape[1])
    for target, source in ((new.boxes_F5, person.boxes_F5), (new.keypoints_FK3, person.keypoints_FK3)):
        share = share_N[both_N].reshape((-1,) + (1,) * (source.ndim - 1))
        target[both_N] = source[early_N[both_N]] * (1 - share) + source[late_N[both_N]] * share
        target[alone_N] = source[nearer_N[alone_N]]
    return new


def scale_tracks(tracks: PoseTracks, width: int, height: int) -> PoseTracks:
    """The poses in pixels of the video resized to `width` x `height` (pixel centres at integers, as resizers do).

    Raises:
        ValueError: a side that is not positive.
    """
    if width < 1 or height < 1:
        raise ValueError(f"{width} x {height} pixels")
    scale_2 = np.array([width / tracks.width, height / tracks.height], np.float32)
    persons = []
    for person in tracks.persons:
        keypoints_FK3, boxes_F5 = person.keypoints_FK3.copy(), person.boxes_F5.copy()
        keypoints_FK3[..., :2] = (keypoints_FK3[..., :2] + 0.5) * scale_2 - 0.5
        boxes_F5[:, :4] *= np.tile(scale_2, 2)
        persons.append(PersonTrack(person.id, keypoints_FK3, boxes_F5))
    return replace(tracks, width=width, height=height, persons=tuple(persons))
