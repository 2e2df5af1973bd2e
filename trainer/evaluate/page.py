"""The page of an evaluation: figures beside the paper's, and clips that play. One file, without network requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lposekit.json_values import JsonObject
from lposekit.pose.tracks import persons_at
from lposekit.report.clip_player import mp4_uri
from lposekit.report.decode import shrunk
from lposekit.report.inline_images import photo_uri, skeleton_image
from lposekit.report.page import flatten, write_page
from lposekit.report.spread import spread
from trainer.evaluate.figures import CLIP_SCORE, CONSISTENCY, FIGURES, POSE
from trainer.evaluate.meters.meter import Frames, Judged, number_at
from trainer.evaluate.paper import PAPER_ROWS
from trainer.evaluate.protocol import Protocol
from trainer.inference.fit import Fit
from trainer.inference.pose_input import pose_threshold

SHOWN_PAIRS = 24
SIDE_PX = 192
"""Of each image of a pair; skeleton, clip and real clip stand beside each other."""
OF_A_PAIR = (
    ("CLIP score", ("clip", "text"), 1, 2),
    ("consistency", ("clip", "consecutive"), 100, 2),
    ("PCK", ("pose", "drawn_pck"), 100, 1),
    ("flicker", ("motion", "flicker"), 1, 2),
)
"""Scores of a single pair: name, where it lies in what was found, scale, digits."""
FACTS = ("protocol", "drawn_with", "judged_with")


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair on the page. video: its clip beside skeleton and real clip; image: the same of its first frame, where it
    is one frame or no video can be made."""

    key: str
    prompt: str
    video: str | None
    image: str
    scores: Mapping[str, str]


def write_evaluation_page(path: Path, evaluation: JsonObject, protocol: Protocol, shown: Sequence[ShownPair]) -> Path:
    """Writes the page; returns its path. Raises LposekitError: the disk is full."""
    scores: Any = evaluation["scores"]
    rows = [(figure, figure.shown(scores), figure.shown(scores, real=True)) for figure in FIGURES]
    values: dict[str, Any] = {name: flatten(evaluation[name] or {}) for name in FACTS}  # pyright: ignore
    return write_page(
        path,
        "evaluate.html",
        folder=Path(__file__).parent,
        name=evaluation["system"],
        left_out=evaluation["left_out"],
        num_pairs=len(protocol.pairs),
        num_frames=protocol.num_frames,
        rows=[row for row in rows if row[1] is not None],
        paper=PAPER_ROWS,
        own=[figure.shown(scores) or "-" for figure in (CLIP_SCORE, POSE, CONSISTENCY)],
        disco="disco" in dict(values["judged_with"]).values(),
        black=number_at(scores, "motion", "black_frames"),
        shown=shown,
        **values,
    )


def show_pair(clip: Judged, found: Mapping[str, JsonObject], fps: float) -> ShownPair:
    """A pair for the page. found: what each meter found in it."""
    images = [_beside(clip, frame) for frame in range(len(clip.drawn_FHWC))]
    scores = {
        name: f"{scale * value:.{digits}f}"
        for name, place, scale, digits in OF_A_PAIR
        if (value := number_at(found, *place)) is not None
    }
    return ShownPair(clip.pair.key, clip.pair.prompt, mp4_uri(images, fps), photo_uri(images[0], 3 * SIDE_PX), scores)


def shown_pairs(protocol: Protocol) -> list[int]:
    """The places of the pairs that the page shows."""
    return spread(len(protocol.pairs), SHOWN_PAIRS)


def _beside(clip: Judged, frame: int) -> Frames:
    """Skeleton, drawn frame and, where there is one, real frame, side by side."""
    height, width = clip.drawn_FHWC.shape[1:3]
    tracks = clip.pair.tracks
    keypoints_PK3 = Fit(height, width).keypoints(persons_at(tracks, frame), tracks.height, tracks.width)
    drawn = shrunk(clip.drawn_FHWC[frame], SIDE_PX)
    skeleton = skeleton_image(keypoints_PK3, (height, width), SIDE_PX, pose_threshold(tracks))
    parts = [skeleton, drawn] if clip.real_FHWC is None else [skeleton, drawn, clip.real_FHWC[frame]]
    size = drawn.shape[1], drawn.shape[0]
    small = [np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8) for part in parts]
    return np.concatenate(small, axis=1)
