"""Which persons of successive frames are the same one.

A tracker of our own, small because the poses are there: persons are matched to tracks by the mean of the overlap of
boxes (IoU) and the likeness of poses (OKS), both at the place that a constant velocity predicts, with scipy's optimal
assignment. Tracks seen in the frame before choose first; those lost for a while take what is left. As in ByteTrack
(Zhang et al. 2022), unsure boxes continue a track but never begin one. Why no library:
docs/decisions/2026-11-28-pose-tracks.md.

Deterministic: the same persons in the same order give the same tracks. Memory: a pose for each person and frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.oks import oks_matrix
from lposekit.pose.tracks import PersonTrack, empty_track
from lposekit.records import Person


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """`start_score`: box score from which a person begins a track. `min_likeness`: least mean of IoU and OKS of a
    match. `memory_frames`: how long a lost person is looked for. `min_frames`: tracks seen in fewer are dropped."""

    start_score: float
    min_likeness: float = 0.15
    memory_frames: int = 30
    min_frames: int = 1


@dataclass(slots=True)
class _Track:
    """One person so far. `velocity_2`: of the box's centre, in pixels a frame."""

    id: int
    frames: list[int] = field(default_factory=list)
    persons: list[Person] = field(default_factory=list)
    velocity_2: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    def add(self, frame: int, person: Person) -> None:
        if self.frames:
            moved_2 = (_centre(person) - _centre(self.persons[-1])) / (frame - self.frames[-1])
            self.velocity_2 = moved_2 if len(self.frames) == 1 else (self.velocity_2 + moved_2) / 2
        self.frames.append(frame)
        self.persons.append(person)

    def shift_2(self, frame: int) -> npt.NDArray[np.float64]:
        """How far the person has moved since it was seen. A lost one slows down: nobody keeps a pace unseen."""
        missed = frame - self.frames[-1]
        return self.velocity_2 * (1 - 0.8**missed) / (1 - 0.8)


class Tracker:
    """Takes the persons of one frame after the other (`update`), and gives their tracks (`tracks`)."""

    def __init__(self, settings: TrackerSettings, keypoint_format: str, score_threshold: float) -> None:
        self._settings = settings
        self._format = KEYPOINT_FORMATS[keypoint_format]
        self._score_threshold = score_threshold
        self._alive: list[_Track] = []
        self._all: list[_Track] = []
        self._frame = 0

    def update(self, persons: Sequence[Person]) -> list[int | None]:
        """Take the next frame. The id of each person's track; None for a person who is unsure and continues none."""
        self._alive = [t for t in self._alive if self._frame - t.frames[-1] <= self._settings.memory_frames + 1]
        seen_last = [track for track in self._alive if track.frames[-1] == self._frame - 1]
        lost = [track for track in self._alive if track.frames[-1] < self._frame - 1]
        ids: list[int | None] = [None] * len(persons)
        for tracks in (seen_last, lost):
            free = [i for i, found in enumerate(ids) if found is None]
            for track, i in self._matches(tracks, persons, free):
                track.add(self._frame, persons[i])
                ids[i] = track.id
        for i, person in enumerate(persons):
            if ids[i] is None and person.bbox_score >= self._settings.start_score:
                ids[i] = self._begin(person)
        self._frame += 1
        return ids

    def tracks(self) -> tuple[PersonTrack, ...]:
        """All tracks over all frames so far, numbered from 1 in the order in which they began."""
        lasting = [track for track in self._all if len(track.frames) >= self._settings.min_frames]
        return tuple(self._person_track(number, track) for number, track in enumerate(lasting, 1))

    def _begin(self, person: Person) -> int:
        track = _Track(len(self._all) + 1)
        track.add(self._frame, person)
        self._all.append(track)
        self._alive.append(track)
        return track.id

    def _matches(self, tracks: list[_Track], persons: Sequence[Person], free: list[int]) -> list[tuple[_Track, int]]:
        if not tracks or not free:
            return []
        from scipy.optimize import linear_sum_assignment  # half a second, which every other command would spend

        likeness_TP = self._likeness(tracks, [persons[i] for i in free])
        rows, columns = linear_sum_assignment(likeness_TP, maximize=True)
        least = self._settings.min_likeness
        return [(tracks[t], free[p]) for t, p in zip(rows, columns, strict=True) if likeness_TP[t, p] >= least]

    def _likeness(self, tracks: list[_Track], persons: list[Person]) -> npt.NDArray[np.float64]:
        """[T, P]: mean of IoU and OKS; IoU alone where too few joints are detected in both."""
        last = [track.persons[-1] for track in tracks]
        shifts_T2 = np.stack([track.shift_2(self._frame) for track in tracks])
        boxes_T4 = np.stack([person.bbox_xyxy for person in last]) + np.tile(shifts_T2, 2)
        poses_TK3 = np.stack([person.keypoints_K3 for person in last]).astype(np.float32)
        poses_TK3[..., :2] += shifts_T2[:, None]
        boxes_P4 = np.stack([person.bbox_xyxy for person in persons]).astype(np.float64)
        poses_PK3 = np.stack([person.keypoints_K3 for person in persons])
        oks_TP = oks_matrix(
            poses_TK3, poses_PK3, _areas(boxes_T4), _areas(boxes_P4), self._score_threshold, self._format
        )
        iou_TP = iou_matrix(boxes_T4, boxes_P4)
        return np.where(np.isnan(oks_TP), iou_TP, (iou_TP + oks_TP) / 2)

    def _person_track(self, number: int, track: _Track) -> PersonTrack:
        person_track = empty_track(number, self._frame, self._format.num_keypoints)
        for frame, person in zip(track.frames, track.persons, strict=True):
            left, top, right, bottom = person.bbox_xyxy
            person_track.boxes_F5[frame] = (left, top, right - left, bottom - top, person.bbox_score)
            person_track.keypoints_FK3[frame] = person.keypoints_K3
        return person_track


def iou_matrix(a_A4: npt.NDArray[np.floating], b_B4: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Overlap [A, B] of boxes (left, top, right, bottom) as a share of their union, 0..1."""
    low_AB2 = np.maximum(a_A4[:, None, :2], b_B4[None, :, :2])
    high_AB2 = np.minimum(a_A4[:, None, 2:], b_B4[None, :, 2:])
    shared_AB = np.prod(np.maximum(high_AB2 - low_AB2, 0), axis=-1)
    union_AB = _areas(a_A4)[:, None] + _areas(b_B4)[None] - shared_AB
    return np.asarray(shared_AB / np.maximum(union_AB, 1e-9), np.float64)


def _areas(boxes_N4: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.prod(np.maximum(boxes_N4[:, 2:] - boxes_N4[:, :2], 0), axis=-1, dtype=np.float64)


def _centre(person: Person) -> npt.NDArray[np.float64]:
    return (person.bbox_xyxy[:2].astype(np.float64) + person.bbox_xyxy[2:]) / 2
