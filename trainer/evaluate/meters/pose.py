"""Pose accuracy: the poses that our estimator finds in the frames, against those that were asked for.

The same on the real frames, where they are known, is the ceiling: what a perfect clip would get from this estimator.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.json_values import JsonObject
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.protocol import Estimator
from lposekit.pose.tracks import PoseTracks, persons_at
from lposekit.records import Person, PoseFailure
from lposekit.scores.pose import Average, Found, Posed, average_precision, joints_in_place
from lposekit.skeleton import drop_outside
from trainer.evaluate.meters.meter import Frames, Judged
from trainer.evaluate.protocol import Pair
from trainer.inference.fit import Fit
from trainer.inference.pose_input import pose_threshold

DECIMALS = 4


class PoseMeter:
    """OKS-AP over all frames of all clips, and PCK@0.2. Frames are images of their own to COCO's evaluation."""

    name = "pose"

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator

    def identity(self) -> JsonObject:
        card = dict(self._estimator.card())
        card.pop("versions", None)
        return card

    def measure(self, clip: Judged) -> JsonObject:
        height, width = clip.drawn_FHWC.shape[1:3]
        found: dict[str, Any] = {"height": height, "width": width}
        for name, frames_FHWC in (("drawn", clip.drawn_FHWC), ("real", clip.real_FHWC)):
            found[name] = None if frames_FHWC is None else self._persons(frames_FHWC, clip.pair.key)
            found[f"{name}_pck"] = _share(_in_place(clip.pair, found, name))
        return found

    def summarise(self, pairs: Sequence[Pair], found: Sequence[JsonObject]) -> JsonObject:
        return {name: _figures(pairs, found, name) for name in ("drawn", "real")}

    def _persons(self, frames_FHWC: Frames, key: str) -> list[list[list[float]]]:
        """The persons of each frame: score, then (x, y, score) of the 17 body joints, flat."""
        body = list(KEYPOINT_FORMATS[self._estimator.keypoint_format].body17)
        with warnings.catch_warnings():
            # what MMDet's code of 2023 is told by torch
            warnings.simplefilter("ignore")
            answers = self._estimator.estimate(list(frames_FHWC))
        for answer in answers:
            if isinstance(answer, PoseFailure):
                raise LposekitError(f"{key}: the pose models failed on a frame ({answer}). Lower --pose.batch-size.")
        return [
            [_plain(person, body) for person in answer] for answer in answers if not isinstance(answer, PoseFailure)
        ]


def asked_keypoints(tracks: PoseTracks, frame: int, height: int, width: int) -> list[npt.NDArray[np.float32]]:
    """The persons that the skeleton of a frame shows: [17, 3] in pixels of the output, scores 0 of joints that it does
    not show."""
    body = list(KEYPOINT_FORMATS[tracks.keypoint_format].body17)
    fitted_PK3 = Fit(height, width).keypoints(persons_at(tracks, frame), tracks.height, tracks.width)
    shown_P17x3 = drop_outside(fitted_PK3, height, width)[:, body]
    shown = shown_P17x3[..., 2] >= pose_threshold(tracks)
    shown_P17x3[..., 2] = shown
    shown_P17x3[~shown] = 0
    return [person for person in shown_P17x3 if person[:, 2].any()]


def _plain(person: Person, body: Sequence[int]) -> list[float]:
    """Sureness, which only orders the persons: box score times the mean score of the joints, as MMPose has it."""
    keypoints_17x3 = person.keypoints_K3[body].astype(np.float64)
    score = person.bbox_score * float(keypoints_17x3[:, 2].mean())
    rounded = np.round(keypoints_17x3, DECIMALS)
    return [round(score, DECIMALS), *rounded.reshape(-1).tolist()]


def _images(pair: Pair, found: JsonObject, name: str) -> Iterator[Posed]:
    """The frames of a clip, as asked for and as found."""
    persons: Any = found[name]
    if persons is None:
        return
    height, width = int(found["height"]), int(found["width"])  # pyright: ignore
    for frame, listed in enumerate(persons):
        asked = asked_keypoints(pair.tracks, frame, height, width)
        yield Posed(asked, [Found(np.array(values[1:]).reshape(17, 3), values[0]) for values in listed])


def _in_place(pair: Pair, found: JsonObject, name: str) -> tuple[int, int]:
    counts = [joints_in_place(image) for image in _images(pair, found, name)]
    return sum(right for right, _ in counts), sum(total for _, total in counts)


def _share(counts: tuple[int, int]) -> float | None:
    return counts[0] / counts[1] if counts[1] else None


def _figures(pairs: Sequence[Pair], found: Sequence[JsonObject], name: str) -> JsonObject | None:
    images = [image for pair, each in zip(pairs, found, strict=True) for image in _images(pair, each, name)]
    average: Average | None = average_precision(images)
    if average is None:
        return None
    counts = [_in_place(pair, each, name) for pair, each in zip(pairs, found, strict=True)]
    return {
        "ap": average.ap,
        "ap50": average.ap50,
        "ap75": average.ap75,
        "ar": average.ar,
        "pck": _share((sum(right for right, _ in counts), sum(total for _, total in counts))),
        "frames": len(images),
        "persons": sum(len(image.asked_P) for image in images),
    }
