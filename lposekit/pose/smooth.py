"""Smoothing without delay, and what it is judged by.

Each place becomes the value of a parabola fitted to the places around it: the filter of Savitzky and Golay (1964), with
every place weighted by its score. The window looks as far ahead as back, so nothing lags (zero phase); a causal filter
such as One-Euro would. With equal scores and no gaps it is scipy's `savgol_filter`; other than that, it takes gaps,
short tracks and unsure joints as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lposekit.pose.tracks import PersonTrack, PoseTracks

_LEAST_WEIGHT = 0.05
_ORDER = 2


def smooth(tracks: PoseTracks, window_frames: int, score_threshold: float) -> PoseTracks:
    """The poses with places of joints and boxes smoothed; scores, and who is where, stay as they are.

    `window_frames`: width of the window (an even number counts as the next odd one). Below 5 nothing changes: a
    parabola through 3 points is those points. A joint below `score_threshold` weighs less, in proportion to its
    score.
    """
    half = window_frames // 2
    if half < 2:
        return tracks
    return replace(tracks, persons=tuple(_smoothed(person, half, score_threshold) for person in tracks.persons))


def _smoothed(person: PersonTrack, half: int, score_threshold: float) -> PersonTrack:
    keypoints_FK3, boxes_F5 = person.keypoints_FK3.copy(), person.boxes_F5.copy()
    scores_FK = keypoints_FK3[..., 2]
    weights_FK = np.clip(scores_FK / max(score_threshold, 1e-6), _LEAST_WEIGHT, 1)
    keypoints_FK3[..., :2] = local_parabola(keypoints_FK3[..., :2], weights_FK, half)
    boxes_F5[:, None, :4] = local_parabola(boxes_F5[:, None, :4], np.ones((len(boxes_F5), 1)), half)
    return PersonTrack(person.id, keypoints_FK3, boxes_F5)


def local_parabola(
    values_FJC: npt.NDArray[np.float32], weights_FJ: npt.NDArray[np.floating], half: int
) -> npt.NDArray[np.float32]:
    """Values [F, J, C] of weighted least-squares parabolas over frames t - half .. t + half, at t.

    What is not finite weighs nothing and stays. Where fewer than 4 values are in reach, the value stays too.
    """
    known_FJ = np.isfinite(values_FJC).all(-1) & np.isfinite(weights_FJ)
    weights_FJ = np.where(known_FJ, weights_FJ, 0).astype(np.float64)
    # around their middle: float64 then holds what the moments' differences need
    middle_JC = np.nanmean(np.where(known_FJ[..., None], values_FJC, np.nan), axis=0) if known_FJ.any(0).all() else 0.0
    values = np.where(known_FJ[..., None], values_FJC - middle_JC, 0).astype(np.float64)
    u_T = np.arange(-half, half + 1) / half
    moments = [_windowed(weights_FJ, u_T**power) for power in range(2 * _ORDER + 1)]
    sides = [_windowed(weights_FJ[..., None] * values, u_T**power) for power in range(_ORDER + 1)]
    in_reach_FJ = np.rint(_windowed(known_FJ.astype(np.float64), np.ones_like(u_T)))
    fitted_FJ = known_FJ & (in_reach_FJ > _ORDER + 1)
    normal_N33 = np.stack([np.stack([moments[i + j][fitted_FJ] for j in range(3)], -1) for i in range(3)], -2)
    right_N3C = np.stack([side[fitted_FJ] for side in sides], axis=1)
    smoothed = np.array(values_FJC, np.float32)
    centred = np.linalg.solve(normal_N33, right_N3C)[:, 0] + np.broadcast_to(middle_JC, values.shape)[fitted_FJ]
    smoothed[fitted_FJ] = centred
    return smoothed


def _windowed(values_F: npt.NDArray[np.float64], taps_T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over the window around each frame; outside of the video is nothing."""
    from scipy.ndimage import correlate1d  # only where poses are smoothed: every command imports this module

    return np.asarray(correlate1d(values_F, taps_T, axis=0, mode="constant", cval=0.0))


# --- what it is judged by --------------------------------------------------------------------------------------------


def jitter(tracks: PoseTracks, score_threshold: float) -> float | None:
    """Mean length of the second difference of the joints' places over three frames, as a share of the box's height.

    Over all persons, and all joints that are detected in all three frames; None where there are none.
    """
    lengths: list[npt.NDArray[np.floating]] = []
    for person in tracks.persons:
        places_FK2, detected_FK = _detected(person, score_threshold)
        second_FK2 = places_FK2[2:] - 2 * places_FK2[1:-1] + places_FK2[:-2]
        counted_FK = detected_FK[2:] & detected_FK[1:-1] & detected_FK[:-2]
        heights_FK = np.broadcast_to(person.boxes_F5[1:-1, 3, None], counted_FK.shape)
        lengths.append(np.linalg.norm(second_FK2[counted_FK], axis=-1) / np.maximum(heights_FK[counted_FK], 1))
    joined = np.concatenate(lengths) if lengths else np.zeros(0)
    return float(joined.mean()) if joined.size else None


def median_shift(before: PoseTracks, after: PoseTracks, score_threshold: float) -> float | None:
    """Median distance of the joints of the same persons in two versions of the poses, as a share of the box's height.

    Over joints that are detected in `before`; None where there are none.
    """
    shifts: list[npt.NDArray[np.floating]] = []
    there = {person.id: person for person in after.persons}
    for person in before.persons:
        if person.id in there:
            places_FK2, detected_FK = _detected(person, score_threshold)
            moved_FK2 = there[person.id].keypoints_FK3[..., :2] - places_FK2
            heights_FK = np.broadcast_to(person.boxes_F5[:, 3, None], detected_FK.shape)
            shifts.append(np.linalg.norm(moved_FK2[detected_FK], axis=-1) / np.maximum(heights_FK[detected_FK], 1))
    joined = np.concatenate(shifts) if shifts else np.zeros(0)
    return float(np.median(joined)) if joined.size else None


def _detected(person: PersonTrack, score_threshold: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    places_FK2 = person.keypoints_FK3[..., :2].astype(np.float64)
    with np.errstate(invalid="ignore"):
        detected_FK = (person.keypoints_FK3[..., 2] >= score_threshold) & np.isfinite(places_FK2).all(-1)
    return places_FK2, detected_FK & person.present_F[:, None]
