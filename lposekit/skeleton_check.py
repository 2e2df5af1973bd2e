"""Whether skeleton images are drawn as a pose encoder learned to read them: right, convertible, or wrong and why.

A wrong skeleton raises no error in a model; it only gives bad images. Users meet it as swapped red and blue (MMPose 1.x
against the released code), a white background, values scaled otherwise, joints without limbs, or another style's
colours. Arrays: `FHWC` = frames of RGB uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lposekit.errors import UsageError
from lposekit.skeleton_styles import STYLES

Frames = npt.NDArray[np.uint8]

EXAMINED_FRAMES = 12
"""Evenly spaced frames that are looked at."""
EXAMINED_SIDE_PX = 512
"""Frames are looked at with every n-th pixel, no larger than about this."""
BLACK = 24
"""Largest channel of what counts as black; compression leaves some noise."""
FOREGROUND = 96
"""Largest channel from which a pixel is surely of a line: its hue is reliable."""
GREY = 48
"""Difference of the largest and the smallest channel below which a colour has no reliable hue."""
MAX_DISTANCE = 0.15
"""Mean difference of the lines' hues to the style's, at most, in a channel."""
CLOSE = 1.3
"""Styles whose difference is up to this many times that of the best one fit as well."""
MIN_FLAT = 0.6
"""Share of an image that is background, at least, in any drawing of skeletons."""
UNIT = 2
"""Largest value where 0 to 1 was written as whole numbers, with a little noise."""
VIVID = 128
"""Difference of the largest and the smallest channel of a drawing's lines, at least."""
DIM = 200
"""Lines whose largest channel stays below are darker than any style's."""
FULL = 255
_LIMITED = (10, 20)
"""Black of a video whose limited range (16 to 235) was never expanded."""
DOT_EXTENT = 0.06
"""Extent of a joint's dot, at most, as a share of the shorter side."""


@dataclass(frozen=True, slots=True)
class SkeletonCheck:
    """The verdict on images that can be used. `fixes`: what had to be changed, in words; `convert`: does it.

    `empty`: share of the examined frames without a skeleton.
    """

    fixes: tuple[str, ...]
    convert: Callable[[Frames], Frames]
    empty: float


def looks_drawn(frames_FHWC: Frames) -> bool:
    """Whether images look like drawings of skeletons: a flat background that is black, or on which all else is vivid.

    A person in front of a plain wall has a flat background too, but not the colours of a drawing.
    """
    pixels_N3 = _examined(frames_FHWC).reshape(-1, 3)
    background = _background(pixels_N3)
    if _flat_share(pixels_N3, background) < MIN_FLAT:
        return False
    if background.max() <= BLACK:
        return True
    others_N3 = pixels_N3[np.abs(pixels_N3 - background).max(axis=1) > 2 * BLACK].astype(np.float64)
    vivid_N = others_N3.max(axis=1) - others_N3.min(axis=1)
    return len(others_N3) == 0 or float(np.median(vivid_N)) >= VIVID


def check_skeletons(frames_FHWC: Frames, style: str) -> SkeletonCheck:
    """Judge skeleton images against a style that a pose encoder was trained with.

    Raises:
        UsageError: they are wrong in a way that cannot be undone; says what is wrong and what to give instead.
    """
    looked_FHWC = _examined(frames_FHWC)
    fixes: list[str] = []
    levels = _levels(looked_FHWC, fixes)
    looked_FHWC = levels(looked_FHWC)
    lines_FHW = looked_FHWC.max(axis=-1) >= FOREGROUND
    drawn_F = lines_FHW.any(axis=(1, 2))
    if not drawn_F.any():
        raise UsageError("no frame has a skeleton in it. Give a video in which a person was found, or keypoints.")
    _refuse_dots(lines_FHW[drawn_F])
    swap = _needs_swap(looked_FHWC[lines_FHW], style)
    if swap:
        fixes.append("red and blue were swapped (as MMPose 1.x draws them): swapped back")

    def convert(frames: Frames) -> Frames:
        leveled = levels(frames)
        return np.ascontiguousarray(leveled[..., ::-1]) if swap else leveled

    return SkeletonCheck(tuple(fixes), convert, float(1 - drawn_F.mean()))


# --- background and range --------------------------------------------------------------------------------------------


def examined_pixels(rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What `check_skeletons` looks at in a frame: every n-th pixel; again of the result, all of them."""
    step = max(1, min(rgb_HWC.shape[:2]) // EXAMINED_SIDE_PX)
    # a copy, so that nobody who keeps it keeps the whole frame
    return np.ascontiguousarray(rgb_HWC[::step, ::step])


def _examined(frames_FHWC: Frames) -> Frames:
    """A few frames, every n-th pixel of them."""
    picked = np.unique(np.linspace(0, len(frames_FHWC) - 1, EXAMINED_FRAMES).round().astype(int))
    return np.stack([examined_pixels(rgb_HWC) for rgb_HWC in frames_FHWC[picked]])


def _background(pixels_N3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.median(pixels_N3, axis=0)


def _flat_share(pixels_N3: npt.NDArray[np.uint8], color: npt.NDArray[np.float64]) -> float:
    return float((np.abs(pixels_N3 - color).max(axis=1) <= BLACK).mean())


def _levels(frames_FHWC: Frames, fixes: list[str]) -> Callable[[Frames], Frames]:
    """The change of brightness that makes the background black and the lines bright; adds to `fixes` what it is.

    Raises:
        UsageError: a background that is not black, or values of another range.
    """
    pixels_N3 = frames_FHWC.reshape(-1, 3)
    background, peak = _background(pixels_N3), int(pixels_N3.max())
    if _flat_share(pixels_N3, background) < MIN_FLAT:
        raise UsageError(
            "the skeleton is not drawn on black, but over an image. Draw it on black, or give the video of the "
            "person itself."
        )
    if background.max() > BLACK:
        color = ",".join(str(int(value)) for value in background)
        raise UsageError(
            f"the background is ({color}) instead of black. Draw the skeletons on black, or give the keypoints."
        )
    if 0 < peak <= UNIT:
        raise UsageError(
            f"the largest value is {peak} of 255: these images hold 0 to 1 as whole numbers. Multiply by 255 before "
            "writing them."
        )
    # few and small lines: the median says nothing about them
    bright = pixels_N3.max(axis=1)
    lines = bright[bright >= BLACK]
    top = float(np.percentile(lines, 95)) if len(lines) else 0.0
    black = float(background.min())
    if _LIMITED[0] <= black <= _LIMITED[1] and top <= 240:
        fixes.append("the values went from 16 to 235 (limited range): stretched to 0 to 255")
        return lambda frames: _stretched(frames, 16, 255 / 219)
    if 0 < top < DIM:
        fixes.append(f"the lines had {top / FULL:.0%} of the brightness: raised to 100%")
        return lambda frames: _stretched(frames, 0, FULL / top)
    return lambda frames: frames


def _stretched(frames: Frames, black: float, gain: float) -> Frames:
    table = np.clip((np.arange(256) - black) * gain, 0, FULL).round().astype(np.uint8)
    return table[frames]


# --- lines -----------------------------------------------------------------------------------------------------------


def _refuse_dots(lines_FHW: npt.NDArray[np.bool_]) -> None:
    """Raises UsageError if most frames show nothing but dots."""
    only_dots = [_only_dots(lines_HW) for lines_HW in lines_FHW]
    if np.mean(only_dots) > 0.5:
        raise UsageError(
            "the frames show joints without limbs. Draw the limbs too: the pose encoder reads lines, whose colours "
            "tell left from right."
        )


def _only_dots(lines_HW: npt.NDArray[np.bool_]) -> bool:
    count, _, boxes, _ = cv2.connectedComponentsWithStats(lines_HW.astype(np.uint8), connectivity=8)
    shapes_N2 = boxes[1:count, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    # specks of compression are no dots
    shapes_N2 = shapes_N2[shapes_N2.max(axis=1) >= 3]
    if len(shapes_N2) < 3:
        return False
    small = shapes_N2.max(axis=1) <= max(3, DOT_EXTENT * min(lines_HW.shape))
    round_ = shapes_N2.max(axis=1) <= 2 * shapes_N2.min(axis=1)
    return bool((small & round_).mean() >= 0.9)


def _needs_swap(colors_N3: npt.NDArray[np.uint8], style: str) -> bool:
    """Whether the lines have the style's colours with red and blue swapped. Raises UsageError for other colours.

    The rainbows of OpenPose and DWPose are their own mirror image under that swap, so there it cannot be seen.
    """
    vivid_N3 = colors_N3[np.ptp(colors_N3, axis=1) >= GREY].astype(np.float64)
    distances = {name: _distance(_hues(vivid_N3), _hues(_colors(name))) for name in STYLES}
    best = min(distances.values())
    if distances[style] <= min(MAX_DISTANCE, CLOSE * best):
        # swapped, the hues of `followyourpose` are those of its own colours: only how pale each is tells
        tones_N3, known_M3 = _tones(vivid_N3), _tones(_colors(style))
        return _distance(tones_N3[:, ::-1], known_M3) < 0.95 * _distance(tones_N3, known_M3)
    # the hues of DWPose's body are those of OpenPose: of styles that fit alike, the first
    nearest = next(name for name, distance in distances.items() if distance <= CLOSE * best)
    found = f"drawn in the style {nearest}" if best <= MAX_DISTANCE else "of no style that is known here"
    raise UsageError(
        f"the skeleton's colours are {found}; these weights were trained with {style}. Give keypoints or the video of "
        "the person, from which lposekit draws the right style, or weights that were trained with the other style."
    )


def _colors(style: str) -> npt.NDArray[np.float64]:
    """The colours of a style's body, [N, 3]. Those of hands and face are small, and so many that they fit anything."""
    body = STYLES[style].body
    return np.array(sorted({*(color for _, color in body.limbs), *body.joints}), np.float64)


def _tones(colors_N3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Colours at full brightness: antialiasing on black only darkens a line."""
    return colors_N3 / colors_N3.max(axis=1, keepdims=True)


def _hues(colors_N3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Colours at full brightness and saturation: a video's halved colour planes also make a line paler."""
    return _tones(colors_N3 - colors_N3.min(axis=1, keepdims=True))


def _distance(colors_N3: npt.NDArray[np.float64], known_M3: npt.NDArray[np.float64]) -> float:
    """Mean distance of colours to the nearest known one, each the largest over the channels; 1 without colours."""
    if not len(colors_N3):
        return 1.0
    nearest_N = np.ones(len(colors_N3))
    for known_3 in known_M3:
        nearest_N = np.minimum(nearest_N, np.abs(colors_N3 - known_3).max(axis=1))
    return float(nearest_N.mean())


def describe_fixes(fixes: Sequence[str]) -> str:
    """The fixes as one line for the user."""
    return "; ".join(fixes)
